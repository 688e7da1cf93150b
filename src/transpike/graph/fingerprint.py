"""What a captured graph computes, as plain values: operators in order, their arguments, and constants.

A saved network is compared with the model that it is loaded into. So there are no names of variables, source lines or
identities in a fingerprint, and nothing that only training reads; weights are not in it, since the file holds them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.activations import TrainedActivation

_META = "transpike.fingerprint"
_IDLE = frozenset({"training", "inplace", "momentum"})
"""Settings that change nothing of what a trained network computes."""
_WHOLE = 16  # values of a constant that are kept as they are; of larger ones, as many sums
_PLAIN = int | float | bool | str | None


@dataclass(frozen=True)
class Fingerprint:
    """What a graph computes.

    Attributes:
        operators: one JSON object per operator, in order.
        sources: where each stands in the model's source; empty for one that was read from a file.
    """

    operators: tuple[Mapping[str, Any], ...]
    sources: tuple[str, ...] = ()


def fingerprint_of(gm: nn.Module) -> Fingerprint | None:
    """The fingerprint that was taken when this graph was traced; None for a module that is no graph."""
    found = gm.meta.get(_META) if isinstance(gm, fx.GraphModule) else None
    return found if isinstance(found, Fingerprint) else None


def take_fingerprint(gm: fx.GraphModule, source: Callable[[fx.Node], str]) -> None:
    """Keeps with a freshly traced graph what it computes; what follows may rewrite it.

    Not of one that holds trained activations already: its file is loaded into the model that they replaced ReLUs of.

    Args:
        gm: the graph.
        source: says where an operator stands in the model's source.
    """
    if any(isinstance(module, TrainedActivation) for module in gm.modules()):
        return
    live = _live(gm.graph)
    numbers = {node: index for index, node in enumerate(live)}
    kept = frozenset(gm.state_dict())
    operators = tuple(_operator(node, gm, numbers, kept) for node in live)
    places = (f"module {node.target}: " if node.op == "call_module" else "" for node in live)
    sources = tuple(place + source(node) for place, node in zip(places, live, strict=True))
    gm.meta[_META] = Fingerprint(operators, sources)


def difference(stored: Fingerprint, found: Fingerprint, tolerance: float = 1e-6) -> tuple[str, str] | None:
    """The first operator that differs: what, and where in the model's source; None where all are alike.

    A setting that only one of the two knows is not compared: another version of torch may have brought it.

    Args:
        stored: of the network in the file.
        found: of the model.
        tolerance: of constants, relative to their largest value.
    """
    sources = [*found.sources, *[""] * len(found.operators)]
    for index, (was, now) in enumerate(zip_longest(stored.operators, found.operators)):
        where = sources[min(index, len(found.operators) - 1)] if found.operators else ""
        if was is None:
            return f"the file's graph ends after {index} operators, the model goes on with {_shown(now)}", where
        if now is None:
            return f"operator {index} of the file's graph is {_shown(was)}, where the model ends", where
        if not _alike(was, now, tolerance):
            there, here = _shown(was, now), _shown(now, was)
            return f"operator {index} of the file's graph is {there}, the model's is {here}", where
    return None


def _live(graph: fx.Graph) -> list[fx.Node]:
    """What the answer depends on, and all arguments, in order."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("output", "placeholder") or node in needed:
            needed |= {node, *node.all_input_nodes}
    return [node for node in graph.nodes if node in needed]


def _operator(
    node: fx.Node, gm: fx.GraphModule, numbers: Mapping[fx.Node, int], kept: frozenset[str]
) -> dict[str, Any]:
    args, kwargs = node.args, dict(node.kwargs)
    settings: dict[str, str] = {}
    values: dict[str, list[float]] = {}
    if node.op == "placeholder":
        return {"operator": "input"}
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        operator = _class_name(module)
        if module.state_dict():
            settings["at"] = str(node.target)
        for name, child in module.named_modules():
            _describe(child, f"{name}." if name else "", f"{node.target}.", kept, settings, values)
    elif node.op == "get_attr":
        operator = "constant"
        if str(node.target) in kept:
            operator, settings["at"] = "weight", str(node.target)
        elif isinstance(value := _attribute(gm, str(node.target)), Tensor):
            settings["shape"], values["value"] = _text(tuple(value.shape), numbers), _summary(value)
    elif node.op == "output":
        operator = "output"
    else:
        operator = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "function")
        args, kwargs = _bound(node.target, args, kwargs)
    parts = {
        "arguments": [_text(value, numbers) for value in args],
        "named": {key: _text(value, numbers) for key, value in kwargs.items() if key not in _IDLE},
        "settings": settings,
        "values": values,
    }
    return {"operator": operator, **{key: part for key, part in parts.items() if part}}


