from dataclasses import replace

import pytest
from sweeps import small_sweep

from transpike.activations import Gradient, SlipReLU, ThetaPercentile
from transpike.experiments.recipe import Training
from transpike.experiments.sweep import Search, Setting, Trial, find_search, first_difference


def test_a_grid_has_every_combination_once_with_every_seed():
    sweep = small_sweep(
        levels=[4, 1], slopes=(0.5, 0.0), shifts=(0.5, 0.0), gradients=["paper"], theta_inits=(8.0,), seeds=(1, 0)
    )
    wanted = [
        SlipReLU(n, c, d, gradient=Gradient.PAPER, theta_init=8.0)
        for n in (1, 4)
        for c in (0.0, 0.5)
        for d in (0.0, 0.5)
    ]
    assert [setting.activation for setting in sweep.grid()] == wanted
    trials = sweep.trials()
    assert [trial.seed for trial in trials] == [0] * 8 + [1] * 8
    assert len(set(trials)) == 16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": ()}, "levels must name at least one value"),
        ({"slopes": (0.5, 0.5)}, "slopes must not name a value twice"),
        ({"slopes": (1.5,)}, r"slope must be a number in \[0, 1\]"),
        ({"levels": (0,)}, "levels"),
        ({"criterion_steps": 8}, "criterion_steps must be one of at"),
        ({"images": "validation"}, "images must be"),
        ({"samples": 3}, "samples belongs to"),
        ({"search": "random"}, "samples belongs to"),
        ({"search": "random", "samples": 0}, "samples must be at least 1"),
        ({"seeds": (-1,)}, "seeds must be at least 0"),
        ({"gradients": ("steep",)}, "gradients"),
        ({"training": Training("relu", 1, 0.1)}, "training must have a name of its own"),
        ({"training": Training("slip", 1, 0.1, activation=SlipReLU(1, 0.5))}, "training must have a name"),
        ({"relu": Training("other", 1, 0.1)}, "relu must be named"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        small_sweep(**settings)


def test_a_random_search_draws_other_settings_each_once_and_more_samples_keep_the_first():
    grid = small_sweep(slopes=tuple(k / 10 for k in range(10)))
    three, nine, all_ = (replace(grid, search=Search.RANDOM, samples=n) for n in (3, 9, 99))
    assert nine.settings()[:3] == three.settings()
    assert len(set(nine.settings())) == 9
    assert nine.settings() != grid.settings()[:9]
    assert sorted(map(str, all_.settings())) == sorted(map(str, grid.settings()))


def test_the_first_difference_is_named_with_both_values():
    one = small_sweep()
    assert first_difference(one, small_sweep()) == ""
    assert first_difference(one, replace(one, levels=(1,), seeds=(3,))) == "levels was [1, 2], and is [1]"
    longer = replace(one, training=replace(one.training, epochs=9))
    assert "epochs=2" in first_difference(one, longer)
    assert "epochs=9" in first_difference(one, longer)


def test_a_trial_is_known_by_all_that_its_numbers_depend_on():
    one = small_sweep()
    trial = one.trials()[0]
    key = one.key(trial, "data", "1")
    assert key == small_sweep(levels=(1, 2, 4), slopes=(0.2,), seeds=(0, 7)).key(trial, "data", "1")
    a = trial.setting.activation
    others = [
        (one, Trial(trial.setting, 1), "data", "1"),
        (one, Trial(Setting("other", a), 0), "data", "1"),
        *(
            (one, Trial(Setting("digits-resnet", replace(a, **change)), 0), "data", "1")
            for change in (
                {"levels": 3},
                {"slope": 0.3},
                {"shift": 0.25},
                {"ramp_shift": 0.1},
                {"gradient": Gradient.PAPER},
                {"theta_init": ThetaPercentile(98.0)},
            )
        ),
        (one, trial, "other data", "1"),
        (one, trial, "data", "2"),
        (replace(one, at=(1, 2)), trial, "data", "1"),
        (replace(one, relu=replace(one.relu, epochs=3)), trial, "data", "1"),
        (replace(one, training=replace(one.training, learning_rate=0.06)), trial, "data", "1"),
        (replace(one, images="100"), trial, "data", "1"),
    ]
    keys = [sweep.key(other, data, version) for sweep, other, data, version in others]
    assert len({key, *keys}) == 1 + len(others)


def test_an_unknown_search_is_told_what_there_is():
    assert find_search("optuna") is Search.OPTUNA
    with pytest.raises(ValueError, match="did you mean random"):
        find_search("randon")


def test_what_is_not_usual_stands_in_the_name():
    names = [
        str(Setting("digits-resnet", SlipReLU(2, 0.2, theta_init=start))) for start in (ThetaPercentile(99.0), 8.0)
    ]
    assert names == ["N=2, c=0.2", "N=2, c=0.2, theta=8"]
    odd = SlipReLU(2, 0.2, 0.0, -0.25, Gradient.PAPER, ThetaPercentile(98.5))
    assert str(Setting("x", odd)) == "N=2, c=0.2, delta=0, delta1=-0.25, gradient=paper, theta=p98.5"
