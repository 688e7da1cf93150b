"""The converted network as a module: runs, streaming, compile and export, state, errors."""

import copy
import io
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import InputError, StateError, VerificationError
from transpike.testing import (
    TOPOLOGIES,
    assert_same_answer,
    assert_same_spikes,
    dyadic_batch,
    make_dyadic,
    record,
    set_dyadic_thresholds,
)

ZOO = {topology.name: topology for topology in TOPOLOGIES}


def _spiking(topology, batch=3):
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(
        topology.dyadic_model(),
        tp.Conversion(tp.rules.Maximum(tp.PerChannel())),
        example_inputs=inputs,
        calibration=[inputs],
    )
    return set_dyadic_thresholds(snn), inputs


@pytest.fixture(scope="module")
def mlp():
    """A small network and its input; tests must not change it."""
    return _spiking(ZOO["mlp"])


def _argument(inputs):
    return inputs[0] if len(inputs) == 1 else inputs


# ---- running -------------------------------------------------------------------------------------------------------


def test_a_network_small_enough_to_compute_by_hand():
    """Drive 0.75, theta 1, v(0) = 0.5: potentials 1.25 1.0 0.75 1.5, spikes 1 1 0 1; the readout doubles them."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.fill_(0.75)
        model[0].bias.zero_()
        model[2].weight.fill_(2.0)
        model[2].bias.fill_(1.0)
    x = torch.ones(1, 1)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=4 / 3 * x)
    assert float(snn.site("1").theta) == 1.0
    run = record(snn, x, steps=4)
    assert run.drive["1"].flatten().tolist() == [0.75] * 4
    assert run.events["1"].flatten().tolist() == [1, 1, 0, 1]
    assert run.answer.flatten().tolist() == [3.0, 3.0, torch.tensor(7 / 3).item(), 2.5]


def test_the_input_may_change_while_streaming(mlp):
    """Each step's input acts in that step: three different images, against a loop by hand."""
    snn, (x,) = mlp
    images = [x, -x, x.flip(1)]
    one, two = snn.site("1"), snn.site("3")
    model = ZOO["mlp"].dyadic_model()
    v1, v2, total, state = one.v_init, two.v_init, 0.0, None
    with torch.no_grad():
        for t, image in enumerate(images, start=1):
            v1 = v1 + model[0](image)
            s1 = (v1 >= one.theta).float()
            v1 = v1 - one.theta * s1
            v2 = v2 + model[2](one.theta * s1)
            s2 = (v2 >= two.theta).float()
            v2 = v2 - two.theta * s2
            total = total + model[4](two.theta * s2)
            mean, state = snn.step(image, state)
            assert torch.equal(mean, total / t)
            assert int(state.steps) == t


def test_state_is_a_value(mlp):
    """A state can be used twice; what was done with it in between does not matter."""
    snn, (x,) = mlp
    _, state = snn.step(x)
    kept = copy.deepcopy(state)
    first, after = snn.step(x, state)
    snn.step(-x, after)
    assert_same_answer(list(state), list(kept))
    again, _ = snn.step(x, state)
    assert torch.equal(first, again)
    assert not [name for name, _ in snn.named_buffers()]


def test_kernels_agree_when_streaming_starts_from_each_other(mlp):
    snn, (x,) = mlp
    reference = record(snn, x, steps=6, chunk=2, kernel=tp.kernels.KernelPreference.REFERENCE)
    assert_same_spikes(record(snn, x, steps=6, chunk=3, kernel=tp.kernels.KernelPreference.EAGER), reference)


