"""The table of functions that a site may follow: their kind, and between which values they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx, nn

from transpike.graph.function_site import SiteKind
from transpike.graph.operators import operator_name

ALL = (-math.inf, math.inf)
"""Any value."""

_SHARE = (0.0, 1.0)

BOUNDED: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(["sigmoid", "hardsigmoid", "softmax"], _SHARE),
    **dict.fromkeys(["tanh", "softsign", "sin", "cos", "normalize"], (-1.0, 1.0)),
}
"""Functions whose values lie between two numbers, by name."""

POSITIVE = frozenset(["softplus", "exp", "abs", "square", "sqrt", "rsqrt", "norm", "var", "std"])
"""Functions that are never negative."""

GROUPS = frozenset(
    [
        *("layernorm", "layer_norm", "groupnorm", "group_norm", "instancenorm1d", "instancenorm2d", "instancenorm3d"),
        *("instance_norm", "localresponsenorm", "local_response_norm", "rmsnorm", "rms_norm", "normalize"),
        *("softmax", "softmin", "log_softmax", "logsoftmax", "softmax2d", "logsumexp"),
        *("max", "min", "amax", "amin", "norm", "vector_norm", "var", "std", "var_mean", "std_mean", "prod", "sort"),
        *("topk", "median", "lp_pool1d", "lp_pool2d", "cumprod", "cosine_similarity", "cdist"),
    ]
)
"""Functions of which every value depends on a whole group of drives."""


def short_name(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """The name of what a node calls, without its module, in small letters."""
    return operator_name(node, modules).rsplit(".", 1)[-1].lower().strip("_")


def limits_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[float, float]:
    """Between which values the result of a call lies, as far as its name says."""
    name = short_name(node, modules)
    if name in BOUNDED:
        return BOUNDED[name]
    return (0.0, math.inf) if name in POSITIVE else ALL


def is_group(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether every value depends on a group of others."""
    return short_name(node, modules) in GROUPS


def kind_of_calls(calls: list[fx.Node], drives: int, modules: Mapping[str, nn.Module]) -> SiteKind:
    """The kind of a site that computes some calls of so many drives."""
    if any(is_group(call, modules) for call in calls):
        return SiteKind.GROUP
    return SiteKind.PRODUCT if drives > 1 else SiteKind.POINTWISE
