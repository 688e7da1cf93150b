"""A study holds the numbers of the functions that it is made of."""

from __future__ import annotations

import base64
import io
import json

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.data import loader
from transpike.data import test_images as chosen_images
from transpike.evaluation.causes import error_causes
from transpike.evaluation.offsets import offset_spikes
from transpike.evaluation.one_image import ImageAnswers
from transpike.evaluation.operations import count_ann_operations, count_operations
from transpike.experiments.study import Study, StudySettings, choose_examples, picture, study_network
from transpike.report import study_page
from transpike.schedules import OffsetSpike, Plain, SignedDigits, Staggered

SCHEDULES = {"cos": OffsetSpike(2), "plain": Plain(), "late": Staggered(1)}
SETTINGS = StudySettings(steps=3, images="40", detail_images=20, counted_images=10, probe_steps=2, examples=4)


@pytest.fixture(scope="module")
def data() -> tp.data.Data:
    pytest.importorskip("sklearn")
    return tp.data.digits()


@pytest.fixture(scope="module")
def snn(data: tp.data.Data) -> tp.SpikingNetwork:
    torch.manual_seed(0)
    ann = tp.tailor(tp.zoo.build("digits-resnet", width=2, blocks=1), tp.activations.QCFS(4, theta_init=2.0)).eval()
    return tp.convert(ann, example_inputs=torch.stack([data.test[index][0] for index in range(4)]))


@pytest.fixture(scope="module")
def study(snn: tp.SpikingNetwork, data: tp.data.Data) -> Study:
    return study_network(snn, data, SCHEDULES, SETTINGS, at={"late": (3,)}, baseline=snn, origin=["transpike report"])


def test_reports_are_those_of_evaluate(study: Study, snn: tp.SpikingNetwork, data: tp.data.Data) -> None:
    batches = loader(chosen_images(data, "40"))
    for label, schedule in SCHEDULES.items():
        wanted = tp.evaluate(snn, batches, steps=3, schedule=schedule, at=(3,) if label == "late" else (1, 2, 3))
        found = study.reports[label]
        assert (found.rows, found.sites, found.ann_top1) == (wanted.rows, wanted.sites, wanted.ann_top1)
    assert study.main == "cos"
    assert study.baseline["ReLU baseline"].rows == study.reports["plain"].rows


def test_details_are_about_the_first_schedule(study: Study, snn: tp.SpikingNetwork, data: tp.data.Data) -> None:
    few = loader(chosen_images(data, "20"), 50)
    assert study.causes == error_causes(snn, few, steps=3, schedule=SCHEDULES["cos"])
    assert study.offsets == offset_spikes(snn, few, {"plain": Plain(), "cos:1": OffsetSpike(2)}, probe_steps=2)
    counted = loader(chosen_images(data, "10"), 50)
    assert study.ann_operations == count_ann_operations(snn, counted)
    runs = {(run.label, run.steps): run for run in study.operations}
    assert list(runs) == [*((label, t) for label in ("cos", "plain") for t in (1, 2, 3)), ("late", 3)]
    for label, t in (("plain", 2), ("late", 3)):
        assert runs[label, t].operations == count_operations(snn, counted, steps=t, schedule=SCHEDULES[label])
        assert runs[label, t].top1 == study.reports[label].row(t).top1
    with torch.no_grad():
        images = torch.stack([data.test[index][0] for index in range(20)])
        ann = snn.ann(images).argmax(1)
        same = [
            (snn(images, steps=t, schedule=SCHEDULES["cos"])[-1].argmax(1) == ann).float().mean() for t in (1, 2, 3)
        ]
    assert study.agreement == pytest.approx([float(value) for value in same])
    assert study.events.schedule == str(SCHEDULES["cos"])


def test_relu_accuracy_is_that_of_the_network_with_relu(
    study: Study, snn: tp.SpikingNetwork, data: tp.data.Data
) -> None:
    torch.manual_seed(0)
    relu = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    images, labels = next(iter(loader(chosen_images(data, "40"))))
    with torch.no_grad():
        hits = (relu(images).argmax(1) == labels).float().mean()
    assert study.relu_top1 == pytest.approx(100 * float(hits))


