"""Makes a traced graph uniform: no in-place calls, one module of its own per activation call, modules for dropout."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from transpike.activations import TrainedActivation
from transpike.errors import ConversionError, UnsupportedOperator
from transpike.graph.capture import source_of
from transpike.graph.linear_operators import form_of
from transpike.graph.operators import (
    DROPOUT_FUNCTIONS,
    MAX_POOL_FUNCTIONS,
    MAXIMUM_CALLS,
    FixedBatchNorm,
    GlobalMaxPool,
    activation_operand,
    argument,
    is_a,
    match_activation,
    operator_name,
)

_PIECES = frozenset(["chunk", "split", "tensor_split", "unbind"])
_VIEWS = _PIECES | frozenset(
    [
        *("view", "view_as", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim"),
        *("squeeze", "unsqueeze", "expand", "expand_as", "narrow", "select", "getitem", "detach"),
    ]
)


@dataclass(frozen=True)
class ActivationCall:
    """One call of an activation.

    Attributes:
        name: unique name of the call; also the path of the module that now stands for it.
        operator: what the user's code called.
        source: ``file:line: code``.
    """

    name: str
    operator: str
    source: str


def modules_of(gm: fx.GraphModule) -> dict[str, nn.Module]:
    """All submodules by the names that the graph uses, shared modules under every name."""
    return dict(gm.named_modules(remove_duplicate=False))


def functionalize(gm: fx.GraphModule) -> None:
    """Replaces in-place calls by their functional form and redirects later readers to the result.

    Raises:
        ConversionError: a tensor is changed in place while another view of it is read later.
    """
    modules = modules_of(gm)
    _make_positional(gm, modules)
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    for node in list(gm.graph.nodes):
        if not _make_functional(node, modules):
            continue
        changed = node.args[0] if node.args else None
        if not isinstance(changed, fx.Node):
            continue
        later = [user for user in changed.users if order[user] > order[node]]
        for user in later:
            user.replace_input_with(changed, node)
        stale = [
            reader
            for view in _views(changed)
            for reader in view.users
            if order[reader] > order[node] and reader is not node
        ]
        if stale:
            raise ConversionError(
                [
                    UnsupportedOperator(
                        node.name,
                        operator_name(node, modules),
                        source_of(node),
                        f"it changes a tensor in place that {stale[0].name!r} reads later through another view",
                        "write that line without changing a tensor in place",
                    )
                ]
            )


def _make_positional(gm: fx.GraphModule, modules: Mapping[str, nn.Module]) -> None:
    """``pool(input=x)`` to ``pool(x)``: what torch's operators act on is their first argument."""
    for node in gm.graph.nodes:
        own = modules[str(node.target)] if node.op == "call_module" else node.target
        ours = str(getattr(own, "__module__", "torch") or "torch").startswith("torch")
        if node.op in ("call_module", "call_function") and ours and not node.args:
            first = next((name for name in ("input", "tensors") if name in node.kwargs), None)
            if first is not None:
                node.args = (node.kwargs[first],)
                node.kwargs = {name: value for name, value in node.kwargs.items() if name != first}


