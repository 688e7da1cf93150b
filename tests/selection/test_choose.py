"""The choice among methods: against evaluate, on rigged cases, with the reasons for what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.conversion.methods import METHODS, Method
from transpike.errors import CalibrationError, ConversionError, InputError
from transpike.neurons import EventKind
from transpike.rules import Statistic, ThresholdRule
from transpike.selection.choose import LatencyKind, choose

QUICK = [METHODS[name] for name in ("percentile", "minimum-mse", "withhold", "cos", "accumulate")]


@dataclass(frozen=True)
class Fixed(ThresholdRule):
    """The same threshold everywhere."""

    theta: float
    granularity: tp.PerLayer = field(default_factory=tp.PerLayer)

    def statistic(self) -> Statistic:
        rule = self

        class Constant(Statistic):
            def update(self, rows: Tensor) -> None:
                pass

            def result(self) -> Tensor:
                return torch.full((1,), rule.theta)

        return Constant()


def fixed(name: str, theta: float) -> Method:
    return Method(name, "", lambda _: tp.Conversion(Fixed(theta)))


def network() -> nn.Module:
    torch.manual_seed(0)
    sizes = [(12, 24), (24, 24), (24, 24)]
    layers = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(24, 5))


def images(count: int = 60) -> Tensor:
    return torch.rand(count, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_picks_the_best_of_a_rigged_field():
    methods = [fixed("deaf", 1e4), fixed("saturated", 1e-4), fixed("right", 1.0), fixed("wide", 60.0)]
    choice = choose(network(), calibration=images(), budget=16, methods=methods)
    assert choice.ranking[0].method == "right"
    assert float(choice.network.site("1").theta) == 1.0
    assert {trial.method for trial in choice.ranking} == {method.name for method in methods}
    assert choice.refused == ()
    assert (choice.images, choice.steps) == ((40, 20), 16)
    deaf = next(trial for trial in choice.ranking if trial.method == "deaf")
    assert deaf.events == 0
    assert not choice.ranking[0].doubt


def test_numbers_are_those_of_evaluate_on_the_images_held_back():
    model, x, seed = network(), images(), 5
    choice = choose(model, calibration=x, budget=4, methods=QUICK, seed=seed, held_back=0.5)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    judges, rest = x[order[:30]], x[order[30:]]
    answers = model(judges)
    for trial in choice.ranking:
        snn = tp.convert(model, METHODS[trial.method](4), calibration=rest, example_inputs=x[:4])
        report = tp.evaluate(snn, [(judges, answers.argmax(1))], steps=4, schedule=trial.schedule)
        assert trial.agreement == pytest.approx(report.row(4).top1)
        assert trial.events == pytest.approx(report.row(4).events)
        assert trial.latency == report.row(4).latency
        error = (snn(judges, steps=4, schedule=trial.schedule)[-1] - answers).square().mean()
        assert trial.error == pytest.approx(float(error.detach()), rel=1e-4)
    orders = [trial.order for trial in choice.ranking]
    assert orders == sorted(orders)


def test_the_winner_is_converted_again_with_all_images():
    model, x = network(), images()
    choice = choose(model, calibration=x, budget=4, methods=[METHODS["percentile"]])
    whole = tp.convert(model, METHODS["percentile"](4), calibration=x, example_inputs=x[:4])
    for site in whole.sites:
        torch.testing.assert_close(choice.network.site(site.name).theta, whole.site(site.name).theta)


def test_equal_agreement_is_decided_by_the_error():
    methods = [fixed("coarse", 1.5), fixed("fine", 1.5001), fixed("coarse too", 1.5)]
    choice = choose(network(), calibration=images(12), budget=64, methods=methods)
    first, *others = choice.ranking
    for trial in others:
        assert (-first.agreement, first.error) <= (-trial.agreement, trial.error)
        assert trial.doubt


class Unlabelled:
    """Batches whose labels must not be looked at."""

    def __iter__(self) -> Iterator[tuple[Tensor, object]]:
        class Forbidden:
            def __getattribute__(self, name: str) -> object:
                raise AssertionError("labels were touched")

        return iter([(images(30), Forbidden()), (images(30), Forbidden())])


def test_labels_are_never_touched():
    assert choose(network(), calibration=Unlabelled(), budget=2, methods=QUICK[:2]).ranking


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # three sites; per method the steps it is tuned for, and T; (3 + 1) rho <= budget for the layer-after-layer ones
        (8, {"percentile": (8, 8), "minimum-mse": (8, 8), "withhold": (5, 5), "cos": (2, 2), "accumulate": (2, 2)}),
        (
            11,
            {"percentile": (11, 11), "minimum-mse": (11, 11), "withhold": (8, 8), "cos": (2, 5), "accumulate": (2, 5)},
        ),
    ],
)
def test_a_pipeline_budget_is_kept_and_used_up(budget, expected):
    choice = choose(network(), calibration=images(), budget=budget, methods=QUICK, latency=LatencyKind.PIPELINE)
    found = {trial.method: (trial.tuned_for, trial.latency.answer_steps) for trial in choice.ranking}
    assert found == expected
    assert {trial.latency.pipeline_steps for trial in choice.ranking} == {budget}
    assert choice.network.latency(choice.steps).pipeline_steps == budget


def test_what_does_not_fit_is_refused_with_its_reason():
    methods = [*QUICK, METHODS["burst"]]
    choice = choose(network(), calibration=images(), budget=3, methods=methods, latency=LatencyKind.PIPELINE)
    reasons = {refusal.method: refusal.reason for refusal in choice.refused}
    assert set(reasons) == {"withhold", "cos", "accumulate", "burst"}
    for name in ("withhold", "cos", "accumulate"):
        assert reasons[name] == "it takes at least 4 pipeline steps, the budget is 3"
    assert reasons["burst"] == "its neurons send count events, allowed are: binary"
    allowed = choose(network(), calibration=images(), budget=3, methods=[METHODS["burst"]], events=tuple(EventKind))
    assert allowed.ranking[0].method == "burst"
    clipped = nn.Sequential(nn.Linear(12, 8), nn.ReLU6(), nn.Linear(8, 3))
    choice = choose(clipped, calibration=images(), budget=3, methods=methods, events=tuple(EventKind))
    (refusal,) = choice.refused
    assert (refusal.method, "stops at theta" in refusal.reason) == ("burst", True)


def test_where_nothing_fits_all_reasons_are_told():
    with pytest.raises(CalibrationError, match="cos: it takes at least 4 pipeline steps, the budget is 2"):
        choose(network(), calibration=images(), budget=2, methods=[METHODS["cos"]], latency=LatencyKind.PIPELINE)


def test_unusable_input():
    with pytest.raises(ConversionError):
        choose(nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 2)), calibration=images(), budget=2)
    with pytest.raises(InputError, match=r"\[N, classes\]"):
        choose(
            nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3)),
            calibration=images().unsqueeze(1),
            budget=2,
        )
    for wrong, message in (({"budget": 0}, "budget"), ({"budget": 2, "held_back": 1.0}, "held_back")):
        with pytest.raises(ValueError, match=message):
            choose(network(), calibration=images(), **wrong)
    with pytest.raises(CalibrationError, match="one image"):
        choose(network(), calibration=images(1), budget=2)
    with pytest.raises(CalibrationError, match="no images"):
        choose(network(), calibration=[], budget=2)