def test_a_study_is_plain_values(study: Study) -> None:
    record = json.loads(json.dumps(study.to_json(), allow_nan=False))
    assert record["kind"] == "Study"
    assert record["reports"]["plain"]["rows"][0]["steps"] == 1
    assert record["origin"] == ["transpike report"]
    assert study.environment.torch == torch.__version__


def test_a_neuron_without_offsets_is_said(data: tp.data.Data) -> None:
    torch.manual_seed(0)
    relu = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    batches = [images for images, _ in loader(data.calibration, 20, limit=20)]
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), neuron=tp.neurons.Burst())
    snn = tp.convert(relu, conversion, calibration=batches, example_inputs=batches[0])
    found = study_network(snn, data, {}, StudySettings(steps=2, images="10", examples=0, raster=7))
    assert found.offsets == {}
    assert "send 0 or 1" in found.no_offsets
    assert (found.main, found.events.image, found.examples) == ("plain", 7, ())


def answers(image: int, label: int, *given: int) -> ImageAnswers:
    return ImageAnswers(image, label, label, given, tuple(1.0 for _ in given))


def test_a_page_about_digits_has_no_offset_spikes(snn: tp.SpikingNetwork, data: tp.data.Data) -> None:
    schedules = {"digits": SignedDigits(3), "plain": Plain()}
    study = study_network(snn, data, schedules, SETTINGS)
    assert study.offsets == {}
    assert "sends digits" in study.no_offsets
    assert study.causes.digits
    (counted,) = [run for run in study.operations if (run.label, run.steps) == ("digits", 3)]
    events = {layer.layer: layer.events for layer in counted.operations.layers}
    assert (events["stem.0"], events["stages.0.conv1"]) == (False, True)  # an image is multiplied, digits are added
    assert "sends digits" in study_page(study)


def test_examples_are_right_and_wrong_ones_that_settle_last() -> None:
    found = [
        *(answers(0, 1, 1, 1, 1), answers(1, 1, 0, 1, 1), answers(2, 1, 0, 0, 1), answers(3, 1, 1, 0, 1)),
        *(answers(4, 1, 0, 0, 0), answers(5, 1, 1, 1, 0)),
    ]
    assert [each.image for each in choose_examples(found, 4)] == [3, 2, 5, 4]
    assert [each.image for each in choose_examples(found[:5], 4)] == [3, 2, 1, 4]
    assert [each.image for each in choose_examples(found, 100)] == [3, 2, 1, 0, 5, 4]
    assert choose_examples(found, 0) == []


def test_pictures_undo_the_normalisation() -> None:
    image_of = pytest.importorskip("PIL.Image").open
    inputs = tp.InputSpec((3, 2, 2), mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    pixels = torch.tensor([[[0, 255], [51, 102]], [[10, 20], [30, 40]], [[0, 1], [2, 3]]])
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (inputs.mean, inputs.std))
    png = base64.b64decode(picture((pixels / 255 - mean) / std, inputs))
    read = image_of(io.BytesIO(png))
    assert [read.getpixel((x, y)) for y in (0, 1) for x in (0, 1)] == [
        (0, 10, 0),
        (255, 20, 1),
        (51, 30, 2),
        (102, 40, 3),
    ]
    assert picture(torch.zeros(2, 4, 4), inputs) == ""
    assert picture(torch.zeros(8), inputs) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"detail_images": 0}, "detail_images must be at least 1"),
        ({"examples": -1}, "examples must be at least 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudySettings(**settings)


def test_an_image_that_is_not_there(snn: tp.SpikingNetwork, data: tp.data.Data) -> None:
    with pytest.raises(ValueError, match="there is no image 40: the test images have the numbers 0 to 39"):
        study_network(snn, data, SCHEDULES, StudySettings(images="40", raster=40))


def test_a_network_of_several_answers_is_refused(data: tp.data.Data) -> None:
    x = torch.stack([data.test[index][0] for index in range(4)])
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
    snn = tp.convert(network, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    with pytest.raises(tp.errors.InputError, match="one output of shape"):
        study_network(snn, data, {}, SETTINGS)
