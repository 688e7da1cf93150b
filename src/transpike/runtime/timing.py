"""When sites send and when the answer is there, for one schedule and number of steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from transpike.graph.normalize import modules_of
from transpike.graph.walk import site_of
from transpike.schedules import Latency, Schedule


@dataclass(frozen=True)
class Timing:
    """How long a run takes, all in time-steps.

    Attributes:
        pass_lengths: steps of each pass, with those that the sites of the longest path lag.
        steps_sent: per site, the steps that it must send in the last pass: T for the readout; sites that follow take
            as many more as they lag, and a probe even where T is shorter.
        latency: the four figures of the answer.
    """

    pass_lengths: tuple[int, ...]
    steps_sent: Mapping[str, int]
    latency: Latency


def timing(network: fx.GraphModule, schedule: Schedule, steps: int) -> Timing:
    """The timing of a network under a schedule for the answer after T = ``steps``.

    Args:
        network: the ANN graph with its sites.
        schedule: how the sites run.
        steps: T.
    """
    modules = modules_of(network)
    found: dict[fx.Node, tuple[int, int, int]] = {}  # the most lags, delays and sites on any path from a node on
    behind: dict[str, tuple[int, int, int]] = {}  # the same from behind a site on
    for node in reversed(network.graph.nodes):
        lags, delays, sites = _most(found[user] for user in node.users)
        found[node] = lags, delays, sites
        if site_of(node, modules) is not None:
            name = str(node.target)
            behind[name] = found[node]
            found[node] = lags + schedule.lag(name), delays + schedule.delay(name), sites + 1
    lags, delays, _ = _most(found.values())
    passes = [schedule.pass_steps(steps, number) for number in range(schedule.passes)]
    return Timing(
        tuple(each + lags for each in passes),
        {site: (passes[-1] if sites else steps) + lag for site, (lag, _, sites) in reversed(behind.items())},
        Latency(
            answer_steps=steps,
            claimed_steps=schedule.claimed_steps(steps),
            pipeline_steps=sum(passes[:-1]) + delays + steps,
            interval=schedule.interval(steps) + lags,
        ),
    )


def _most(paths: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    lags, delays, sites = (max(each) for each in zip((0, 0, 0), *paths, strict=True))
    return lags, delays, sites


class SentSpikes:
    """Adds up, as the ``count`` of runs, the spikes that answers need; those that are withheld do not count.

    Args:
        timings: of answers after several numbers of steps, all read from the same run.

    Attributes:
        totals: per site, the spikes for each answer, those of all passes.
    """

    def __init__(self, timings: Sequence[Timing]) -> None:
        self.timings = timings
        self.totals = {site: [0] * len(timings) for site in timings[0].steps_sent}
        self._calls: Counter[str] = Counter()

    def __call__(self, site: str, spikes: Tensor) -> None:
        """Adds the spikes of one site and pass, ``[S]``."""
        self._calls[site] += 1
        sums = spikes.cumsum(0).tolist()
        for index, each in enumerate(self.timings):
            last = self._calls[site] % len(each.pass_lengths) == 0
            self.totals[site][index] += sums[min(each.steps_sent[site], len(sums)) - 1 if last else -1]
