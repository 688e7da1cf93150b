"""The compiled kernels against the torch ones: bit for bit, on every instruction set that this CPU has."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.functional import expected_count
from transpike.kernels import KernelPreference, integrate_fire, native, reference, runs_native
from transpike.kernels.offset_probe import probe
from transpike.schedules import AccumulateThenFire, OffsetSpike
from transpike.schedules.exact_potential import exact_potential
from transpike.schedules.offset_spike import shift

compiled = pytest.importorskip("transpike.kernels._native")
pytestmark = pytest.mark.usefixtures("every_instruction_set")


@st.composite
def populations(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drive ``[S, N, *]``, potential and threshold in every layout; real numbers, to compare roundings."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    shape = draw(
        st.sampled_from(
            [(1,), (0,), (3, 7), (2, 5, 3, 3), (1, 16, 9, 9), (2, 3, 4), (4, 1, 17, 33), (0, 4, 2), (700, 2)]
        )
    )
    steps = draw(st.sampled_from([1, 2, 3, 4, 8, 17, 64]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    drive = torch.randn(steps, *shape, generator=generator, dtype=dtype) * 0.8 + 0.3
    layout = draw(st.sampled_from(["plain", "constant", "channels last", "every other"]))
    if layout == "constant":
        drive = drive[:1].expand(steps, *shape)
    elif layout == "channels last" and len(shape) == 4:
        drive = drive.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (steps, shape[0]))
    elif layout == "every other":
        drive = drive.repeat_interleave(2, 0)[::2]
    kind = draw(st.sampled_from(["scalar", "channel", "neuron", "last"]))
    sizes = {"scalar": (), "channel": (*shape[1:2], *[1] * (len(shape) - 2)), "neuron": shape[1:], "last": shape[-1:]}
    theta = 0.5 + torch.rand(sizes[kind] if len(shape) > 1 else (), generator=generator, dtype=dtype)
    v = (torch.rand(shape, generator=generator, dtype=dtype) - 0.2) * theta
    return drive, v, theta


@given(populations(), st.booleans())
def test_integrate_fire_is_the_reference(population, soft: bool) -> None:
    drive, v, theta = population
    before = v.clone()
    events, after = integrate_fire(drive, v, theta, soft_reset=soft, kernel=KernelPreference.NATIVE)
    wanted, wanted_v = reference.integrate_fire(drive, v, theta, soft)
    assert torch.equal(events, wanted)
    assert torch.equal(after, wanted_v)
    assert torch.equal(v, before)  # the caller's potential is not changed


@given(populations(), st.integers(1, 4))
def test_offset_potential_is_the_theorem(population, iterations: int) -> None:
    drive, start, theta = population
    v, first = start, probe(drive, start, theta)
    for _ in range(iterations):
        seen = probe(drive, v, theta)
        v = v + shift(seen, first.residual + (first.fired - seen.fired) * theta, theta, drive.shape[0], 1e-3)
    assert torch.equal(native.offset_potential(drive, start, theta, iterations, 1e-3), v)


@given(populations())
def test_exact_potential_is_that_of_the_torch_programme(population) -> None:
    drive, start, theta = population
    total = torch.zeros_like(start)
    for current in drive:  # in the order of the steps, as the kernel adds
        total = total + current
    wanted = exact_potential(drive, start, theta, expected_count(total, theta, start, drive.shape[0]))
    assert torch.equal(native.exact_potential(drive, start, theta), wanted)


@given(populations(), st.integers(1, 20))
def test_accumulate_sends_the_count_evenly(population, steps: int) -> None:
    drive, start, theta = population
    rho = drive.shape[0]
    total = torch.zeros_like(start)
    for current in drive:
        total = total + current
    count = expected_count(total, theta, start, rho).double()
    events = native.accumulate(drive, start, theta, steps)
    assert events.shape == (steps, *start.shape)
    odd = torch.arange(math.prod(start.shape[1:])).view(start.shape[1:]) % 2 == 1
    for t in range(1, steps + 1):  # Bresenham's line: the nearest whole number, halves upwards or, in turn, downwards
        nearest = torch.where(odd, torch.ceil(count * t / rho - 0.5), torch.floor(count * t / rho + 0.5))
        assert torch.equal(events[:t].sum(0).double(), nearest)


def test_what_is_not_a_number_is_no_index() -> None:
    drive = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.5]] * 3)
    found = native.exact_potential(drive, torch.full((4,), 0.5), torch.ones(()))
    assert found[3] == 0.5
    events, _ = integrate_fire(drive, torch.zeros(4), torch.ones(()), kernel=KernelPreference.NATIVE)
    assert torch.equal(events, torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))


def test_gradients_flow_behind_the_native_kernel() -> None:
    drive = torch.randn(5, 2, 3)
    gradients = []
    for kernel in (KernelPreference.NATIVE, KernelPreference.EAGER):
        leaf = drive.clone().requires_grad_()
        integrate_fire(leaf, torch.zeros(2, 3), torch.ones(()), kernel=kernel)[0].sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_kernel_asked_for_by_name_is_used_or_raises(dtype: torch.dtype) -> None:
    drive = torch.zeros(2, 3, dtype=dtype)
    with pytest.raises(RuntimeError, match=r"asked for by name, but it takes float32 and float64"):
        integrate_fire(drive, drive[0], torch.ones((), dtype=dtype), kernel=KernelPreference.NATIVE)
    assert not runs_native(KernelPreference.AUTO, drive)


def test_without_the_library_auto_says_so_once_and_native_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: (None, "no compiler was found"))
    native._notice.cache_clear()
    drive, v = torch.ones(2, 3), torch.zeros(3)
    with pytest.warns(native.NativeKernelWarning, match="no compiler was found"):
        events, _ = integrate_fire(drive, v, torch.ones(()))
    assert torch.equal(events, torch.ones(2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integrate_fire(drive, v, torch.ones(()))
    native._notice.cache_clear()
    with pytest.raises(RuntimeError, match="no compiler was found"):
        integrate_fire(drive, v, torch.ones(()), kernel=KernelPreference.NATIVE)
    with pytest.raises(RuntimeError, match="no compiler was found"):
        native.accumulate(drive, v, torch.ones(()), 2)


def test_the_binding_refuses_wrong_arrays() -> None:
    drive, v, theta = torch.zeros(2, 6), torch.zeros(6), torch.ones(1)
    with pytest.raises(ValueError, match="one value per neuron"):
        compiled.integrate_fire(drive, theta, 6, True, torch.zeros(5), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="like drive"):
        compiled.integrate_fire(drive, theta, 6, True, v, torch.zeros(3, 6))
    with pytest.raises(ValueError, match="do not divide"):
        compiled.integrate_fire(drive, torch.ones(4), 1, True, v, torch.zeros(2, 6))
    with pytest.raises(ValueError, match="contiguous"):
        compiled.offset_potential(torch.zeros(6, 2).T, theta, 6, 1, 1e-3, v)
    with pytest.raises(ValueError, match="one step"):
        compiled.exact_potential(torch.zeros(0, 6), theta, 6, v)
    with pytest.raises(TypeError):
        compiled.integrate_fire(drive.double(), theta, 6, True, v, torch.zeros(2, 6))
    with pytest.raises(ValueError, match="does not have that instruction set"):
        compiled.use_instruction_set("sse9")


def test_schedules_name_the_kernel_they_run() -> None:
    from transpike.neurons import IF, SiteParameters
    from transpike.schedules import SiteContext

    drive = torch.zeros(4, 2, 3, dtype=torch.bfloat16)
    parameters = SiteParameters(torch.ones((), dtype=torch.bfloat16), torch.zeros((), dtype=torch.bfloat16))
    for schedule in (OffsetSpike(4), AccumulateThenFire(4)):
        with pytest.raises(RuntimeError, match="asked for by name"):
            schedule.emit(SiteContext("site", drive, IF(), parameters, None, 0, KernelPreference.NATIVE))


def test_rows_are_added_up_by_every_instruction_set() -> None:
    module = pytest.importorskip("transpike.kernels._native")
    before = module.instruction_set()
    rows = torch.arange(3 * 256, dtype=torch.float32).reshape(3, 256)  # sums below 2^24 are exact
    try:
        for name in module.instruction_sets():
            module.use_instruction_set(name)
            assert module.add_up(rows, 5) == (5 * rows.sum(1)).tolist()
    finally:
        module.use_instruction_set(before)
    with pytest.raises(ValueError, match="multiples of 128"):
        module.add_up(torch.ones(2, 100), 1)
    with pytest.raises(ValueError, match="one pass"):
        module.add_up(rows, 0)
