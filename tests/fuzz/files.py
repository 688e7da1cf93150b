"""Damaged and hostile checkpoints: every one loads rightly, or is refused by a `CheckpointError`.

    python tests/fuzz/files.py --cases 3000 --seed 0
    python tests/fuzz/files.py --only 1234          # one case again

A case is made from its number alone. It is loaded in a process of its own, under a limit of time and of memory; what
loads must run, and give finite answers.
"""

from __future__ import annotations

import copy
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cases import run_cases
from torch import Tensor, nn

import transpike as tp
from transpike.serialization.container import read_container, write_container

SECONDS = 30
MEMORY = 3 * 2**30  # bytes beyond what the process has when it starts
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2.5, -0.5, 4000, 20000, 10**6, 10**9, 2**63, 10**30, -(10**30)),
    *(float("nan"), float("inf"), 1e300, "", "x", "os:system", "../../etc/passwd", "__import__('os')", "9" * 400),
    *([], [[]], [1], [None], ["a", "b"], [1, 20000, 20000], [[1, 100000, 100000]], [[1, 20000, 20000]], [[0]], [[-1]]),
    *(
        {},
        {"kind": "Plain"},
        {"kind": "IF"},
        {"kind": "os:system"},
        {"width": 4000},
        {"blocks": 10**6},
        {"a": {"b": 1}},
    ),
    *({"classes": 10**9}, {"kind": None}, {"kind": ["x"]}, {"blocks": 2000}, {"width": "8"}, {"width": 10**30}),
    *({"kind": "ModelSource", "name": "torchvision:resnet18", "options": {"weights": "DEFAULT"}},),
    *({"kind": "ModelSource", "name": "timm:resnet18", "options": {"checkpoint_path": "/etc/passwd"}},),
    *({"kind": "ModelSource", "name": "torchvision:vit_b_16", "options": {"image_size": 1600}},),
)
DEEP = "[" * 100_000 + "]" * 100_000
_KINDS = (
    "flip",
    "truncate",
    "length",
    "insert",
    "zero",
    "field",
    "field",
    "field",
    "remove",
    "tensor",
    "tensor",
    "text",
)


class Shifted(nn.Module):
    """A network that is not built in, with a constant and an operator that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, 4, 4]`` to ``[N, 3]``."""
        return self.last(torch.max_pool2d(torch.relu(self.first(x - 0.5)), 2).flatten(1))


@dataclass(frozen=True)
class Seed:
    """A good file, whose mutations are tried.

    Attributes:
        name: what it holds.
        data: its bytes.
        tensors: by name.
        header: its JSON header.
        model: makes the model, where the file cannot.
    """

    name: str
    data: bytes
    tensors: dict[str, Tensor]
    header: dict[str, Any]
    model: Callable[[], nn.Module] | None


def seeds(folder: Path) -> list[Seed]:
    """A converted and a tailored built-in network, and converted and plain ones of a user's own."""
    torch.manual_seed(0)
    digits, images = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    small = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    rule = tp.Conversion(threshold=tp.rules.Maximum(tp.rules.PerChannel()), potential=tp.rules.HalfThreshold())
    own = Shifted().eval()
    corrected = tp.Conversion(
        threshold=tp.rules.Percentile(99.0),
        corrections=(tp.rules.BiasCorrection(4),),
        schedule=tp.schedules.OffsetSpike(2),
    )
    made: dict[str, tuple[nn.Module, Callable[[], nn.Module] | None]] = {
        "converted": (tp.convert(small, rule, example_inputs=digits, calibration=digits), None),
        "tailored": (tp.tailor(small, tp.activations.QCFS(4)), None),
        "own": (tp.convert(own, corrected, example_inputs=images, calibration=images), Shifted),
        "plain": (own, Shifted),
    }
    found = []
    for name, (network, model) in made.items():
        path = folder / f"{name}.safetensors"
        tp.save(network, path)
        tensors, header = read_container(path)
        found.append(Seed(name, path.read_bytes(), tensors, header, model))
    return found


