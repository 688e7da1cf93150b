from __future__ import annotations

import json
from pathlib import Path

import pytest

from transpike.data import digits
from transpike.errors import RecipeError
from transpike.experiments.recipe import find_recipe, parse_recipe, recipes, run_recipe, threshold_rule
from transpike.experiments.recipe import test_images as images_of
from transpike.rules import Maximum, MinimumMSE, Percentile, PerChannel, PerLayer

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
threshold = { rule = "percentile", percentile = 99.0, per = "channel" }
potential = "half"
published = { source = "a table", top1 = { 2 = 12.5 } }
"""


def test_built_in_recipes_parse() -> None:
    found = recipes()
    assert set(found) == {"digits", "cifar10-resnet20-qcfs", "cifar10-resnet20-relu", "cifar10-vgg16-qcfs"}
    for recipe in found.values():
        assert recipe.variants


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
    assert record["rows"][1]["published"] == {"source": "a table", "top1": {"2": 12.5}}
    assert record["rows"][0]["report"]["rows"][3]["steps"] == 4
    said.clear()
    again = run_recipe(recipe, tmp_path / "out", device="cpu", say=said.append)
    assert again.reports == outcome.reports
    assert not [line for line in said if line.startswith("training")]
    changed = parse_recipe(SMALL.replace("learning_rate = 0.05", "learning_rate = 0.1"), "small")
    with pytest.raises(RecipeError, match="another version of the recipe"):
        run_recipe(changed, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "two rows"', "about = ", "malformed"),
        ("steps = 4\n", "steps = 4\nspeed = 3\n", "speed"),
        ("steps = 4\n", "", "steps"),
        ('network = "slip"', 'network = "slipp"', "slipp"),
        ("levels = 2", "levels = 0", "levels"),
        ('rule = "percentile"', 'rule = "best"', "best"),
        ('per = "channel"', 'per = "pixel"', "pixel"),
        ('potential = "half"', 'potential = "third"', "third"),
        ('start = "relu"', 'start = "later"', "later"),
    ],
)
def test_malformed_recipes(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL.replace(old, new), "small")


def test_find_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SMALL)
    assert find_recipe(str(file)).name == "mine"
    with pytest.raises(RecipeError, match="no such file"):
        find_recipe(str(tmp_path / "absent.toml"))


def test_pretrained_weights_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSPIKE_PRETRAINED", raising=False)
    text = SMALL.replace("steps = 4", 'steps = 4\nweights = "w.th"')
    with pytest.raises(RecipeError, match="TRANSPIKE_PRETRAINED"):
        run_recipe(parse_recipe(text, "small"), tmp_path, device="cpu")


def test_words() -> None:
    assert threshold_rule("maximum") == Maximum(PerLayer())
    assert threshold_rule("percentile", "channel", percentile=99.0) == Percentile(99.0, PerChannel())
    assert threshold_rule("minimum-mse", steps=8) == MinimumMSE(8)
    for wrong, message in (
        ({"rule": "minimum-mse"}, "'minimum-mse' needs steps"),
        ({"rule": "maximum", "steps": 8}, "'maximum' has no 'steps'; it has: nothing to set"),
        ({"rule": "fast"}, "unknown threshold rule 'fast'; known: maximum, percentile, minimum-mse, gauss"),
        ({"rule": "maximum", "per": "pixel"}, "not per 'pixel'"),
    ):
        with pytest.raises(ValueError, match=message):
            threshold_rule(**wrong)
    data = digits()
    assert len(images_of(data, "all")) == len(data.test)
    assert len(images_of(data, "12")) == 12
    for wrong in ("some", "0", "-3"):
        with pytest.raises(RecipeError, match="'all', 'fixed' or a number"):
            images_of(data, wrong)
