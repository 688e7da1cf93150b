"""The Triton kernel by Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transpike.kernels import KernelPreference, integrate_fire, triton

INTERPRETED = {**os.environ, "TRITON_INTERPRET": "1"}  # read when the kernel is made, so in a process of its own
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

AGAINST_THE_REFERENCE = """
import itertools, torch
from transpike.kernels import reference, triton
torch.manual_seed(0)
sent = []
populations = {
    (3, 5): [(), (5,)],
    (2, 6, 4, 4): [(), (6, 1, 1), (6, 4, 4), (4, 4), (1, 1, 4)],
    (2, 700, 3): [(700, 1)],
    (4,): [()],
}
for shape, thetas in populations.items():
    for theta, soft, dtype in itertools.product(thetas, (True, False), (torch.float16, torch.float32, torch.float64)):
        drive = 0.7 * torch.randn(5, *shape, dtype=dtype)
        channels_last = torch.rand(5, *shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
        for currents in (drive, drive[:1].expand(5, *shape), channels_last):
            v, threshold = torch.rand(shape, dtype=dtype), torch.rand(theta, dtype=dtype) + 0.3
            wanted = reference.integrate_fire(currents, v, threshold, soft)
            found = triton.integrate_fire(currents, v, threshold, soft)
            assert all(map(torch.equal, wanted, found)), (shape, theta, soft, dtype)
            sent += [float(wanted[0].float().mean())]
assert 0.3 < sum(sent) / len(sent) < 0.7
print("equal")
"""

IN_NETWORKS = """
import torch
import transpike as tp
from transpike.kernels import KernelPreference
from transpike.testing import TOPOLOGIES, record, set_dyadic_thresholds
for topology in [topology for topology in TOPOLOGIES if topology.name in ("mlp", "pad_and_slice", "depthwise_relu6")]:
    inputs = topology.dyadic_inputs(4)
    snn = tp.convert(
        topology.dyadic_model(), tp.Conversion(tp.rules.Maximum()), calibration=[inputs], example_inputs=inputs
    )
    set_dyadic_thresholds(snn)
    with torch.no_grad():
        runs = [record(snn, *inputs, steps=4, kernel=KernelPreference(kernel)) for kernel in ("triton", "reference")]
    for site, events in runs[0].events.items():
        assert torch.equal(events, runs[1].events[site]), (topology.name, site)
    assert torch.equal(runs[0].answer, runs[1].answer), topology.name
print("equal")
"""

FOR_A_GPU = """
import itertools, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from transpike.kernels.triton import _kernel
kernel = _kernel()
for number, soft in itertools.product(("fp16", "fp32", "fp64"), (True, False)):
    signature = {name: "i32" for name in kernel.arg_names}
    signature |= {name: f"*{number}" for name in ("drive", "v", "theta", "events", "after")}
    signature |= {"soft_reset": "constexpr", "block": "constexpr"}
    source = ASTSource(fn=kernel, signature=signature, constexprs={"soft_reset": soft, "block": 1024})
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
print("compiled")
"""


@needs_triton
def test_it_compiles_for_a_gpu(tmp_path: Path) -> None:
    here = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    here["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run([sys.executable, "-c", FOR_A_GPU], capture_output=True, text=True, env=here)
    assert result.stdout == "compiled\n", result.stderr


@needs_triton
def test_every_event_and_potential_is_that_of_the_reference() -> None:
    code = [sys.executable, "-c", AGAINST_THE_REFERENCE]
    result = subprocess.run(code, capture_output=True, text=True, env=INTERPRETED)
    assert result.stdout == "equal\n", result.stderr


@needs_triton
def test_trajectories_and_invariants_hold() -> None:
    tests = str(Path(__file__).with_name("test_integrate_fire.py"))
    command = [sys.executable, "-m", "pytest", tests, "-k", "triton", "-p", "no:xdist"]
    result = subprocess.run(command, capture_output=True, text=True, env=INTERPRETED)
    assert result.returncode == 0, result.stdout


@needs_triton
def test_networks_give_the_events_of_the_reference() -> None:
    result = subprocess.run([sys.executable, "-c", IN_NETWORKS], capture_output=True, text=True, env=INTERPRETED)
    assert result.stdout == "equal\n", result.stderr


@pytest.mark.skipif(triton.interpreted(), reason="the interpreter takes what is on the CPU")
def test_on_a_cpu_it_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="asked for by name, but"):
        integrate_fire(torch.ones(1, 2), torch.zeros(2), torch.ones(()), kernel=KernelPreference.TRITON)
