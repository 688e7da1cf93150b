"""What each operator is to a sequence of spikes, and which calls are activations that become neurons."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transpike.graph.grid import GRID_MODULES, InputGrid
from transpike.graph.linear_operators import BILINEAR, INPUT, LINEAR_MODULES, Change, Form, form_of


class Role(Enum):
    """What an operator is to the conversion."""

    LINEAR = "linear in time, if the arguments are that change"
    MAX_POOL = "temporal operator"
    SIZE = "reads a shape"
    OTHER = "not linear in time"


class MaxPooling(Enum):
    """How max-pooling runs in time.

    ``RUNNING``, the default: moved in front of the activation it follows; elsewhere it emits the increase of the
    maximum of the running sums. T steps add up to the maximum of the sums, so the network converges to its source.

    ``PER_STEP``: the maximum of each step's values: with spikes a logical or. Overestimates, and does not converge.

    ``AVERAGE``: average pooling in its place, as the papers do, although the network was trained otherwise.
    """

    RUNNING = "running"
    PER_STEP = "per_step"
    AVERAGE = "average"


class GlobalMaxPool(nn.Module):
    """Maximum over some dimensions, as a module: what ``torch.amax(x, dim)`` becomes.

    Args:
        dim: dimensions to reduce, never the batch.
        keepdim: keep them with size 1.
    """

    def __init__(self, dim: int | tuple[int, ...], keepdim: bool) -> None:
        super().__init__()
        self.dim = (dim,) if isinstance(dim, int) else tuple(dim)
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """``[N, *]`` without, or with size 1 in, the dimensions."""
        return torch.amax(x, self.dim, self.keepdim)


class GlobalAveragePool(nn.Module):
    """Mean over the dimensions that a `GlobalMaxPool` reduces."""

    def __init__(self, pool: GlobalMaxPool) -> None:
        super().__init__()
        self.dim = pool.dim
        self.keepdim = pool.keepdim

    def forward(self, x: Tensor) -> Tensor:
        """``[N, *]`` without, or with size 1 in, the dimensions."""
        return torch.mean(x, self.dim, self.keepdim)


class FixedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What a functional BatchNorm with stored statistics becomes, for any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any ``[N, C, *]``."""


_KEEP_CHANNELS_LAST = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)

MAXIMUM_CALLS = {torch.amax, "amax"}
"""Calls that `GlobalMaxPool` stands for."""

MAX_POOL_MODULES: tuple[type[nn.Module], ...] = (
    GlobalMaxPool,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
DIVISIONS = {operator.truediv, torch.div, torch.divide, torch.true_divide, "div", "divide", "true_divide"}
_SIZE_METHODS = frozenset(
    [
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "get_device"),
        *("is_contiguous", "is_floating_point", "is_complex"),
    ]
)
_SIZE_FUNCTIONS: frozenset[Any] = frozenset(
    (torch.numel, torch.is_floating_point, torch.is_complex, torch.is_tensor)  # a tuple: their types differ
)
_SIZE_ATTRIBUTES = frozenset(
    ["shape", "ndim", "device", "dtype", "layout", "is_cuda", "requires_grad", "itemsize", "nbytes"]
)

MAX_POOL_FUNCTIONS: Mapping[Any, type[nn.Module]] = {
    F.max_pool1d: nn.MaxPool1d,
    F.max_pool2d: nn.MaxPool2d,
    F.max_pool3d: nn.MaxPool3d,
    torch.max_pool1d: nn.MaxPool1d,
    torch.max_pool2d: nn.MaxPool2d,
    torch.max_pool3d: nn.MaxPool3d,
    F.adaptive_max_pool1d: nn.AdaptiveMaxPool1d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    F.adaptive_max_pool3d: nn.AdaptiveMaxPool3d,
}
DROPOUT_FUNCTIONS: Mapping[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    torch.dropout: nn.Dropout,
}

_COMPUTING_METHODS = ("forward", "_conv_forward")
_HOMES = (__name__, InputGrid.__module__)


