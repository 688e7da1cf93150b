"""The module that a user means, whatever it is wrapped in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import transpike as tp
from transpike.errors import CalibrationError, InputError, ModelError, TranspikeError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
RULE = tp.Conversion(threshold=tp.rules.Maximum())


def distributed() -> nn.Module:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        return nn.parallel.DistributedDataParallel(net())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: nn.DataParallel(net()),
        lambda: torch.compile(net()),
        lambda: AveragedModel(net()),
        lambda: torch.compile(nn.DataParallel(AveragedModel(net()))),
        distributed,
    ],
    ids=["DataParallel", "compile", "AveragedModel", "three", "DistributedDataParallel"],
)
def test_wrappers_are_taken_off(wrap: Callable[[], nn.Module]) -> None:
    wrapped = wrap()
    wanted = tp.convert(net(), RULE, example_inputs=X, calibration=X)(X, steps=4)
    assert torch.equal(tp.convert(wrapped, RULE, example_inputs=X, calibration=X)(X, steps=4), wanted)
    assert tp.inspect(wrapped, X).model == "Sequential"
    tailored = tp.tailor(wrapped, tp.activations.QCFS(4), example_inputs=X)
    assert set(net().state_dict()) < set(tailored.state_dict())
    choice = tp.choose(wrapped, calibration=X, budget=2, methods=[tp.methods["opi"]])
    assert choice.ranking[0].method == "opi"


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 4))


def quantised() -> nn.Module:
    model = net()
    model.register_buffer("scale", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    return model


def with_parameter(value: Tensor) -> nn.Module:
    model = net()
    model.register_buffer("extra", value)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(net()), "torch.jit"),
        (lambda: torch.jit.trace(net(), X), "torch.jit"),
        (lambda: torch.export.export(net(), (X,)), "torch.export"),
        (lambda: torch.export.export(net(), (X,)).module(), "torch.export"),
        (lambda: net().state_dict(), r"state_dict[\s\S]*load_state_dict"),
        (lambda: nn.ReLU, r"class[\s\S]*ReLU\(\)"),
        (lambda: net().forward, "Module is expected"),
        (lambda: None, "NoneType"),
        (lambda: "resnet18", "str"),
        (lazy, r"0\.weight has no shape yet"),
        (quantised, "scale is a quantised tensor"),
        (lambda: net().to("meta"), r"0\.weight is a meta tensor"),
        (lambda: with_parameter(torch.eye(3).to_sparse()), "extra is a sparse tensor"),
        (lambda: with_parameter(torch.ones(2, dtype=torch.complex64)), "extra is a complex tensor"),
    ],
)
@pytest.mark.parametrize("verb", ["convert", "inspect", "tailor", "choose"])
def test_what_is_no_usable_model_is_named_with_the_way_out(make: Callable[[], Any], message: str, verb: str) -> None:
    calls: dict[str, Callable[[Any], Any]] = {
        "convert": lambda model: tp.convert(model, RULE, example_inputs=X, calibration=X),
        "inspect": lambda model: tp.inspect(model, X),
        "tailor": lambda model: tp.tailor(model, tp.activations.QCFS(4), example_inputs=X),
        "choose": lambda model: tp.choose(model, calibration=X, budget=2),
    }
    with pytest.raises(ModelError, match=message) as caught:
        calls[verb](make())
    assert caught.value.fix
    assert caught.value.where.startswith(verb)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_a_weight_that_is_no_number_is_called_that(value: float, word: str) -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[1, 3] = value
    for call in (
        lambda: tp.convert(model, RULE, example_inputs=X, calibration=X),
        lambda: tp.inspect(model, X),
        lambda: tp.tailor(model, tp.activations.QCFS(4)),
    ):
        with pytest.raises(InputError, match=rf"weight 2\.weight holds {word}"):
            call()


@pytest.mark.parametrize(
    ("name", "value"), [("running_var", -1.0), ("running_var", torch.inf), ("running_mean", torch.inf)]
)
def test_statistics_that_no_batch_has(name: str, value: float) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    assert tp.inspect(model, X).convertible
    getattr(model[1], name)[2] = value
    with pytest.raises(InputError, match="running statistics of 1"):
        tp.inspect(model, X)


def test_a_mask_may_hold_infinity() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    assert tp.inspect(Masked(), X).convertible


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (X.to("meta"), "meta"),
        (X.to_sparse(), "sparse"),
        (X.to(torch.complex64), "complex"),
        (torch.quantize_per_tensor(X, 0.1, 0, torch.quint8), "quantised"),
        (torch.nested.nested_tensor([X[0], X[1]]), "nested"),
    ],
    ids=["meta", "sparse", "complex", "quantised", "nested"],
)
def test_inputs_that_no_network_takes(x: Tensor, kind: str) -> None:
    snn = tp.convert(net(), RULE, example_inputs=X, calibration=X)
    for call in (
        lambda: snn(x, steps=2),
        lambda: snn.step(x),
        lambda: tp.convert(net(), RULE, example_inputs=x, calibration=X),
        lambda: tp.convert(net(), RULE, example_inputs=X, calibration=x),
    ):
        with pytest.raises((InputError, CalibrationError), match=kind):
            call()


@pytest.mark.parametrize("steps", [2.0, 2.5, True, float("nan"), "3", None, 0, -1, 10**20])
def test_steps_are_a_whole_number(steps: Any) -> None:
    snn = tp.convert(net(), RULE, example_inputs=X, calibration=X)
    labels = torch.zeros(6, dtype=torch.long)
    for call in (
        lambda: snn(X, steps=steps),
        lambda: snn.timing(steps),
        lambda: tp.evaluate(snn, [(X, labels)], steps=steps),
        lambda: tp.choose(net(), calibration=X, budget=steps),
        lambda: tp.search_lags(snn, calibration=X, budget=steps),
        lambda: tp.choose_confidence(snn, calibration=X, steps=steps),
        lambda: tp.answer_early(snn, X, steps=steps, confidence=0.9),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


@pytest.mark.parametrize("schedule", ["cos", tp.schedules.Plain, 3])
def test_a_schedule_is_a_schedule(schedule: Any) -> None:
    snn = tp.convert(net(), RULE, example_inputs=X, calibration=X)
    labels = torch.zeros(6, dtype=torch.long)
    for call in (
        lambda: snn(X, steps=2, schedule=schedule),
        lambda: snn.step(X, schedule=schedule),
        lambda: snn.latency(2, schedule),
        lambda: snn.engine.report(schedule),
        lambda: tp.evaluate(snn, [(X, labels)], steps=2, schedule=schedule),
        lambda: tp.Conversion(schedule=schedule),
    ):
        with pytest.raises(ValueError, match="schedule takes"):
            call()


@pytest.mark.parametrize("chunk", [2.5, True, "2", 0])
def test_a_chunk_is_a_whole_number(chunk: Any) -> None:
    snn = tp.convert(net(), RULE, example_inputs=X, calibration=X)
    with pytest.raises(ValueError, match="chunk must be"):
        snn(X, steps=2, chunk=chunk)


def test_evaluate_takes_a_converted_network() -> None:
    with pytest.raises(ModelError, match="not converted"):
        tp.evaluate(net(), [(X, torch.zeros(6, dtype=torch.long))], steps=2)  # type: ignore[arg-type]
    for call in (
        lambda: tp.search_lags(net(), calibration=X, budget=2),  # type: ignore[arg-type]
        lambda: tp.choose_confidence(net(), calibration=X, steps=2),  # type: ignore[arg-type]
        lambda: tp.answer_early(net(), X, steps=2, confidence=0.9),  # type: ignore[arg-type]
    ):
        with pytest.raises(ModelError, match="not converted"):
            call()
    assert issubclass(ModelError, TranspikeError)
