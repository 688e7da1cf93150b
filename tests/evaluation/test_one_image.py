"""Events and answers of single images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.errors import InputError
from transpike.evaluation.one_image import ImageAnswers, SiteEvents, image_answers, image_events
from transpike.schedules import OffsetSpike, TwoPasses


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def snn(x: Tensor) -> tp.SpikingNetwork:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4))
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
    return tp.convert(nn.Sequential(*layers).eval(), conversion, calibration=x, example_inputs=x)


@pytest.mark.parametrize("schedule", [None, OffsetSpike(2), TwoPasses(2)], ids=str)
def test_events_are_those_of_the_run(snn: tp.SpikingNetwork, x: Tensor, schedule: tp.schedules.Schedule | None) -> None:
    seen = {}
    with torch.no_grad():
        answers = snn(x[:1], steps=5, schedule=schedule, observe=lambda name, _, events: seen.update({name: events}))
    found = image_events(snn, x[0], steps=5, schedule=schedule, number=3, label=2)
    assert [site.site for site in found.sites] == [site.name for site in snn.sites]
    for site in found.sites:
        assert torch.equal(site.events(), seen[site.site][:, 0].long())
        assert list(site.totals) == seen[site.site][:, 0].flatten(1).sum(1).tolist()
    assert torch.allclose(torch.tensor(found.answers), answers[:, 0], atol=1e-4)
    assert torch.allclose(torch.tensor(found.ann), snn.ann(x[:1])[0], atol=1e-4)
    assert (found.image, found.label) == (3, 2)


def test_large_sites_keep_evenly_spaced_channels(snn: tp.SpikingNetwork, x: Tensor) -> None:
    whole, part = (image_events(snn, x[0], steps=4, most_neurons=most).sites[0] for most in (1000, 30))
    assert part.kept == (0, 2, 4)  # 3 of 7 channels of 9 neurons each
    assert torch.equal(part.events(), whole.events()[:, [0, 2, 4]])
    assert (part.neurons, part.totals) == (whole.neurons, whole.totals)
    assert image_events(snn, x[0], steps=4, most_neurons=1).sites[0].kept == (0,)


def test_bits_by_hand() -> None:
    site = SiteEvents("a", (2, 5), 10, (0, 1), (3, 1), ("a040", "0080"))  # 10100 00001 and 00000 00010
    assert site.events().tolist() == [[[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]], [[0] * 5, [0, 0, 0, 1, 0]]]


@pytest.mark.parametrize("schedule", [tp.schedules.Plain(), OffsetSpike(2), TwoPasses(2)], ids=str)
def test_answers_at_every_step(snn: tp.SpikingNetwork, x: Tensor, schedule: tp.schedules.Schedule) -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    found = image_answers(snn, [(x[:4], labels[:4]), (x[4:], labels[4:])], steps=3, schedule=schedule)
    assert [each.label for each in found] == labels.tolist()
    assert [each.image for each in found] == list(range(6))
    with torch.no_grad():
        for t in (1, 2, 3):
            answer = snn(x, steps=t, schedule=schedule)[-1]
            assert [each.answers[t - 1] for each in found] == answer.argmax(1).tolist()
            wanted = answer.softmax(1).amax(1).tolist()
            assert [each.confidence[t - 1] for each in found] == pytest.approx(wanted, abs=1e-4)
        assert [each.ann for each in found] == snn.ann(x).argmax(1).tolist()


@pytest.mark.parametrize(
    ("answers", "settled", "changes"), [((1, 1, 1), 1, 0), ((0, 1, 1), 2, 1), ((1, 0, 1), 3, 2), ((2,), 1, 0)]
)
def test_when_an_answer_settles(answers: tuple[int, ...], settled: int, changes: int) -> None:
    found = ImageAnswers(0, 1, 1, answers, tuple(1.0 for _ in answers))
    assert (found.settled, found.changes) == (settled, changes)


def test_one_answer_per_class_is_needed(x: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
    snn = tp.convert(network, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    with pytest.raises(InputError, match="one answer per class"):
        image_events(snn, x[0], steps=2)
