"""Max-pooling: moved in front of activations, or made average pooling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from transpike.errors import ConversionError, UnsupportedOperator
from transpike.graph.capture import source_of
from transpike.graph.normalize import ActivationCall, call_module, modules_of
from transpike.graph.operators import (
    MAX_POOL_MODULES,
    GlobalAveragePool,
    GlobalMaxPool,
    argument,
    is_a,
    operator_name,
)


def pool_before_activation(
    gm: fx.GraphModule,
    is_activation: Callable[[nn.Module], bool],
    shapes: Mapping[fx.Node, tuple[int, ...] | None],
) -> None:
    """Moves max-pooling in front of the activations whose only reader it is, through ``cat`` over channels.

    Activations never decrease, so ``max(relu(z)) = relu(max(z))``; pooled currents instead of pooled spikes keep
    the spikes binary.

    Args:
        gm: changed in place.
        is_activation: which modules are activations.
        shapes: shape of every value: a pooling over the channels themselves stays behind ``cat``.
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
        elif (
            _joins_channels(source)
            and len(source.users) == 1
            and any(map(sole_activation, source.all_input_nodes))
            and 1 not in _pooled_dimensions(modules[str(pool.target)], len(shapes[source] or ()))
        ):
            waiting.extend(_pool_before_cat(gm, pool, source))


def is_max_pool(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether this is a call of a max-pooling module without indices."""
    if node.op != "call_module":
        return False
    module = modules[str(node.target)]
    return is_a(module, MAX_POOL_MODULES) and getattr(module, "return_indices", False) is False


def _pooled_dimensions(pool: nn.Module, dimensions: int) -> set[int]:
    """What a max-pooling pools over, in a value with so many dimensions."""
    if isinstance(pool, GlobalMaxPool):
        return {dim % dimensions for dim in pool.dim}
    name = next(cls.__name__ for cls in type(pool).__mro__ if cls.__module__ == nn.MaxPool2d.__module__)
    return set(range(dimensions - int(name[-2]), dimensions))  # MaxPool2d: the last two


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
                UnsupportedOperator(
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