def is_a(module: nn.Module | None, classes: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is one of torch's (or ours) and computes what that class computes.

    A subclass may do anything in a forward of its own; torch's own subclasses and parametrized classes inherit theirs.
    """
    if not isinstance(module, classes):
        return False
    methods = [getattr(type(module), name, None) for name in _COMPUTING_METHODS]
    homes = [str(method.__module__) for method in methods if method is not None]
    return all(home in _HOMES or home.startswith("torch.nn.modules.") for home in homes)


_ADVICE: Mapping[str, str] = {
    "lstm gru rnn": "recurrent layers are not converted; they may stand in front of the first neurons, where no spikes "
    "arrive, or behind the last",
    "attention": "let attention be traced into: do not name it in leaf_modules",
}
"""What the user can do about operators, by words in their names."""

_OTHERS = (
    "replace it by operators of torch that need no weights of their own; any operator may stand in front of the first "
    "neurons, where no spikes arrive, or behind the last"
)


def advice(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """What the user can do about an operator that cannot be converted."""
    text = operator_name(node, modules).lower()
    return next((what for words, what in _ADVICE.items() if any(word in text for word in words.split())), _OTHERS)


def leave_name(node: fx.Node) -> str:
    """The name under which a node is listed in ``leave``: its module path, else its node name."""
    return str(node.target) if node.op == "call_module" else node.name


def is_left(node: fx.Node, modules: Mapping[str, nn.Module], leave: Collection[str]) -> bool:
    """Whether one of the names under which a user lists operators means this node."""
    return not names_of(node, modules).isdisjoint(leave)


def names_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> set[str]:
    """Under which names ``leave`` means a node: its own, its class or function's, those of the module that calls it."""
    path = leave_name(node)
    names = {node.name, path, path.split("@")[0], operator_name(node, modules).rsplit(".", 1)[-1]}
    stack = node.meta.get("nn_module_stack")
    if stack and node.op != "call_module":
        owner, cls = list(stack.values())[-1]
        names |= {str(owner)} | ({cls.__name__} if isinstance(cls, type) else set())
    return names


def operator_name(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Readable name of what a node calls, for example ``torch.nn.GELU`` or ``torch.nn.functional.softmax``."""
    if node.op == "call_module":
        cls = type(modules[str(node.target)])
        if cls.__module__.startswith("torch.nn.modules"):
            return f"torch.nn.{cls.__name__}"
        return f"{cls.__module__}.{cls.__name__}"
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    if node.op == "call_function":
        return str(fx.node._get_qualified_name(node.target)) if callable(node.target) else str(node.target)
    return f"{node.op} {node.target}"


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, by position or keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def role_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Role:
    """Looks a call up in the table; ``match_activation`` has priority and is asked elsewhere."""
    target = node.target
    if node.op == "call_module":
        module = modules[str(target)]
        if is_a(module, MAX_POOL_MODULES):
            return Role.OTHER if getattr(module, "return_indices", False) else Role.MAX_POOL
    elif target in _SIZE_METHODS | _SIZE_FUNCTIONS or (target is getattr and node.args[1] in _SIZE_ATTRIBUTES):
        return Role.SIZE
    return Role.OTHER if _form(node, modules) is None else Role.LINEAR


def change_of(
    node: fx.Node, modules: Mapping[str, nn.Module], moving: Collection[fx.Node], dtype: torch.dtype | None
) -> Change:
    """What becomes of the result of an operator in time.

    Args:
        node: the call.
        modules: of its graph.
        moving: the values that differ from step to step.
        dtype: of the result; None if that is no tensor.
    """
    form = _form(node, modules)
    if form is None:
        return Change(reason="it is not linear in time")
    if node.target in DIVISIONS and argument(node, 1, "other") in moving:
        return Change(reason="it divides by a signal that changes from step to step")
    change = form.changes(node, moving)
    if not change.still and dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        return Change(reason=f"it rounds to {dtype}, which is not linear in time")
    return change


_OFFSETS: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._BatchNorm, nn.modules.padding._ConstantPadNd)
"""Modules that give something for zeros although they have no bias."""

_PADDING = {F.pad: 3, "constant_pad_nd": 2, torch.constant_pad_nd: 2}
"""Functions that pad, and where their value stands."""


def vanishes_at_rest(node: fx.Node, modules: Mapping[str, nn.Module], moving: Collection[fx.Node]) -> bool:
    """Whether an operator that is linear in time surely gives zeros where these arguments are zero."""
    form = _form(node, modules)
    if node.op == "call_module":
        module = modules[str(node.target)]
        return not isinstance(module, _OFFSETS) and getattr(module, "bias", None) is None
    if form is None or node.target is F.batch_norm:
        return False
    if node.target in _PADDING and argument(node, _PADDING[node.target], "value") not in (None, 0, 0.0):
        return False
    return form.vanishes(node, moving)


def takes_batch_statistics(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether this is a BatchNorm without stored statistics."""
    if node.op != "call_module":
        return node.target is F.batch_norm and bool(argument(node, 5, "training", False))
    module = modules[str(node.target)]
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def _form(node: fx.Node, modules: Mapping[str, nn.Module]) -> Form | None:
    if node.op != "call_module":
        return form_of(node)
    module = modules[str(node.target)]
    if takes_batch_statistics(node, modules):
        return None
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return None  # statistics of the sample; `modularize_batchnorm` replaces those with stored ones
    if is_a(module, nn.Bilinear):
        return BILINEAR
    return INPUT if is_a(module, (*LINEAR_MODULES, *GRID_MODULES, GlobalAveragePool)) else None


_RELU_FUNCTIONS = {F.relu, F.relu_, torch.relu, torch.relu_}
_CLAMP_FUNCTIONS = {torch.clamp, torch.clip, "clamp", "clip", "clamp_", "clip_"}
_MAXIMUM_FUNCTIONS = {torch.maximum, torch.max, torch.fmax, "maximum", "max", "fmax"}
_CLAMP_MIN_FUNCTIONS = {torch.clamp_min, "clamp_min", "clamp_min_"}


def match_activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """A fresh module that computes what this call computes, if it is a ReLU or a ReLU clipped from above.

    Returns ``nn.ReLU`` or ``nn.Hardtanh(0, ceiling)``; None for every other operator. Activations made by `tailor`
    are not matched here: they are modules already.
    """
    if node.op == "call_module":
        module = modules[str(node.target)]
        if type(module) is nn.ReLU:
            return nn.ReLU()
        if isinstance(module, nn.Hardtanh) and is_a(module, nn.Hardtanh):  # ReLU6 is one
            return _clipped(module.min_val, module.max_val)
        if type(module) is nn.Threshold:
            return nn.ReLU() if module.threshold == 0 and module.value == 0 else None
        return None
    if node.op not in ("call_function", "call_method"):
        return None
    target = node.target
    if target in _RELU_FUNCTIONS or target in ("relu", "relu_"):
        return nn.ReLU()
    if target is F.relu6:
        return _clipped(0.0, 6.0)
    if target in (F.hardtanh, F.hardtanh_):
        return _clipped(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0))
    if target in _CLAMP_FUNCTIONS:
        return _clipped(argument(node, 1, "min"), argument(node, 2, "max"))
    if target in _CLAMP_MIN_FUNCTIONS:
        return _clipped(argument(node, 1, "min"), None)
    if target in _MAXIMUM_FUNCTIONS and activation_operand(node) is not None:
        return nn.ReLU()
    if target in (F.threshold, torch.threshold):
        return nn.ReLU() if argument(node, 1, "threshold") == 0 and argument(node, 2, "value") == 0 else None
    return None


def activation_operand(node: fx.Node) -> fx.Node | None:
    """What the activation that stands at a node acts on: the first argument, or the one that is compared with zero."""
    first = node.args[0] if node.args else None
    if node.target not in _MAXIMUM_FUNCTIONS:
        return first if isinstance(first, fx.Node) else None
    second = argument(node, 1, "other")
    for value, other in ((first, second), (second, first)):
        if isinstance(value, fx.Node) and _is_zero(other, value):
            return value
    return None


def _is_zero(value: Any, beside: fx.Node) -> bool:
    """Whether a value is a zero that takes the shape of the value beside it."""
    if not isinstance(value, fx.Node):
        return False
    if value.op == "get_attr" and value.graph.owning_module is not None:
        path, _, name = str(value.target).rpartition(".")
        found = getattr(value.graph.owning_module.get_submodule(path), name)
        zero = isinstance(found, Tensor) and not isinstance(found, nn.Parameter) and found.numel() == 1
        return zero and found.dim() <= 1 and float(found) == 0
    if value.target is torch.zeros_like:
        return value.args == (beside,)
    return value.target in (torch.zeros, "new_zeros") and value.args[-1] in ((), [], 1, (1,), [1])


def _clipped(low: Any, high: Any) -> nn.Module | None:
    if not isinstance(low, int | float) or low != 0:
        return None
    if high is None:
        return nn.ReLU()
    return nn.Hardtanh(0.0, float(high)) if isinstance(high, int | float) and high > 0 else None


def keeps_channels_last(network: fx.GraphModule) -> bool:
    """Whether all operators give images with channels last for such images; ``view`` for one would refuse them.

    Convolutions of one channel do not count: torch 2.8 to 2.14 gets some wrong whose output is one pixel wide.
    """

    def keeps(node: fx.Node) -> bool:
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        return isinstance(module, _KEEP_CHANNELS_LAST) and getattr(module, "in_channels", 0) != 1

    return all(keeps(node) for node in network.graph.nodes if node.op not in ("placeholder", "output"))
