"""Torch's multi-head attention, written as linear layers, products and a softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPENED: tuple[type[nn.Module], ...] = (
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.Transformer,
)
"""Modules of torch that are traced into."""


def expand_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``nn.MultiheadAttention.forward`` computes; the batch stays where the module has it."""
    apart = not module._qkv_same_embed_dim
    return _attention(
        (query, key, value),
        (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight) if apart else module.in_proj_weight,
        module.in_proj_bias,
        module.out_proj.weight,
        module.out_proj.bias,
        module.num_heads,
        (module.bias_k, module.bias_v, module.add_zero_attn),
        0.0 if not module.training else module.dropout,
        (key_padding_mask, attn_mask, is_causal),
        (need_weights, average_attn_weights),
        module.batch_first,
    )


def attention_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``F.multi_head_attention_forward`` computes.

    Raises:
        NotImplementedError: keys and values that were projected before.
    """
    if static_k is not None or static_v is not None:
        raise NotImplementedError("static_k and static_v of F.multi_head_attention_forward are not followed")
    return _attention(
        (query, key, value),
        (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight,
        in_proj_bias,
        out_proj_weight,
        out_proj_bias,
        num_heads,
        (bias_k, bias_v, add_zero_attn),
        dropout_p if training else 0.0,
        (key_padding_mask, attn_mask, is_causal),
        (need_weights, average_attn_weights),
        False,
    )


def _attention(
    sources: tuple[Tensor, Tensor, Tensor],
    weights: Any,
    bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    heads: int,
    extra: tuple[Tensor | None, Tensor | None, bool],
    dropout: float,
    masking: tuple[Tensor | None, Tensor | None, bool],
    wanted: tuple[bool, bool],
    batch_first: bool,
) -> tuple[Tensor, Tensor | None]:
    need_weights, averaged = wanted
    single = sources[0].dim() == 2
    query, key, value = _projected(sources, weights, bias)
    if single:
        query, key, value = (each.unsqueeze(0) for each in (query, key, value))
    elif not batch_first:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    key, value, added = _with_extra(key, value, extra)
    query, key, value = (_heads(each, heads) for each in (query, key, value))
    mask = _mask(masking, heads, added, query, need_weights)
    causal = masking[2] and mask is None
    answer: Tensor
    read: Tensor | None = None
    if need_weights:
        scores = (query * (1.0 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
        shares = torch.softmax(scores if mask is None else scores + mask, -1)
        shares = F.dropout(shares, dropout) if dropout else shares
        answer = shares @ value
        read = shares.mean(1) if averaged else shares
        read = read.squeeze(0) if single else read
    else:
        answer = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    answer = answer.transpose(1, 2).flatten(2)
    if single:
        answer = answer.squeeze(0)
    elif not batch_first:
        answer = answer.transpose(0, 1)
    return F.linear(answer, out_weight, out_bias), read


def _projected(sources: tuple[Tensor, Tensor, Tensor], weights: Any, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Queries, keys and values, with as few linear layers as there are different sources."""
    query, key, value = sources
    if not isinstance(weights, tuple) and query is key and key is value:
        return F.linear(query, weights, bias).chunk(3, -1)
    parts = weights if isinstance(weights, tuple) else weights.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return tuple(F.linear(each, part, own) for each, part, own in zip(sources, parts, biases, strict=True))


def _heads(x: Tensor, heads: int) -> Tensor:
    """``[N, L, E]`` as ``[N, heads, L, E / heads]``."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def _with_extra(key: Tensor, value: Tensor, extra: tuple[Tensor | None, Tensor | None, bool]) -> tuple[Any, Any, int]:
    """Keys and values with the learned and the zero ones behind them, and how many those are."""
    bias_k, bias_v, zero = extra
    added = 0
    if bias_k is not None and bias_v is not None:
        key = torch.cat([key, bias_k.expand(key.shape[0], 1, -1)], 1)
        value = torch.cat([value, bias_v.expand(value.shape[0], 1, -1)], 1)
        added += 1
    if zero:
        key = torch.cat([key, torch.zeros_like(key[:, :1])], 1)
        value = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
        added += 1
    return key, value, added


def _mask(
    masking: tuple[Tensor | None, Tensor | None, bool], heads: int, added: int, query: Tensor, need_weights: bool
) -> Tensor | None:
    """What is added to the scores ``[N, heads, L, S]``."""
    padding, mask, causal = masking
    if causal and mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    if causal and padding is None and not need_weights:
        return None  # the function makes the mask itself
    parts = []
    if mask is not None:
        mask = _added(mask, query)
        parts.append(torch.unflatten(mask, 0, (-1, heads)) if mask.dim() == 3 else mask)
    if padding is not None:
        padding = _added(padding, query)
        padding = padding.unsqueeze(0) if padding.dim() == 1 else padding
        parts.append(padding.unsqueeze(1).unsqueeze(1))
    if not parts:
        return None
    whole = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return F.pad(whole, (0, added)) if added else whole


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add; where a boolean one is True, nothing is seen."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
