"""Attention in parts: two products of matrices with a softmax between them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from transpike.graph.example_run import shapes_of
from transpike.graph.operators import argument

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def attention_as_products(gm: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Replaces every call of ``scaled_dot_product_attention`` by what it computes; changes the graph in place.

    Args:
        gm: the graph, in evaluation mode.
        inputs: the probing batch.
    """
    calls = [node for node in gm.graph.nodes if node.target is F.scaled_dot_product_attention]
    shapes = shapes_of(gm, inputs) if calls else {}
    for node in calls:
        given = {name: argument(node, index, name) for index, name in enumerate(_NAMES)}
        query, key, value = (given[name] for name in _NAMES[:3])
        wide, long = shapes[query], shapes[key]
        if wide is None or long is None or given["enable_gqa"]:
            continue  # stays one operator, which the plan names
        scale = given["scale"] or 1 / math.sqrt(wide[-1])
        with gm.graph.inserting_before(node):
            new = [gm.graph.call_method("mul", (query, scale)), gm.graph.call_method("transpose", (key, -2, -1))]
            new.append(gm.graph.call_function(torch.matmul, tuple(new)))
            if given["attn_mask"] is not None:
                new.append(gm.graph.call_function(_masked, (new[-1], given["attn_mask"])))
            if given["is_causal"]:
                new.append(gm.graph.call_function(_causal, (new[-1],)))
            new.append(gm.graph.call_function(F.softmax, (new[-1],), {"dim": -1}))
            new.append(gm.graph.call_function(torch.matmul, (new[-1], value)))
        for each in new:
            each.meta = dict(node.meta)
            each.stack_trace = node.stack_trace
        node.replace_all_uses_with(new[-1])
        gm.graph.erase_node(node)
    gm.recompile()


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores where a mask of truths holds, or plus a mask of numbers."""
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _causal(scores: Tensor) -> Tensor:
    """Scores ``[*, L, S]`` of keys that are not behind the query."""
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~seen, -math.inf)