def _views(node: fx.Node) -> set[fx.Node]:
    """The other tensors that share storage with ``node``: what it is a view of, and views of either, and so on."""
    found = {node}
    waiting: list[tuple[fx.Node, fx.Node | None]] = [(node, None)]
    while waiting:
        tensor, piece = waiting.pop()
        base = tensor.args[0] if _is_view(tensor) else None
        if isinstance(base, fx.Node) and base not in found:
            waiting.append((base, tensor))
            found.add(base)
        if piece is not None and _name(tensor) in _PIECES:
            continue  # the other pieces of a split tensor are other storage
        views = [user for user in tensor.users if _is_view(user) and user.args[0] is tensor and user not in found]
        waiting += [(view, None) for view in views]
        found.update(views)
    return found - {node}


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _is_view(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and bool(node.args) and _name(node) in _VIEWS


def _make_functional(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Rewrites the call; True if it was in place."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return getattr(module, "inplace", False) is True  # `replace_activations` makes the module functional
    if node.op == "call_method":
        name = str(node.target)
        if not name.endswith("_") or name.endswith("__"):
            return False
        node.target = name[:-1]
        return True
    if node.op == "call_function":
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
        functional = _functional_form(node.target)
        if functional is not None:
            node.target = functional
            return True
    return False


def _functional_form(function: Any) -> Any:
    """What ``torch.clamp_`` is to ``torch.clamp``; None for functions that change nothing in place."""
    name = getattr(function, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return None
    return getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)


def replace_activations(
    gm: fx.GraphModule, make: Callable[[str, nn.Module], nn.Module], *, tailored: bool
) -> list[ActivationCall]:
    """Gives every activation call a module of its own: ``make(name, activation)``.

    A module called once keeps its path; further calls and functions become ``path.relu@0``, ``@1`` and so on, so
    that no name of the user's is ever taken. Activations of constants (a weight, say) stay.

    Args:
        gm: changed in place.
        make: builds the new module from the name and a fresh ``nn.ReLU``, ``nn.Hardtanh`` or the call's own
            `TrainedActivation`.
        tailored: also replace the activations that `tailor` put there.
    """
    modules = modules_of(gm)
    calls = Counter(str(node.target) for node in gm.graph.nodes if node.op == "call_module")
    taken: Counter[str] = Counter()
    varying = _depend_on_input(gm)
    found = []
    for node in list(gm.graph.nodes):
        if node not in varying:
            continue
        activation = match_activation(node, modules)
        own = modules.get(str(node.target)) if node.op == "call_module" else None
        if activation is None and tailored and isinstance(own, TrainedActivation):
            activation = own
        if activation is None:
            continue
        name = call_name(node, modules, calls, taken)
        found.append(ActivationCall(name, operator_name(node, modules), source_of(node)))
        call_module(gm, node, name, make(name, activation), activation_operand(node))
    for target in {str(n.target) for n in gm.graph.nodes if n.op == "call_module"}:
        module = modules.get(target)
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[union-attr]
    return found


def call_name(
    node: fx.Node, modules: Mapping[str, nn.Module], calls: Mapping[str, int], taken: Counter[str], mark: str = ""
) -> str:
    """A name for the module that is to stand for a call, which no other module has.

    Args:
        node: the call.
        modules: of its graph.
        calls: how often each module is called.
        taken: how many names were given to each path; counted on.
        mark: what to put behind the path, for a module that does not take the call's place.
    """
    own = node.op == "call_module"
    if own and calls[str(node.target)] == 1 and not mark:
        return str(node.target)
    path = (str(node.target) if own else _join(_owner(node), _short_name(node))) + mark
    while (name := f"{path}@{taken[path]}") in modules:  # another call, made by an earlier `tailor`
        taken[path] += 1
    taken[path] += 1
    return name


def _depend_on_input(gm: fx.GraphModule) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            form = form_of(node)
            if form is None or not form.changes(node, found).still:  # not only the shape of something that varies
                found.add(node)
    return found


def modularize(gm: fx.GraphModule) -> None:
    """Turns functional dropout and max-pooling into modules, so that train and eval mode and rewriting work.

    A traced ``F.dropout(x, training=self.training)`` would keep the mode it was traced in for ever.
    """
    taken: Counter[str] = Counter()
    for node in list(gm.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        module: nn.Module
        if node.target in DROPOUT_FUNCTIONS:
            module = DROPOUT_FUNCTIONS[node.target](argument(node, 1, "p", 0.5))
        elif node.target in MAX_POOL_FUNCTIONS and not _returns_indices(node):
            module = _pool_module(node)
        elif node.target in MAXIMUM_CALLS and argument(node, 1, "dim") is not None:
            module = GlobalMaxPool(argument(node, 1, "dim"), argument(node, 2, "keepdim", False))
        elif _only_maximum(node):
            module = GlobalMaxPool(argument(node, 1, "dim"), argument(node, 2, "keepdim", False))
            for user in list(node.users):
                user.replace_all_uses_with(node)
                gm.graph.erase_node(user)
        else:
            continue
        path = _join(_owner(node), type(module).__name__.lower())
        call_module(gm, node, f"{path}@{taken[path]}", module, node.args[0])
        taken[path] += 1


def _only_maximum(node: fx.Node) -> bool:
    """Whether this is a maximum over one dimension whose values are read, but not their places."""
    values = [user for user in node.users if user.args[1:] in ((0,), ("values",))]
    unread = [user for user in node.users if user.args[1:] in ((1,), ("indices",)) and not user.users]
    dim = isinstance(argument(node, 1, "dim"), int)
    return node.target in (torch.max, "max") and dim and bool(values) and len(values) + len(unread) == len(node.users)


def modularize_batchnorm(gm: fx.GraphModule) -> None:
    """Turns functional BatchNorm with stored statistics, traced in evaluation mode, into modules that can be folded.

    InstanceNorm with stored statistics computes the same.
    """
    taken: Counter[str] = Counter()
    modules = modules_of(gm)
    for node in list(gm.graph.nodes):
        own = modules[str(node.target)] if node.op == "call_module" else None
        if is_a(own, nn.modules.instancenorm._InstanceNorm) and own is not None and own.running_mean is not None:
            call_module(gm, node, str(node.target), _fixed_norm(own.state_dict(), own.eps), node.args[0])
            continue
        if node.op != "call_function" or node.target is not F.batch_norm or argument(node, 5, "training", False):
            continue
        names = ("running_mean", "running_var", "weight", "bias")
        tensors = {name: _stored(gm, argument(node, index, name)) for index, name in enumerate(names, start=1)}
        if tensors["running_mean"] is None or tensors["running_var"] is None:
            continue
        norm = _fixed_norm(tensors, argument(node, 7, "eps", 1e-5))
        path = _join(_owner(node), "batch_norm")
        call_module(gm, node, f"{path}@{taken[path]}", norm, node.args[0])
        taken[path] += 1


def _fixed_norm(tensors: Mapping[str, torch.Tensor | None], eps: Any) -> FixedBatchNorm:
    """A BatchNorm with these statistics, weights and biases, by name; some weights and biases may be missing."""
    mean = tensors["running_mean"]
    assert mean is not None
    norm = FixedBatchNorm(len(mean), eps=eps).to(mean)
    for name in ("running_mean", "running_var", "weight", "bias"):
        tensor = tensors.get(name)
        if tensor is not None:
            getattr(norm, name).data.copy_(tensor)
    return norm


def _stored(gm: fx.GraphModule, node: Any) -> torch.Tensor | None:
    """The parameter or buffer that a get_attr node reads."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    path, _, name = str(node.target).rpartition(".")
    found = getattr(gm.get_submodule(path), name)
    return found.detach() if isinstance(found, torch.Tensor) else None


def _returns_indices(node: fx.Node) -> bool:
    adaptive = issubclass(MAX_POOL_FUNCTIONS[node.target], nn.modules.pooling._AdaptiveMaxPoolNd)
    return bool(argument(node, 2 if adaptive else 6, "return_indices", False))


def _pool_module(node: fx.Node) -> nn.Module:
    cls = MAX_POOL_FUNCTIONS[node.target]
    if issubclass(cls, nn.modules.pooling._AdaptiveMaxPoolNd):
        return cls(argument(node, 1, "output_size"))
    names = ("kernel_size", "stride", "padding", "dilation")
    defaults = (None, None, 0, 1)
    settings = {
        name: argument(node, position, name, default)
        for position, (name, default) in enumerate(zip(names, defaults, strict=True), start=1)
    }
    if settings["stride"] == []:  # how torch.max_pool2d spells the default
        settings["stride"] = None
    return cls(**settings, ceil_mode=argument(node, 5, "ceil_mode", False))


def remove_dropout(gm: fx.GraphModule) -> None:
    """Removes dropout, identities and stochastic depth: a converted network is not trained with noise."""
    modules = modules_of(gm)
    for node in list(gm.graph.nodes):
        if node.op == "call_module":
            idle = is_a(modules[str(node.target)], (nn.modules.dropout._DropoutNd, nn.Identity))
        else:
            idle = operator_name(node, modules).endswith("stochastic_depth") and not argument(node, 3, "training", True)
        if idle:
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)


def call_module(
    gm: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, *arguments: Any, **keywords: Any
) -> fx.Node:
    """Replaces ``node`` by a call of ``module``, which is put at path ``name``."""
    gm.add_submodule(name, module.train(gm.training))
    with gm.graph.inserting_before(node):
        new = gm.graph.call_module(name, tuple(arguments), keywords)
    new.meta = copy.copy(node.meta)
    new.stack_trace = node.stack_trace
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)
    return new


def _owner(node: fx.Node) -> str:
    """Path of the module whose forward made this node."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return str(path)


def _short_name(node: fx.Node) -> str:
    return (_name(node) or "activation").rstrip("_")


def _join(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name
