from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import transpike as tp
from transpike.errors import DataError, InputError
from transpike.network.spiking import SpikingNetwork
from transpike.runtime.encoding import Coding
from transpike.schedules import Latency, OffsetSpike, Plain, Schedule, Staggered, TwoPasses, Wait
from transpike.testing import record

T = 6


def make(classes: int = 7) -> SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, classes)
    )
    x = torch.randn(40, 1, 6, 6)
    return tp.convert(
        model, tp.Conversion(tp.rules.Percentile(95.0), tp.rules.HalfThreshold()), calibration=x, example_inputs=x[:2]
    )


def batches(classes: int = 7, size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(30, 1, 6, 6, generator=generator)
    labels = torch.randint(classes, (30,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=size)


def by_hand(snn: SpikingNetwork, steps: int) -> dict[str, np.ndarray]:
    """One image at a time, one step at a time, NumPy counting."""
    images, labels = batches().dataset.tensors
    top1, top5 = np.zeros(steps), np.zeros(steps)
    events = {site.name: np.zeros(steps) for site in snn.sites}
    for image, label in zip(images, labels, strict=True):
        counts: dict[str, float] = dict.fromkeys(events, 0.0)

        def add(name: str, _: torch.Tensor, spikes: torch.Tensor, counts: dict = counts) -> None:
            counts[name] = float(spikes.sum())

        for t in range(1, steps + 1):
            answer = snn(image[None], steps=t, observe=add)[-1, 0].numpy()
            order = np.argsort(-answer, kind="stable")
            top1[t - 1] += order[0] == label
            top5[t - 1] += label in order[:5]
            for name, count in counts.items():
                events[name][t - 1] += count
    return {"top1": 100 * top1 / 30, "top5": 100 * top5 / 30, **{n: e / 30 for n, e in events.items()}}


def test_counts_agree_with_a_loop_over_images_and_steps() -> None:
    snn = make()
    expected = by_hand(snn, T)
    report = tp.evaluate(snn, batches(), steps=T)
    sites = [site.name for site in snn.sites]
    assert report.images == 30
    assert [row.steps for row in report.rows] == list(range(1, T + 1))
    assert np.allclose([row.top1 for row in report.rows], expected["top1"])
    assert np.allclose([row.top5 for row in report.rows], expected["top5"])
    assert np.allclose([row.events for row in report.rows], sum(expected[name] for name in sites))
    for site in report.sites:
        assert site.events == pytest.approx(expected[site.name][-1])
        assert site.rate == pytest.approx(expected[site.name][-1] / (T * site.neurons))
    images, labels = batches().dataset.tensors
    assert report.ann_top1 == pytest.approx(100 * float((snn.ann(images).argmax(1) == labels).double().mean()))
    assert report.row(3).latency == Latency(3, 3, 3, 3)
    with pytest.raises(KeyError, match="no row for T = 9"):
        report.row(9)


class Branches(nn.Module):
    """One site feeds two others, which the last layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.relu(self.a(x.flatten(1)))
        return self.out(torch.relu(self.b(first)) + torch.relu(self.c(first)))


# first site, second, third: steps sent for the answer after t, by hand
LAGS = (("relu@0", 1), ("relu@1", 2), ("relu@2", 0))
SENT = [
    (Plain(), lambda t: (t, t, t)),
    (Staggered(0, LAGS, Wait.INTEGRATE), lambda t: (t + 2, t, t)),  # the third runs ahead; that is not needed
    (Staggered(0, LAGS, Wait.WITHHOLD), lambda t: (t + 2, t, t)),
    (OffsetSpike(4), lambda t: (max(4, t), t, t)),  # the probes of the other two need four steps
    (TwoPasses(3), lambda t: (3 + t, 3 + t, 3 + t)),  # `record` puts the passes behind one another
]


@pytest.mark.parametrize(("schedule", "sent"), SENT, ids=[repr(schedule) for schedule, _ in SENT])
def test_all_spikes_that_are_sent_count(schedule: Schedule, sent) -> None:
    torch.manual_seed(0)
    images = batches().dataset.tensors[0]
    snn = tp.convert(
        Branches(),
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=images,
        example_inputs=images,
    )
    names = [site.name for site in snn.sites]
    report = tp.evaluate(snn, batches(), steps=T, schedule=schedule)
    for t in range(1, T + 1):
        events = record(snn, images, steps=t, schedule=schedule).events
        counts = [float(events[name][:steps].sum()) for name, steps in zip(names, sent(t), strict=True)]
        assert report.row(t).events == pytest.approx(sum(counts) / 30)
    for site, count, steps in zip(report.sites, counts, sent(T), strict=True):
        assert site.events == pytest.approx(count / 30)
        assert site.rate == pytest.approx(count / (30 * 8 * steps))
        assert 0 < site.rate < 1


@pytest.mark.parametrize("settings", [{"chunk": 1}, {"chunk": 4}, {"memory_mib": 0}, {"dtype": torch.float32}])
def test_memory_bounds_change_nothing(settings: dict) -> None:
    snn = make()
    assert tp.evaluate(snn, batches(), steps=T, **settings).rows == tp.evaluate(snn, batches(), steps=T).rows


def test_top5_with_few_classes_is_complete() -> None:
    assert tp.evaluate(make(3), batches(3), steps=2).row(1).top5 == 100.0


@dataclass(frozen=True)
class Again(Plain):
    """Plain, but declared as if rows depended on T."""

    streamable = False
    prefix_consistent = False


def test_schedules_without_prefixes_run_again_for_each_row() -> None:
    snn = make()
    plain = tp.evaluate(snn, batches(), steps=T)
    again = tp.evaluate(snn, batches(), steps=T, schedule=Again(), memory_mib=1)
    assert [row.steps for row in again.rows] == [1, 2, 4]
    assert [(row.top1, row.events) for row in again.rows] == [
        (plain.row(t).top1, plain.row(t).events) for t in (1, 2, 4)
    ]
    assert [row.steps for row in tp.evaluate(snn, batches(), steps=T, at=[5, 2]).rows] == [2, 5]


class Killed(Exception):
    pass


def interrupted(after: int) -> DataLoader:
    class Loader(DataLoader):
        def __iter__(self):
            for index, batch in enumerate(super().__iter__()):
                if index == after:
                    raise Killed
                yield batch

    return Loader(batches().dataset, batch_size=5)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("transpike.evaluation.evaluate")  # the package exports the function of that name

    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    snn, cache = make(), tmp_path / "run.json"
    with pytest.raises(Killed):
        tp.evaluate(snn, interrupted(4), steps=T, cache=cache)
    assert json.loads(cache.read_text())["content"]["unfinished"]["batches"] == 4
    seen = []
    whole = snn.ann
    monkeypatch.setattr(snn, "ann", lambda images: (seen.append(len(images)), whole(images))[1])
    report = tp.evaluate(snn, batches(size=5), steps=T, cache=cache)
    assert seen == [5, 5]  # only the two batches that were missing
    straight = tp.evaluate(make(), batches(size=5), steps=T)
    assert (report.rows, report.sites, report.ann_top1) == (straight.rows, straight.sites, straight.ann_top1)
    seen.clear()
    assert tp.evaluate(snn, batches(size=5), steps=T, cache=cache) == report
    assert seen == []


def test_a_cache_of_something_else_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "run.json"
    snn = make()
    first = tp.evaluate(snn, batches(), steps=2, cache=cache)
    other = [(images + 1, labels) for images, labels in batches()]
    assert tp.evaluate(snn, other, steps=2, cache=cache).rows == tp.evaluate(snn, other, steps=2).rows
    snn.site(snn.sites[0].name).set_threshold(torch.tensor(100.0))
    assert tp.evaluate(snn, batches(), steps=2, cache=cache).row(2).events < first.row(2).events


@pytest.mark.parametrize("content", ['{"key": ', "[1, 2]", '{"key": "", "report": {}}', "notes of mine"])
def test_a_foreign_file_is_never_overwritten(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "run.json"
    cache.write_text(content)
    with pytest.raises(DataError, match="no cache that transpike wrote"):
        tp.evaluate(make(), batches(), steps=2, cache=cache)
    assert cache.read_text() == content


@pytest.mark.parametrize("index", [0, 13, 29])
@pytest.mark.parametrize("what", ["images", "labels"])
def test_other_data_anywhere_is_noticed(tmp_path: Path, index: int, what: str) -> None:
    cache, snn = tmp_path / "run.json", make()
    images, labels = (tensor.clone() for tensor in batches().dataset.tensors)
    tp.evaluate(snn, batches(), steps=2, cache=cache)
    if what == "images":
        images[index] = -images[index]
    else:
        labels[index] = (labels[index] + 1) % 7
    other = DataLoader(TensorDataset(images, labels), batch_size=8)
    cached, fresh = (tp.evaluate(snn, other, steps=2, cache=file) for file in (cache, None))
    assert (cached.rows, cached.ann_top1) == (fresh.rows, fresh.ann_top1)
    assert tp.evaluate(snn, other, steps=2, cache=cache) == cached  # which is the cache's now


@pytest.mark.parametrize(
    "settings",
    [{"steps": 3}, {"at": [2]}, {"readout_delay": 1}, {"schedule": OffsetSpike(2)}, {"coding": Coding.POISSON}],
)
def test_other_settings_are_noticed(tmp_path: Path, settings: dict) -> None:
    cache, snn = tmp_path / "run.json", make()
    tp.evaluate(snn, batches(), steps=2, cache=cache)
    settings = {"steps": 2, **settings}
    assert tp.evaluate(snn, batches(), cache=cache, **settings).rows == tp.evaluate(snn, batches(), **settings).rows


def test_the_cache_knows_the_data_and_the_network(tmp_path: Path) -> None:
    cache, snn = tmp_path / "run.json", make()
    images, labels = batches().dataset.tensors
    fewer = DataLoader(TensorDataset(images[:28], labels[:28]), batch_size=8)
    assert len(fewer) == len(batches())  # the same number of batches, the last one smaller
    assert tp.evaluate(snn, fewer, steps=2, cache=cache).images == 28
    assert tp.evaluate(snn, batches(), steps=2, cache=cache).images == 30
    for count in (1, 3):  # iterators have no length
        pairs = list(batches())[:count]
        assert tp.evaluate(snn, iter(pairs), steps=2, cache=cache).images == 8 * count

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(9, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.conv(x))
            return self.fc(nn.functional.max_pool2d(h + self.conv(h), 2).flatten(1))

    torch.manual_seed(2)
    model, reports = Residual(), []
    for pooling in (tp.MaxPooling.RUNNING, tp.MaxPooling.PER_STEP):
        pooled = tp.convert(
            model, tp.Conversion(tp.rules.Maximum()), calibration=images, example_inputs=images, max_pooling=pooling
        )
        cached = tp.evaluate(pooled, batches(), steps=8, cache=cache).rows
        assert cached == tp.evaluate(pooled, batches(), steps=8).rows
        reports.append(cached)
    assert reports[0] != reports[1]


def test_an_unfinished_run_on_other_data_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("transpike.evaluation.evaluate")
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    snn, cache = make(), tmp_path / "run.json"
    with pytest.raises(Killed):
        tp.evaluate(snn, interrupted(4), steps=T, cache=cache)
    images, labels = batches().dataset.tensors
    for index in (0, 12, 19):
        other = labels.clone()
        other[index] = (other[index] + 1) % 7
        with pytest.raises(DataError, match="not that of the unfinished run"):
            tp.evaluate(snn, DataLoader(TensorDataset(images, other), batch_size=5), steps=T, cache=cache)
    with pytest.raises(DataError, match="not that of the unfinished run"):  # less than was counted
        tp.evaluate(snn, DataLoader(TensorDataset(images[:15], labels[:15]), batch_size=5), steps=T, cache=cache)


def test_potentials_of_particular_samples_are_refused() -> None:
    snn = make()
    site = snn.sites[0]
    snn.site(site.name).set_initial_potential(torch.zeros(8, *site.shape))
    with pytest.raises(InputError, match="particular samples"):
        tp.evaluate(snn, batches(), steps=2)


def test_report_survives_json() -> None:
    report = tp.evaluate(make(), batches(), steps=2)
    assert tp.Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    with pytest.raises(ValueError, match="no field speed"):
        tp.Report.from_json({**report.to_json(), "speed": 99})
    with pytest.raises(ValueError, match="a Row is no report"):
        tp.Report.from_json(report.to_json()["rows"][0])


def test_errors() -> None:
    snn = make()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tp.evaluate(snn, batches(), steps=0)
    with pytest.raises(ValueError, match=r"rows must lie in 1 \.\. 2"):
        tp.evaluate(snn, batches(), steps=2, at=[3])
    with pytest.raises(DataError, match="nothing to evaluate"):
        tp.evaluate(snn, [], steps=2)
    x, y = next(iter(batches()))
    for wrong in (x, (x, y, y), (x, y.float()), (x, y[:3]), (x[:0], y[:0]), (x, y.view(-1, 1)), ("a", "b")):
        with pytest.raises(DataError, match="not a pair"):
            tp.evaluate(snn, [wrong], steps=2)
    with pytest.raises(DataError, match="labels run from 7 to 7, the network has 7 outputs"):
        tp.evaluate(snn, [(x, torch.full_like(y, 7))], steps=2)
    with pytest.raises(InputError, match="NaN"):
        tp.evaluate(snn, [(x * float("nan"), y)], steps=2)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    maps = tp.convert(net, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    with pytest.raises(InputError, match=r"one output of shape \[N, classes\]"):
        tp.evaluate(maps, [(x, y)], steps=2)
