"""Attention that sees a prefix: registered with transformers as one more implementation.

The models' own code calls it through transformers' attention interface, so no model is patched. A model that does not
use the interface never calls it; `Encoder` finds that out by running one row and says that it cannot carry a prefix.

Shapes: B rows, H heads, T queries, S keys, P prefix positions, d head width, L layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from tunewright.adapters.parts import Prefix

NAME = "tunewright"

_MATH_KEYS = 256
"""In bf16 on a CPU the fused kernel's backward is several times slower than plain matrix products up to about here."""


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """Keys and values of every row's prefix, padded to the longest, in the model's dtype."""

    keys_LBHPd: Tensor
    values_LBHPd: Tensor
    bias_B11P: Tensor
    """0 where a row has a prefix position, the dtype's lowest value where it has none."""


def prefix_cache(prefixes: Sequence[Prefix | None], shape: tuple[int, int, int], like: Tensor) -> PrefixCache | None:
    """The prefixes of a batch, one entry per row, as one cache; None where no row has one.

    Args:
        prefixes: The rows' prefixes.
        shape: (layers, heads, head width).
        like: Gives dtype and device.
    """
    longest = max((0 if p is None else p.length for p in prefixes), default=0)
    if longest == 0:
        return None
    index = {id(p): p for p in prefixes}
    stacks = {key: _padded(p, longest, shape, like) for key, p in index.items()}
    order = [id(p) for p in prefixes]
    length_B = torch.tensor([0 if p is None else p.length for p in prefixes], device=like.device)
    empty_BP = torch.arange(longest, device=like.device) >= length_B[:, None]
    bias_BP = torch.zeros_like(empty_BP, dtype=like.dtype).masked_fill(empty_BP, torch.finfo(like.dtype).min)
    if len(stacks) == 1:
        both = stacks[order[0]][:, :, None].expand(-1, -1, len(order), -1, -1, -1)
    else:
        both = torch.stack([stacks[key] for key in order], dim=2)
    return PrefixCache(keys_LBHPd=both[0], values_LBHPd=both[1], bias_B11P=bias_BP[:, None, None, :])


def _padded(prefix: Prefix | None, longest: int, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Keys and values as [2, L, H, longest, d]; zeros where there is no position."""
    num_layers, num_heads, width = shape
    if prefix is None:
        return like.new_zeros(2, num_layers, num_heads, longest, width)
    both = torch.stack([prefix.keys_LHPd, prefix.values_LHPd]).to(like)
    return nn.functional.pad(both, (0, 0, 0, longest - prefix.length))


def attend(
    module: nn.Module,
    query_BHTd: Tensor,
    key_BHSd: Tensor,
    value_BHSd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    prefix: PrefixCache | None = None,
    seen: list[tuple[nn.Module, int, int]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One layer's attention; the signature is transformers' attention interface.

    Args:
        module: The layer's attention module; its `layer_idx`, set by `Encoder`, says which layer.
        query_BHTd: Queries.
        key_BHSd: Keys of the text.
        value_BHSd: Values of the text.
        attention_mask: Additive, [B, 1, 1 or T, S], or None.
        scaling: Of the scores; 1 / sqrt(d) when absent.
        prefix: What comes before the text.
        seen: When given, (module, heads, head width) is appended: how `Encoder` learns that it is called.

    Returns:
        The output, [B, T, H, d], and None for the weights.
    """
    if seen is not None:
        seen.append((module, key_BHSd.shape[1], key_BHSd.shape[3]))
    if prefix is not None:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        attention_mask = _with_prefix(attention_mask, prefix, query_BHTd, key_BHSd)
        key_BHSd = torch.cat([prefix.keys_LBHPd[layer], key_BHSd], dim=2)
        value_BHSd = torch.cat([prefix.values_LBHPd[layer], value_BHSd], dim=2)
    run = _plain if _prefers_plain(query_BHTd, key_BHSd) else _fused
    scale = query_BHTd.shape[-1] ** -0.5 if scaling is None else scaling
    return run(query_BHTd, key_BHSd, value_BHSd, attention_mask, scale).transpose(1, 2), None


def _with_prefix(mask: Tensor | None, prefix: PrefixCache, query_BHTd: Tensor, key_BHSd: Tensor) -> Tensor:
    """The text's mask with the prefix's put before it: a prefix is seen from everywhere, windows included."""
    batch, num_keys = key_BHSd.shape[0], key_BHSd.shape[2]
    if mask is None:
        mask = query_BHTd.new_zeros(batch, 1, 1, num_keys)
    bias = prefix.bias_B11P.expand(-1, -1, mask.shape[2], -1)
    return torch.cat([bias, mask.expand(batch, -1, -1, -1)], dim=3)


def _prefers_plain(query: Tensor, key: Tensor) -> bool:
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return slow and torch.is_grad_enabled() and key.shape[2] <= _MATH_KEYS


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if mask is not None:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _plain(query_BHTd: Tensor, key_BHSd: Tensor, value_BHSd: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    batch, num_heads, num_queries, width = query_BHTd.shape
    num_keys = key_BHSd.shape[2]
    query = query_BHTd.reshape(-1, num_queries, width)
    key = key_BHSd.reshape(-1, num_keys, width)
    if mask is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        bias = mask.expand(batch, num_heads, -1, -1).reshape(-1, mask.shape[2], num_keys)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    # In fp32: the bf16 kernel is three times slower unless the number of keys is a multiple of 32.
    shares = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    output = torch.bmm(shares, value_BHSd.reshape(-1, num_keys, width))
    return output.view(batch, num_heads, num_queries, width)


def _mask(*, mask_function: Callable[..., Any], **kwargs: Any) -> Tensor | None:
    """Additive mask. Where every query sees the same keys, one line of it is enough."""
    mask: Tensor | None = eager_mask(mask_function=mask_function, **kwargs)
    return mask[:, :, :1] if mask is not None and mask_function is bidirectional_mask_function else mask


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
