"""When sites send and when the answer is there, against sums by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.runtime.timing import SentSpikes, Timing
from transpike.schedules import AccumulateThenFire, Latency, OffsetSpike, Plain, Staggered, TwoPasses


class Residual(nn.Module):
    """``a``, then a block whose second convolution meets the shortcut, then the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.d(F.relu(self.c(F.relu(self.b(x))) + x))


@pytest.fixture(scope="module")
def snn() -> tp.SpikingNetwork:
    x = torch.ones(2, 4)
    return tp.convert(Residual(), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)


def test_lags_of_a_residual_network(snn: tp.SpikingNetwork) -> None:
    """The block's branch lags by 2 more; the shortcut waits for it."""
    lags = {"relu@0": 1, "relu@1": 2, "relu@2": 4}
    assert [site.name for site in snn.sites] == list(lags)
    assert snn.timing(3, Staggered(0, tuple(lags.items()))) == Timing(
        pass_lengths=(3 + 7,), steps_sent={"relu@0": 3 + 6, "relu@1": 3 + 4, "relu@2": 3}, latency=Latency(3, 3, 10, 10)
    )


def test_schedules_without_lags(snn: tp.SpikingNetwork) -> None:
    names = [site.name for site in snn.sites]
    assert snn.timing(3, Plain()) == Timing((3,), dict.fromkeys(names, 3), Latency(3, 3, 3, 3))
    probed = {"relu@0": 4, "relu@1": 4, "relu@2": 2}  # what follows must see a whole probe, the answer only T steps
    assert snn.timing(2, AccumulateThenFire(4)) == Timing((4,), probed, Latency(2, 6, 14, 8))
    assert snn.timing(6, OffsetSpike(4, iterations=2)) == Timing((6,), dict.fromkeys(names, 6), Latency(6, 14, 30, 14))
    assert snn.timing(3, TwoPasses(4)) == Timing((4, 3), dict.fromkeys(names, 3), Latency(3, 7, 7, 7))
    assert snn.latency(3, TwoPasses(4)) == snn.timing(3, TwoPasses(4)).latency


def test_withheld_spikes_do_not_count(snn: tp.SpikingNetwork) -> None:
    """Two passes of two and of up to three steps, read after one and after three; two calls of the network."""
    timings = [snn.timing(steps, TwoPasses(2)) for steps in (1, 3)]
    sent = SentSpikes(timings)
    for spikes in ([1, 2], [10, 20, 40], [100, 0], [0, 0, 1000]):
        sent("relu@1", torch.tensor(spikes))
    assert sent.totals == {"relu@0": [0, 0], "relu@1": [3 + 10 + 100, 3 + 70 + 100 + 1000], "relu@2": [0, 0]}