def test_initial_potentials_per_channel_neuron_and_sample():
    """All four shapes that DESIGN names, with the same numbers, give the same spikes."""
    snn, (x,) = _spiking(ZOO["conv"])
    site = snn.site("1")
    per_channel = (torch.arange(4) / 8).view(4, 1, 1)
    runs = []
    for v_init in (per_channel, per_channel.expand(4, 8, 8).clone(), per_channel.expand(3, 4, 8, 8).clone()):
        site.set_initial_potential(v_init)
        runs.append(record(snn, x, steps=5))
    assert_same_spikes(runs[1], runs[0])
    assert_same_spikes(runs[2], runs[0])
    site.set_initial_potential(torch.full((), 0.25))
    scalar = record(snn, x, steps=5)
    assert torch.equal(scalar.events["1"][:, :, 2], runs[0].events["1"][:, :, 2])
    assert not torch.equal(scalar.events["1"], runs[0].events["1"])
    per_sample = torch.zeros(3, 4, 8, 8)
    per_sample[1] = 0.5
    site.set_initial_potential(per_sample)
    mixed = record(snn, x, steps=5)
    site.set_initial_potential(torch.full((), 0.5))
    assert torch.equal(mixed.events["1"][:, 1], record(snn, x, steps=5).events["1"][:, 1])
    site.set_initial_potential(torch.arange(4) / 8)  # one per channel, not per column
    assert_same_spikes(record(snn, x, steps=5), runs[0])
    for wrong in (torch.zeros(5, 1, 1), torch.zeros(8), torch.zeros(4, 8, 7), torch.zeros(2, 3, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"\[4\] \(one per channel\)"):
            site.set_initial_potential(wrong)
    site.set_initial_potential(torch.zeros(5, 4, 8, 8))
    with pytest.raises(ValueError, match=r"v_init of shape \(5, 4, 8, 8\) does not fit"):
        snn(x, steps=1)


def test_thresholds_are_per_layer_or_per_channel():
    snn, (x,) = _spiking(ZOO["conv"])
    site = snn.site("1")
    theta = torch.tensor([0.25, 0.5, 1.0, 2.0])
    site.set_threshold(theta.view(4, 1, 1))
    expected = record(snn, x, steps=5)
    site.set_threshold(theta)
    assert_same_spikes(record(snn, x, steps=5), expected)
    for wrong in (torch.ones(8), torch.ones(1, 4, 1, 1), torch.ones(4, 8, 8)):
        with pytest.raises(ValueError, match="takes one threshold, or 4"):
            site.set_threshold(wrong)
    half = _spiking(ZOO["conv"])[0].half()
    with pytest.raises(ValueError, match=r"positive and finite in torch\.float16"):
        half.site("1").set_threshold(torch.tensor(1e-9))


def test_hard_reset_loses_what_lies_above_the_threshold():
    """Drive 0.75, theta 1, v(0) = 0.5: 1.25 fires and becomes 0, then 0.75, then 1.5 fires."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU())
    nn.init.constant_(model[0].weight, 0.75)
    x = torch.ones(1, 1)
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Maximum(), neuron=tp.neurons.IF(reset=tp.neurons.Reset.HARD)),
        example_inputs=x,
        calibration=4 / 3 * x,
    )
    assert record(snn, x, steps=5).events["1"].flatten().tolist() == [1, 0, 1, 0, 1]


@given(st.integers(-4, 4))
def test_scaling_by_a_power_of_two_changes_no_spike(exponent):
    factor = 2.0**exponent
    snn, (x,) = _spiking(ZOO["mlp"])
    before = record(snn, x, steps=6)
    with torch.no_grad():
        for name, parameter in snn.network.named_parameters():
            if name.endswith(("bias", "theta", "v_init")):
                parameter.mul_(factor)
    after = record(snn, factor * x, steps=6)
    for site, events in before.events.items():
        assert torch.equal(after.events[site], events)
    assert torch.equal(after.answer, factor * before.answer)


# ---- compile and export --------------------------------------------------------------------------------------------

COMPILED = ["conv_batchnorm", "max_pool_on_spikes", "two_inputs_two_outputs", "view_with_input_size", "shared_relu"]


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_step_gives_the_same_bits(name):
    snn, inputs = _spiking(ZOO[name])
    torch.compiler.reset()
    step = torch.compile(snn.step, fullgraph=True, backend="aot_eager")
    rows, state = [], None
    for _ in range(3):
        row, state = step(_argument(inputs), state)
        rows.append(row)
    assert_same_answer(pytree.tree_map(lambda *parts: torch.stack(parts), *rows), snn(*inputs, steps=3))


def test_compiled_step_with_inductor():
    """Inductor may fuse what it likes; on dyadic numbers nothing may change."""
    snn, (x,) = _spiking(ZOO["mlp"])
    torch.compiler.reset()
    step = torch.compile(snn.step, fullgraph=True)
    first, state = step(x)
    second, _ = step(x, state)
    assert torch.equal(torch.stack([first, second]), snn(x, steps=2))


@pytest.mark.parametrize("name", COMPILED)
def test_exported_step_gives_the_same_bits(name):
    snn, inputs = _spiking(ZOO[name])
    argument = _argument(inputs)
    start = torch.export.export(snn.stepper(), (argument,)).module()
    row, state = start(argument)
    expected, wanted = snn.step(argument)
    assert_same_answer((row, list(state)), (expected, list(wanted)))
    going = torch.export.export(snn.stepper(), (argument, state)).module()
    for _ in range(3):
        row, state = going(argument, state)
        expected, wanted = snn.step(argument, wanted)
        assert_same_answer((row, list(state)), (expected, list(wanted)))


def test_exported_program_holds_no_python_of_ours():
    snn, (x,) = _spiking(ZOO["mlp"])
    program = torch.export.export(snn.stepper(), (x,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "transpike.integrate_fire.default" in targets
    assert all(target.startswith(("aten.", "transpike.", "<built-in function getitem>")) for target in targets)


# ---- as a module ---------------------------------------------------------------------------------------------------


def test_it_is_a_module():
    snn, (x,) = _spiking(ZOO["conv_batchnorm"])
    before = snn(x, steps=4)
    assert not snn.training
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    double = copy.deepcopy(snn).double()
    assert_same_answer(double(x.double(), steps=4).float(), before)
    assert_same_answer(snn(x, steps=4), before)
    other, _ = _spiking(ZOO["conv_batchnorm"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_().add_(1.0)
    other.load_state_dict(snn.state_dict())
    assert_same_answer(other(x, steps=4), before)


class Answer(NamedTuple):
    """What a model may return."""

    logits: Any
    extra: Any


class WithFunctionalWeight(nn.Module):
    """A weight that the graph reads itself, besides a constant made while tracing, slices and views."""

    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(4, 6), nn.Parameter(torch.ones(2, 3))

    def forward(self, x):
        hidden = torch.relu(self.first(x)[:, 1:4] + torch.tensor([1.0, 0.5, 0.25]))
        return Answer(nn.functional.linear(hidden, self.weight), None)


@pytest.mark.parametrize("name", ["functional weight", *ZOO])
def test_pickling(name):
    if name == "functional weight":
        x = dyadic_batch((3, 4))
        inputs = (x,)
        snn = tp.convert(
            make_dyadic(WithFunctionalWeight()), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x
        )
    else:
        snn, inputs = _spiking(ZOO[name])
    back = pickle.loads(pickle.dumps(snn))
    assert_same_answer(back(*inputs, steps=5), snn(*inputs, steps=5))
    assert_same_answer(back.step(_argument(inputs))[0], snn.step(_argument(inputs))[0])
    assert back.summary() == snn.summary()
    assert [n.name for n in back.network.graph.nodes] == [n.name for n in snn.network.graph.nodes]
    assert (back.conversion, back.capture) == (snn.conversion, snn.capture)


def test_pickles_of_torch_and_of_tailored_networks():
    torch.manual_seed(0)
    model, x, file = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(3, 4), io.BytesIO()
    tailored = tp.tailor(model, tp.activations.QCFS(4, theta_init=1.0)).eval()
    torch.save(tailored, file)
    file.seek(0)
    back = torch.load(file, weights_only=False)
    assert_same_answer(back(x), tailored(x))
    assert list(back.state_dict()) == list(tailored.state_dict())
    assert tp.conversion.tailor.tailoring(back) == tp.conversion.tailor.tailoring(tailored)
    snn = tp.convert(back, example_inputs=x)
    assert snn.sites == tp.convert(tailored, example_inputs=x).sites  # source lines too


@pytest.mark.parametrize("wrap", [lambda network: network, nn.Sequential])
def test_assigned_tensors_are_used(wrap):
    x = dyadic_batch((3, 4))
    snn = tp.convert(
        make_dyadic(WithFunctionalWeight()), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x
    )
    before, (after, _) = snn(x, steps=4).logits, snn.step(x)
    module = wrap(snn)
    state = {k: 2 * v if k.endswith("network.weight") else v.clone() for k, v in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    assert torch.equal(snn(x, steps=4).logits, 2 * before)
    assert torch.equal(snn.step(x)[0].logits, 2 * after.logits)


def test_gradients_flow_through_time(mlp):
    snn = copy.deepcopy(mlp[0]).requires_grad_(True)
    snn(mlp[1][0], steps=4)[-1].square().sum().backward()
    for name in ("0", "2", "4"):
        gradient = snn.network.get_submodule(name).weight.grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0


def test_clipped_is_the_clipped_network(mlp):
    snn, (x,) = mlp
    model = ZOO["mlp"].dyadic_model()
    seen = {}
    answer = snn.clipped(x, observe=lambda name, value: seen.update({name: value}))
    with torch.no_grad():
        first = torch.minimum(model[0](x).clamp(min=0), snn.site("1").theta)
        second = torch.minimum(model[2](first).clamp(min=0), snn.site("3").theta)
        assert torch.equal(seen["1"], first)
        assert torch.equal(seen["3"], second)
        assert torch.equal(answer, model[4](second))


def test_observing_changes_nothing(mlp):
    snn, (x,) = mlp
    assert_same_answer(record(snn, x, steps=5).answer, snn(x, steps=5))


@pytest.mark.parametrize("structure", ["dict", "list", "nested", "constants", "named", "named in tuple"])
def test_structure_of_the_answer_survives_everywhere(structure):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            h = torch.relu(self.a(x))
            if structure == "dict":
                return {"h": h, "x": x}
            if structure == "constants":
                return h, None, {"n": 3, "name": "net", "x": x}
            if structure.startswith("named"):
                return Answer(h, x) if structure == "named" else (Answer(h, {"x": [None, x]}), x)
            return [h, 2 * h] if structure == "list" else (h, {"more": [h + 1, x]})

    model, x = make_dyadic(Net()), dyadic_batch((3, 4))
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    wanted = pytree.tree_structure(model(x))
    for answer in (
        snn(x, steps=2),
        snn(x, steps=2, chunk=1),
        record(snn, x, steps=2).answer,
        snn.step(x)[0],
        snn.clipped(x),
        snn.ann(x),
    ):
        assert pytree.tree_structure(answer) == wanted
        constants = [leaf for leaf in pytree.tree_leaves(model(x)) if not isinstance(leaf, torch.Tensor)]
        assert [leaf for leaf in pytree.tree_leaves(answer) if not isinstance(leaf, torch.Tensor)] == constants
    snn.verify(x, ann=model)
    exported = torch.export.export(snn.stepper(), (x, snn.step(x)[1])).module()
    assert pytree.tree_structure(exported(x, snn.step(x)[1])[0]) == wanted
    torch.compiler.reset()  # the tests of one process share dynamo's limit of recompilations
    assert pytree.tree_structure(torch.compile(snn.step, fullgraph=True, backend="aot_eager")(x)[0]) == wanted
    assert pytree.tree_structure(tp.tailor(model, tp.activations.QCFS(4))(x)) == wanted
    if structure != "list":  # the image itself is an answer: the same after every step
        assert torch.equal(pytree.tree_leaves(snn(x, steps=3))[-1], x.expand(3, 3, 4))


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps(mlp, steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        mlp[0](mlp[1][0], steps=steps)


def test_no_chunk(mlp):
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        mlp[0](mlp[1][0], steps=2, chunk=0)


UNUSABLE = [
    (torch.full((2, 12), float("nan")), "24 values are NaN or infinite"),
    (torch.full((2, 12), float("inf")), "24 values are NaN or infinite"),
    (torch.tensor([[float("inf")], [-float("inf")]]).expand(2, 12), "24 values are NaN or infinite"),
    (torch.ones(2, 12, dtype=torch.int32), "torch.int32 is not a floating type"),
    (torch.empty(0, 12), "the batch is empty"),
    (torch.ones(2, 12, dtype=torch.float64), "torch.float64 on cpu, the network torch.float32"),
    (torch.ones(2, 13), r"samples have shape \[\[13\]\], the network was converted with \[\[12\]\]"),
    ((torch.ones(2, 12),) * 2, r"takes 1 input\(s\), got 2"),
    ((), "no input given"),
    (np.ones((2, 12), dtype=np.float32), "a tensor is expected, not ndarray"),
]


@pytest.mark.parametrize(("inputs", "message"), UNUSABLE)
def test_unusable_inputs(mlp, inputs, message):
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    for run in (
        lambda: mlp[0](*arguments, steps=2),
        lambda: mlp[0].step(inputs),
        lambda: mlp[0].verify(*arguments),
    ):
        with pytest.raises(InputError, match=message) as caught:
            run()
        assert caught.value.fix


def test_finite_values_with_an_infinite_sum_are_usable(mlp):
    x = torch.full((2, 12), torch.finfo(torch.float32).max)
    assert x.sum().isinf()
    mlp[0].eval()(x, steps=1)


def test_inputs_that_do_not_match():
    snn, (a, b) = _spiking(ZOO["two_inputs_two_outputs"])
    with pytest.raises(InputError, match=r"different batch sizes \[3, 2\]"):
        snn(a, b[:2], steps=1)
    with pytest.raises(InputError, match=r"takes 2 input\(s\), got 1"):
        snn(a, steps=1)
    with pytest.raises(InputError, match=r"takes 2 input\(s\), got 1"):
        snn.step(a)


def test_states_that_do_not_fit(mlp):
    snn, (x,) = mlp
    _, state = snn.step(x)
    with pytest.raises(StateError, match="the state is for 3 samples, the input has 2") as caught:
        snn.step(x[:2], state)
    assert "start a new state" in caught.value.fix
    with pytest.raises(StateError, match="the state has 2 memories, this network 3"):
        snn.step(x, state._replace(memory=state.memory[:2]))
    wide = ((torch.zeros(3, 99),), *state.memory[1:])
    with pytest.raises(StateError, match="the state does not fit"):
        snn.step(x, state._replace(memory=wide))
    with pytest.raises(StateError, match="a State is expected, not tuple"):
        snn.step(x, tuple(state))


def test_unknown_site(mlp):
    with pytest.raises(KeyError, match="no site '2'; sites: 1, 3"):
        mlp[0].site("2")


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_threshold(theta):
    snn, _ = _spiking(ZOO["mlp"])
    with pytest.raises(ValueError, match="thresholds must be positive and finite"):
        snn.site("1").set_threshold(torch.tensor(theta))
    with pytest.raises(ValueError, match="initial potentials must be finite"):
        snn.site("1").set_initial_potential(torch.tensor(float("nan")))


def test_verify_finds_another_network(mlp):
    snn, (x,) = mlp
    model = ZOO["mlp"].dyadic_model()
    assert snn.verify(x, ann=model).difference == 0.0
    with torch.no_grad():
        model[4].bias[0] += 1.0
    with pytest.raises(VerificationError, match="differs from its source"):
        snn.verify(x, ann=model)
    with torch.no_grad():
        model[4].bias[1] = float("nan")
    with pytest.raises(VerificationError, match="nan"):
        snn.verify(x, ann=model)