def _describe(
    module: nn.Module,
    prefix: str,
    home: str,
    kept: frozenset[str],
    settings: dict[str, str],
    values: dict[str, list[float]],
) -> None:
    """The public settings of one module, and its tensors that are no weights."""
    if prefix:
        settings[f"{prefix}class"] = _class_name(module)
    dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    tensors = {**vars(module), **dict(module.named_buffers(recurse=False))}
    for name, value in tensors.items():
        if isinstance(value, Tensor) and f"{home}{prefix}{name}" not in kept:
            settings[f"{prefix}{name}"], values[f"{prefix}{name}"] = _text(tuple(value.shape), {}), _summary(value)
        elif not (name.startswith("_") or name in _IDLE or dropout) and _plain(value):
            settings[f"{prefix}{name}"] = _text(value, {})


def _plain(value: Any) -> bool:
    return all(map(_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _class_name(module: nn.Module) -> str:
    kind = type(module)
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__


def _attribute(gm: fx.GraphModule, target: str) -> Any:
    value: Any = gm
    for name in target.split("."):
        value = getattr(value, name)
    return value


def _bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a Python function by name, without those that have their default value."""
    if not inspect.isfunction(function):  # versions of Python differ in what they know of builtin ones
        return args, kwargs
    signature = inspect.signature(function)
    given = signature.bind(*args, **kwargs).arguments
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return args, kwargs
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    named = {key: value for key, value in given.items() if _text(value, {}) != _text(defaults[key], {})}
    return (), named


def _text(value: Any, numbers: Mapping[fx.Node, int]) -> str:
    """An argument in words that are the same on every machine; nodes by their number."""
    if isinstance(value, fx.Node):
        return f"%{numbers.get(value, '')}"
    if isinstance(value, list | tuple):
        return f"({', '.join(_text(item, numbers) for item in value)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_text(item, numbers)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return ":".join(_text(item, numbers) for item in (value.start, value.stop, value.step))
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, torch.device):
        return value.type
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout) or value is Ellipsis:
        return str(value)
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _summary(tensor: Tensor) -> list[float]:
    """The values of a constant; of a large one its mean magnitude and sums with fixed weights."""
    flat = tensor.detach().cpu().flatten()
    flat = torch.view_as_real(flat).flatten().double() if flat.is_complex() else flat.double()
    if flat.numel() > _WHOLE:
        flat = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat).copysign(flat) - 1.0)
        place = torch.arange(flat.numel(), dtype=torch.float64)
        sums = [(flat * torch.cos(place * (1.0 + k) / 7.0)).mean() for k in range(_WHOLE - 1)]
        flat = torch.stack([flat.abs().mean(), *sums])
    return [float(value) if math.isfinite(value) else math.copysign(1e308, value) for value in flat.tolist()]


def _alike(was: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> bool:
    if any(was.get(part) != now.get(part) for part in ("operator", "arguments", "named")):
        return False
    if any(value != other for value, other in _both(was, now, "settings")):
        return False
    for value, other in _both(was, now, "values"):
        scale = max([abs(number) for number in (*value, *other)], default=0.0)
        if len(value) != len(other):
            return False
        if any(abs(a - b) > tolerance * scale for a, b in zip(value, other, strict=True)):
            return False
    return True


def _both(was: Mapping[str, Any], now: Mapping[str, Any], part: str) -> Iterator[tuple[Any, Any]]:
    first, second = was.get(part, {}), now.get(part, {})
    return ((first[key], second[key]) for key in first if key in second)


def _shown(operator: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> str:
    """An operator in words; beside another one of its kind only what differs."""
    named = {
        **{f"input {index}": value for index, value in enumerate(operator.get("arguments", []))},
        **operator.get("named", {}),
        **operator.get("settings", {}),
        **{key: _rounded(value) for key, value in operator.get("values", {}).items()},
    }
    if other is not None and operator.get("operator") == other.get("operator"):
        same = [{**other.get(part, {})} for part in ("named", "settings")]
        same += [{f"input {index}": value for index, value in enumerate(other.get("arguments", []))}]
        named = {key: value for key, value in named.items() if all(part.get(key) != value for part in same)}
    text = f"{operator.get('operator')}({', '.join(f'{key}={value}' for key, value in named.items())})"
    return text if len(text) < 300 else f"{text[:300]}..."


def _rounded(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def read_fingerprint(stored: Any) -> Fingerprint:
    """A fingerprint from JSON.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(stored, list):
        raise ValueError("graph must be a list of operators")
    for operator in stored:
        good = isinstance(operator, dict) and isinstance(operator.get("operator"), str)
        good = good and _texts(operator.get("arguments", []))
        for part, fits in (("named", _text_like), ("settings", _text_like), ("values", _numbers)):
            held = operator.get(part, {}) if good else None
            good = isinstance(held, dict) and all(map(fits, held.values()))
        if not good:
            raise ValueError(f"graph holds {str(operator)[:80]}, which is no operator")
    return Fingerprint(tuple(stored))


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(map(_text_like, values))


def _text_like(value: Any) -> bool:
    return isinstance(value, str)


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