def fields(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value[:3])
        for key, item in items:
            yield from fields(item, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with something else at a place."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


def remove(value: Any, at: tuple[Any, ...]) -> Any:
    """A copy of a JSON value without a place."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    del inner[at[-1]]
    return changed


def mutate(seed: Seed, number: int, path: Path) -> str:
    """Writes the mutation with this number; says what it is."""
    chance = random.Random(number)
    kind = chance.choice(_KINDS)
    data = bytearray(seed.data)
    if kind in ("flip", "truncate", "length", "insert", "zero"):
        place = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 4000))
        if kind == "flip":
            data[place] ^= 1 << chance.randrange(8)
        elif kind == "truncate":
            del data[place:]
        elif kind == "length":
            length = chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(data), chance.randrange(len(data))])
            data[:8] = length.to_bytes(8, "little")
        elif kind == "insert":
            data[place:place] = chance.randbytes(chance.randrange(1, 9))
        else:
            data[place : place + 64] = bytes(min(64, len(data) - place))
        path.write_bytes(data)
        return f"{kind} at byte {place}"
    places = list(fields(seed.header))
    shallow = [place for place in places if not place or place[0] != "graph"]
    at = chance.choice(shallow if chance.random() < 0.8 else places)
    if kind == "field":
        value = chance.choice(HOSTILE)
        write_container(path, seed.tensors, put(seed.header, at, value))
        return f"header {'.'.join(map(str, at))} = {str(value)[:60]}"
    if kind == "remove":
        at = at or ("info",)
        write_container(path, seed.tensors, remove(seed.header, at))
        return f"header without {'.'.join(map(str, at))}"
    if kind == "text":
        text = chance.choice([DEEP, "{" * 1000, "", "null", "[]", '{"kind": "spiking"}', "NaN", '{"a": ' * 50_000])
        _write_text(path, seed.tensors, text)
        return f"header text {text[:20]}"
    name = chance.choice(sorted(seed.tensors))
    tensor = seed.tensors[name]
    changes: dict[str, Callable[[], Tensor]] = {
        "nan": lambda: torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 0),
        "inf": lambda: torch.full_like(tensor, float("inf") if tensor.is_floating_point() else 2),
        "negative": lambda: -tensor.abs() - 1,
        "zero": lambda: torch.zeros_like(tensor),
        "int64": lambda: tensor.to(torch.int64),
        "bool": lambda: tensor.to(torch.bool),
        "float64": lambda: tensor.to(torch.float64),
        "float16": lambda: tensor.to(torch.float16),
        "float8": lambda: tensor.to(torch.float8_e4m3fn),
        "complex": lambda: tensor.to(torch.complex64),
        "[3]": lambda: torch.ones(3),
        "[0]": lambda: torch.ones(0),
        "[0, ...]": lambda: tensor.unsqueeze(0)[:0],
        "[1, ...]": lambda: tensor.unsqueeze(0),
        "[..., 1]": lambda: tensor.unsqueeze(-1),
        "flat": lambda: tensor.flatten(),
        "scalar": lambda: torch.ones((), dtype=tensor.dtype),
        "huge": lambda: torch.full_like(tensor, 3e38 if tensor.is_floating_point() else 1),
    }
    what = chance.choice([*changes, "missing", "extra"])
    tensors = dict(seed.tensors)
    if what == "missing":
        del tensors[name]
    elif what == "extra":
        tensors[f"{name}.more"] = torch.ones(2)
    else:
        tensors[name] = changes[what]()
    write_container(path, tensors, seed.header)
    return f"tensor {name}: {what}"


def _write_text(path: Path, tensors: dict[str, Tensor], text: str) -> None:
    """A file with a right digest whose header is any text."""
    from safetensors.torch import save_file

    from transpike.serialization.container import _digest

    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, str(path), {"transpike": text, "sha256": _digest(stored, text)})


def attempt(path: Path, seed: Seed) -> str:
    """Loads a file and runs what it holds: ``"refused"``, ``"right"``, or what is wrong."""
    try:
        network = tp.storage.checkpoint.load_network(path, model=seed.model)
    except tp.errors.CheckpointError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__} while loading: {_line(error)}"
    shape = (1, 8, 8) if seed.model is None else (1, 4, 4)
    try:
        with torch.no_grad():
            x = torch.rand(_samples(network), *shape, generator=torch.Generator().manual_seed(1))
            x = x.to(next(network.parameters()).dtype)
            answer = network(x, steps=3) if isinstance(network, tp.SpikingNetwork) else network(x)
        if any(not bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            return "values that are not finite were loaded"
        if isinstance(network, tp.SpikingNetwork):
            thresholds = [network.site(site.name).theta for site in network.sites]
            if not all(bool((theta > 0).all()) for theta in thresholds):
                return "a threshold that is not positive was loaded"
        return "right" if isinstance(answer, Tensor) else "no tensor"
    except tp.errors.InputError:  # the file says another shape of inputs, consistently
        return "right"
    except BaseException as error:
        return f"{type(error).__name__} while running: {_line(error)}"


def _samples(network: nn.Module) -> int:
    """A batch that potentials of single samples fit, where a file sets such."""
    if isinstance(network, tp.SpikingNetwork):
        for site in network.sites:
            v_init = network.site(site.name).v_init
            if v_init.dim() > max(1, len(site.shape)) and v_init.shape[0] > 1:
                return v_init.shape[0]
    return 2


def _line(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "transpike" in frame.filename]
    at = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{str(error)[:120]}{at}"


def isolated(call: Callable[[], str]) -> str:
    """What a call returns in a process of its own, under the limits."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
            torch.set_num_threads(1)
            os.write(write, call().encode()[:2000])
        finally:
            os._exit(0)
    os.close(write)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        return f"still busy after {SECONDS} s"
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    return text or f"the process ended with status {status}"


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def check(number: int, folder: Path, known: list[Seed]) -> tuple[str, str]:
    """Makes a case and tries it: what it is, and what came of it."""
    seed = known[number % len(known)]
    path = folder / f"case{number}.safetensors"
    what = mutate(seed, number, path)
    try:
        return f"{seed.name}, {what}", isolated(lambda: attempt(path, seed))
    finally:
        path.unlink(missing_ok=True)


def main() -> int:
    """Tries cases of seeds in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        known = seeds(Path(folder))

        def outcome(number: int) -> tuple[str, str]:
            what, found = check(number, Path(folder), known)
            return (found, what) if found in ("refused", "right") else ("wrong", f"{what}: {found}")

        return run_cases("Damaged and hostile checkpoints.", 1000, outcome)


if __name__ == "__main__":
    sys.exit(main())
