"""Folds BatchNorm into the convolution or linear layer in front of it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from transpike.graph.normalize import call_module, modules_of
from transpike.graph.operators import is_a


def fold_batchnorm(gm: fx.GraphModule, shapes: Mapping[fx.Node, tuple[int, ...] | None]) -> list[str]:
    """Folds every BatchNorm (evaluation mode) that directly follows a layer with no other reader.

    A layer that is called several times is copied for each call, since each call may have a BatchNorm of its own.
    The arithmetic is done in float64. BatchNorm elsewhere (pre-activation networks) stays, as an affine operator.

    Args:
        gm: changed in place.
        shapes: shape of every value: behind a linear layer, BatchNorm acts on its outputs only in ``[N, C]``.

    Returns:
        The names of the folded BatchNorm modules.
    """
    modules = modules_of(gm)
    calls = Counter(str(node.target) for node in gm.graph.nodes if node.op == "call_module")
    copies: Counter[str] = Counter()
    folded = []
    for node in list(gm.graph.nodes):
        if node.op != "call_module":
            continue
        norm = modules[str(node.target)]
        layer_node = node.args[0] if node.args else None
        if (
            not isinstance(norm, nn.modules.batchnorm._BatchNorm)
            or not is_a(norm, nn.modules.batchnorm._BatchNorm)
            or norm.running_mean is None
            or not isinstance(layer_node, fx.Node)
            or layer_node.op != "call_module"
            or len(layer_node.users) > 1
        ):
            continue
        layer = modules[str(layer_node.target)]
        if isinstance(layer, nn.Linear) and len(shapes[layer_node] or ()) != 2:
            continue
        fused = fuse(layer, norm)
        if fused is None:
            continue
        name = str(layer_node.target)
        if calls[name] > 1:
            name = f"{name}@{copies[name]}"
            copies[str(layer_node.target)] += 1
        new = call_module(gm, layer_node, name, fused, *layer_node.args, **layer_node.kwargs)
        folded.append(str(node.target))
        node.replace_all_uses_with(new)
        gm.graph.erase_node(node)
    return folded


def fuse(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> nn.Module | None:
    """A copy of a layer that a BatchNorm with statistics follows, with both in its weights; None for other layers."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not is_a(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    is_linear = isinstance(layer, nn.Linear)
    assert isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    weight = layer.weight
    statistics = [
        None if tensor is None else tensor.detach().double()
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    ]
    mean, var, scale, shift = statistics
    assert mean is not None
    assert var is not None
    bias = None if layer.bias is None else layer.bias.detach().double()
    if is_linear:
        new_weight, new_bias = fuse_linear_bn_weights(weight.detach().double(), bias, mean, var, norm.eps, scale, shift)
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        transposed = layer.transposed
        if transposed and layer.groups > 1:  # the output channels of a group lie in dimension 1
            return None
        new_weight, new_bias = fuse_conv_bn_weights(
            weight.detach().double(), bias, mean, var, norm.eps, scale, shift, transposed
        )
    fused = copy.deepcopy(layer)
    fused.weight = nn.Parameter(new_weight.detach().to(weight.dtype), weight.requires_grad)
    fused.bias = nn.Parameter(new_bias.detach().to(weight.dtype), weight.requires_grad)
    return fused
