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

from transpike.activations import SlipActivation
from transpike.errors import ConversionError, Obstacle
from transpike.graph.operators import (
    DROPOUT_FUNCTIONS,
    MAX_POOL_FUNCTIONS,
    MAX_POOL_MODULES,
    MAXIMUM_CALLS,
    FixedBatchNorm,
    GlobalAveragePool,
    GlobalMaxPool,
    argument,
    is_a,
    match_activation,
    operator_name,
)
from transpike.graph.trace import source_of

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
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    for node in list(gm.graph.nodes):
        if not _make_functional(node, modules):
            continue
        changed = node.args[0] if node.args else node.kwargs.get("input")
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
                    Obstacle(
                        node.name,
                        operator_name(node, modules),
                        source_of(node),
                        f"it changes a tensor in place that {stale[0].name!r} reads later through another view",
                        "write that line without changing a tensor in place",
                    )
                ]
            )


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
            `SlipActivation`.
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
        if activation is None and tailored and isinstance(own, SlipActivation):
            activation = own
        if activation is None:
            continue
        if own is not None and calls[str(node.target)] == 1:
            name = str(node.target)
        else:
            path = str(node.target) if own is not None else _join(_owner(node), _short_name(node))
            while (name := f"{path}@{taken[path]}") in modules:  # another call, made by an earlier `tailor`
                taken[path] += 1
            taken[path] += 1
        found.append(ActivationCall(name, operator_name(node, modules), source_of(node)))
        call_module(gm, node, name, make(name, activation), node.args[0] if node.args else node.kwargs["input"])
    for target in {str(n.target) for n in gm.graph.nodes if n.op == "call_module"}:
        module = modules.get(target)
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[union-attr]
    return found


def _depend_on_input(gm: fx.GraphModule) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
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
        else:
            continue
        path = _join(_owner(node), type(module).__name__.lower())
        call_module(gm, node, f"{path}@{taken[path]}", module, node.args[0])
        taken[path] += 1


def modularize_batchnorm(gm: fx.GraphModule) -> None:
    """Turns functional BatchNorm with stored statistics, traced in evaluation mode, into modules that can be folded."""
    taken: Counter[str] = Counter()
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or node.target is not F.batch_norm or argument(node, 5, "training", False):
            continue
        names = ("running_mean", "running_var", "weight", "bias")
        tensors = {name: _stored(gm, argument(node, index, name)) for index, name in enumerate(names, start=1)}
        if tensors["running_mean"] is None or tensors["running_var"] is None:
            continue
        norm = FixedBatchNorm(len(tensors["running_mean"]), eps=argument(node, 7, "eps", 1e-5))
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(norm, name).data.copy_(tensor)
        path = _join(_owner(node), "batch_norm")
        call_module(gm, node, f"{path}@{taken[path]}", norm.to(tensors["running_mean"]), node.args[0])
        taken[path] += 1


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


def pool_before_activation(gm: fx.GraphModule, is_activation: Callable[[nn.Module], bool]) -> None:
    """Moves max-pooling in front of the activations whose only reader it is, through ``cat`` over channels.

    Activations never decrease, so ``max(relu(z)) = relu(max(z))``; pooled currents instead of pooled spikes keep
    the spikes binary.
    """
    modules = modules_of(gm)

    def sole_activation(node: Any) -> bool:
        return (
            isinstance(node, fx.Node)
            and node.op == "call_module"
            and is_activation(modules[str(node.target)])
            and len(node.users) == 1
        )

    waiting = [node for node in gm.graph.nodes if is_max_pool(node, modules)]
    while waiting:
        pool = waiting.pop()
        source = pool.args[0]
        assert isinstance(source, fx.Node)
        if sole_activation(source):
            pool.replace_input_with(source, source.args[0])
            pool.replace_all_uses_with(source, propagate_meta=False)
            source.args = (pool,)
            pool.append(source)
            waiting.append(pool)
        elif _joins_channels(source) and len(source.users) == 1 and any(map(sole_activation, source.all_input_nodes)):
            waiting.extend(_pool_before_cat(gm, pool, source))


def is_max_pool(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether this is a call of a max-pooling module without indices."""
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    return is_a(module, MAX_POOL_MODULES) and getattr(module, "return_indices", False) is False


def average_pools(gm: fx.GraphModule) -> list[ActivationCall]:
    """Replaces every max-pooling by the average pooling of the same geometry; returns the replaced calls.

    Raises:
        ConversionError: a max-pooling with indices or dilation has no average-pooling counterpart.
    """
    modules = modules_of(gm)
    done = []
    for node in list(gm.graph.nodes):
        if node.op != "call_module" or not is_a(modules[str(node.target)], MAX_POOL_MODULES):
            continue
        pool = modules[str(node.target)]
        call = ActivationCall(str(node.target), operator_name(node, modules), source_of(node))
        call_module(gm, node, str(node.target), _average_pool(pool, node), node.args[0])
        done.append(call)
    return done


def _average_pool(pool: nn.Module, node: fx.Node) -> nn.Module:
    """The average pooling of the same geometry; padding counts as zeros, as in the papers' code."""
    name = type(pool).__name__.replace("Max", "Avg")
    reason = ""
    if getattr(pool, "return_indices", False):
        reason = "it returns indices"
    elif getattr(pool, "dilation", 1) not in (1, (1,), (1, 1), (1, 1, 1)):
        reason = "average pooling has no dilation"
    if reason:
        raise ConversionError(
            [
                Obstacle(
                    str(node.target),
                    type(pool).__name__,
                    source_of(node),
                    reason,
                    "use max-pooling without indices and dilation, or average pooling",
                )
            ]
        )
    if isinstance(pool, GlobalMaxPool):
        return GlobalAveragePool(pool)
    cls = getattr(nn, name)
    if isinstance(pool, nn.modules.pooling._AdaptiveMaxPoolNd):
        return cls(pool.output_size)  # type: ignore[no-any-return]
    assert isinstance(pool, nn.modules.pooling._MaxPoolNd)
    return cls(pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)  # type: ignore[no-any-return]


def _joins_channels(node: fx.Node) -> bool:
    return (
        node.op == "call_function"
        and node.target in (torch.cat, torch.concat, torch.concatenate)
        and isinstance(argument(node, 0, "tensors"), list | tuple)
        and len(node.args) > 0
        and argument(node, 1, "dim", 0) == 1
    )


def _pool_before_cat(gm: fx.GraphModule, pool: fx.Node, cat: fx.Node) -> list[fx.Node]:
    """``pool(cat(a, b))`` to ``cat(pool(a), pool(b))``; returns the new pooling calls."""
    pooled = []
    operands = cat.args[0]
    assert isinstance(operands, list | tuple)
    with gm.graph.inserting_before(cat):
        for operand in operands:
            new = gm.graph.call_module(str(pool.target), (operand,))
            new.meta = copy.copy(pool.meta)
            pooled.append(new)
    pool.replace_all_uses_with(cat, propagate_meta=False)
    cat.args = (pooled, *cat.args[1:])
    gm.graph.erase_node(pool)
    return pooled


def call_module(gm: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, *arguments: Any) -> fx.Node:
    """Replaces ``node`` by a call of ``module``, which is put at path ``name``."""
    gm.add_submodule(name, module.train(gm.training))
    with gm.graph.inserting_before(node):
        new = gm.graph.call_module(name, tuple(arguments))
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
