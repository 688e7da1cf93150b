"""Recipes as TOML and as records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transpike.activations import QCFS
from transpike.conversion.methods import METHODS
from transpike.data import Preparation
from transpike.errors import DataError, RecipeError
from transpike.experiments.change_recipe import resize, select_rows
from transpike.experiments.recipe import (
    RecipeRow,
    Run,
    Training,
    find_recipe,
    method_runs,
    parse_recipe,
    recipes,
)
from transpike.experiments.runner import run_recipe
from transpike.rules import (
    AnswerThresholds,
    BiasCorrection,
    BlockReconstruction,
    Conversion,
    HalfThreshold,
    MinimumMSE,
    Percentile,
    PerChannel,
)
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain

SMALL = """
about = "two rows"
network = "digits-resnet"
data = "digits"
seed = 1
calibration_images = 64
steps = 4
[[train]]
name = "relu"
epochs = 1
learning_rate = 0.05
[[train]]
name = "slip"
start = "relu"
epochs = 1
learning_rate = 0.01
activation = { levels = 2, slope = 0.2, theta_percentile = 99.0 }
[[row]]
label = "trained"
network = "slip"
images = "50"
[[row]]
label = "direct"
network = "relu"
images = "50"
conversion = { threshold = { name = "percentile", percentile = 99.0, per = "channel" }, potential = "half" }
published = { source = "a table", top1 = { 2 = 12.5 } }
"""


def test_built_in_recipes_parse() -> None:
    found = recipes()
    assert set(found) == {
        "digits",
        "digits-learned",
        "cifar10-resnet20-digits",
        "cifar10-resnet20-digits-trained",
        "cifar10-resnet20-learned",
        "cifar10-resnet20-pretrained",
        "cifar10-resnet20-qcfs",
        "cifar10-resnet20-relu",
        "cifar10-vgg16-qcfs",
        "cos-cifar10",
        "cos-cifar100",
        "cos-imagenet",
        "sliprelu-cifar10",
        "sliprelu-cifar100",
        "sliprelu-imagenet",
    }
    for recipe in found.values():
        assert recipe.rows


def test_what_a_row_says() -> None:
    trained, direct = parse_recipe(SMALL, "small").rows
    assert trained.runs == (Run(Conversion(), (1, 2, 3, 4)),)
    conversion = Conversion(Percentile(99.0, PerChannel()), HalfThreshold())
    expected = RecipeRow("direct", "relu", (Run(conversion, (1, 2, 3, 4)),), "50", 0, {2: 12.5}, "a table")
    assert direct == expected


def row(text: str) -> tuple[Run, ...]:
    return parse_recipe(SMALL + f'[[row]]\nlabel = "more"\nnetwork = "relu"\n{text}', "small").rows[-1].runs


def test_conversions_and_steps_of_a_row() -> None:
    words = 'at = [4, 1]\nconversion = { method = "minimum-mse", steps = "each" }'
    assert set(row(words)) == {Run(METHODS["minimum-mse"](t), (t,)) for t in (1, 4)}
    words = 'at = [4, 1]\nconversion = { method = "accumulate", steps = 8 }'
    assert row(words) == (Run(METHODS["accumulate"](8), (1, 4)),)
    words = 'steps = 2\nschedule = { name = "cos", probe_steps = 3 }'
    assert row(words) == (Run(Conversion(), (1, 2), OffsetSpike(3)),)
    words = 'at = [2]\n[row.conversion]\nthreshold = { name = "minimum-mse", steps = "each" }\n'
    words += (
        'corrections = [{ name = "bias", steps = "each" }]\nschedule = { name = "accumulate", probe_steps = "each" }'
    )
    expected = Conversion.of(MinimumMSE(2), BiasCorrection(2), schedule=AccumulateThenFire(2))
    assert row(words) == (Run(expected, (2,)),)


def test_runs_of_a_method() -> None:
    assert method_runs(METHODS["opi"], (4, 1, 4)) == (Run(METHODS["opi"](4), (1, 4)),)
    assert method_runs(METHODS["cos"], (4, 1)) == tuple(Run(METHODS["cos"](t), (t,)) for t in (1, 4))
    with pytest.raises(ValueError, match="at must name numbers of steps"):
        Run(Conversion(), (0, 1))


def test_the_headline_row_is_what_was_published() -> None:
    (row,) = [
        row
        for row in recipes()["cifar10-resnet20-pretrained"].rows
        if row.label == "accumulate, rho = 8, thresholds and biases trained"
    ]
    at_once = BlockReconstruction(8, weight_rate=0.0, threshold_rate=1e-3, whole=True)
    parts = (MinimumMSE(8, PerChannel()), HalfThreshold(), BiasCorrection(8), at_once, AnswerThresholds(4))
    expected = Conversion.of(*parts, schedule=AccumulateThenFire(8))
    assert row.runs == (Run(expected, (1, 2, 4, 8)),)
    assert METHODS["accumulate-finetuned"](8) == expected
    assert expected.schedule != Plain()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "two rows"', "about = ", "malformed"),
        ("steps = 4\n", "steps = 4\nspeed = 3\n", "speed"),
        ("steps = 4\n", "", "row 'trained' needs steps or at"),
        ("steps = 4\n", "steps = 0\n", "steps must be at least 1"),
        ('network = "slip"', 'network = "slipp"', "slipp"),
        ("levels = 2", "levels = 0", "levels"),
        (
            'name = "percentile"',
            'name = "best"',
            "'best'.*\n.*where: small, row 'direct'.*\n.*known: max",
        ),
        ('name = "percentile", percentile = 99.0', 'name = "minimum-mse"', "minimum-mse needs steps"),
        ("percentile = 99.0, per", "fraction = 99.0, per", "percentile has no 'fraction'"),
        ('per = "channel"', 'per = "pixel"', "pixel"),
        ('potential = "half"', 'potential = "third"', "third"),
        ('start = "relu"', 'start = "later"', "later"),
        ('label = "direct"', 'label = "trained"', "same label"),
        ('label = "direct"', 'label = "direct"\ncalibration_views = -1', "calibration_views"),
        ('label = "direct"', 'label = "direct"\nschedule = "fast"', "schedule names 'fast'"),
        ("percentile = 99.0, per", 'percentile = "each", per', "needs at"),
    ],
)
def test_malformed_recipes(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL.replace(old, new), "small")


def test_a_run_and_its_repetition(tmp_path: Path) -> None:
    recipe = parse_recipe(SMALL, "small")
    said: list[str] = []
    outcome = run_recipe(recipe, tmp_path / "out", device="cpu", say=said.append)
    assert [line for line in said if line.startswith("training")] == [
        "training relu: 1 epochs",
        "training slip: 1 epochs",
    ]
    assert set(outcome.reports) == {"trained", "direct"}
    assert outcome.reports["trained"].images == 50
    assert outcome.published == {"direct": {2: 12.5}}
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["rows"][1]["published"] == {"2": 12.5}
    assert record["rows"][1]["published_in"] == "a table"
    assert record["rows"][0]["runs"][0]["report"]["rows"][3]["steps"] == 4
    said.clear()
    assert run_recipe(recipe, tmp_path / "out", device="cpu", say=said.append) == outcome
    assert [line.split(":")[1].split(",")[0] for line in said] == [" trained before"] * 2
    changed = parse_recipe(SMALL.replace("learning_rate = 0.05", "learning_rate = 0.1"), "small")
    with pytest.raises(RecipeError, match="another version of the recipe"):
        run_recipe(changed, tmp_path / "out", device="cpu")


def test_find_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    assert find_recipe(str(file)).name == "mine"
    with pytest.raises(RecipeError, match="no such file"):
        find_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(RecipeError, match=r"known: cifar10-resnet20-digits, .*digits, .*; or a \*.toml file"):
        find_recipe("absent")


FAMILY = """
about = "three rows"
network = "cifar-resnet20"
data = "cifar10"
preparation = "cos"
seed = 1
calibration_images = 64
at = [1, 2]
[training]
epochs = 3
learning_rate = 0.1
weight_decay = 1e-4
[[train]]
name = "relu"
[[train]]
name = "wide"
network = "cifar-vgg16"
epochs = 2
fallback_rate = 0.05
[[train]]
name = "slip"
start = "relu"
activation = { name = "qcfs", levels = 2 }
[[row]]
label = "A, slip"
network = "slip"
published = { source = "a table", ann = 90, top1 = { 2 = 12.5 } }
[[row]]
label = "B, plain"
network = "wide"
steps = 3
[[row]]
label = "B, other"
published = { source = "a table", top1 = { 5 = 80 } }
"""


def test_what_a_family_says() -> None:
    family = parse_recipe(FAMILY, "family")
    assert family.preparation is Preparation.COS
    relu, wide, slip = family.trainings
    assert relu == Training("relu", 3, 0.1, weight_decay=1e-4)
    assert wide == Training("wide", 2, 0.1, network="cifar-vgg16", weight_decay=1e-4, fallback_rate=0.05)
    assert slip == Training("slip", 3, 0.1, start="relu", activation=QCFS(2), weight_decay=1e-4)
    assert [[run.at for run in row.runs] for row in family.rows] == [[(1, 2)], [(1, 2, 3)], []]
    assert family.rows[0].published_ann == 90.0
    assert family.rows[2] == RecipeRow("B, other", "", (), published={5: 80.0}, published_in="a table")


def test_some_rows_and_what_they_need() -> None:
    family = parse_recipe(FAMILY, "family")

    def chosen(pattern: str) -> tuple[list[str], list[str]]:
        some = select_rows(family, pattern)
        return [row.label for row in some.rows], [one.name for one in some.trainings]

    assert chosen("a, SLIP") == (["A, slip"], ["relu", "slip"])
    assert chosen("b,") == (["B, plain", "B, other"], ["wide"])
    assert chosen("wide") == (["B, plain"], ["wide"])
    assert chosen("b*other") == (["B, other"], [])
    with pytest.raises(RecipeError, match=r"no row has 'C, '.*\n.*family\n.*rows: A, slip, B, plain, B, other"):
        select_rows(family, "C, ")


def test_a_recipe_at_another_size() -> None:
    family = parse_recipe(FAMILY, "family")
    assert resize(family) == family
    small = resize(family, epochs=1, images="20", seed=7)
    assert ([one.epochs for one in small.trainings], small.seed) == ([1, 1, 1], 7)
    assert {row.images for row in small.rows} == {"20"}
    for wrong in ({"epochs": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            resize(family, **wrong)
    with pytest.raises(DataError, match="'all', 'fixed' or a number"):
        resize(family, images="some")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('data = "cifar10"', 'data = "digits"', "preparation is for the CIFAR sets"),
        ('preparation = "cos"', 'preparation = "rts"', "rts"),
        ('start = "relu"', 'start = "relu"\nnetwork = "cifar-vgg16"', "'slip' has start and network"),
        ('name = "wide"', 'name = "relu"', "two trainings have the same name"),
        ("weight_decay = 1e-4", "weight_decay = -1.0", "weight_decay of 'relu' must not be negative"),
        ("fallback_rate = 0.05", "fallback_rate = 0.0", "fallback_rate of 'wide' must be positive"),
        ("ann = 90,", "accuracy = 90,", "published of row 'A, slip' has no 'accuracy'"),
        ("ann = 90,", "ann = 190,", "must be percentages by T"),
        ("{ 5 = 80 }", "{ 0 = 80 }", "must be percentages by T"),
        ("top1 = { 5 = 80 }", "top1 = {}", "'B, other' runs nothing, and needs published numbers"),
        ('source = "a table", top1 = { 5', "top1 = { 5", "'B, other' runs nothing, and needs published numbers"),
        ('label = "B, other"', 'label = "B, other"\nat = [1]', "at"),
    ],
)
def test_malformed_families(old: str, new: str, message: str) -> None:
    assert old in FAMILY
    with pytest.raises(RecipeError, match=message):
        parse_recipe(FAMILY.replace(old, new), "family")
