"""Attention that sees a prefix: registered with transformers as one more implementation.

The models' own code calls it through transformers' attention interface, so no model is patched. A model that does not
use the interface never calls it; `Encoder` finds that out by running one row and says that it cannot carry a prefix.

Shapes: B rows, H heads, T queries, S keys, P prefix positions, d head width, L layers.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from tunewright.adapters.parts import Prefix
from tunewright.backbones.scoring import Tree

NAME = "tunewright"

_MATH_KEYS, _MATH_KEYS_ALONE = 256, 64
"""In bf16 on a CPU the fused kernel is slower than plain matrix products up to about here: with its backward, alone."""


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """Keys and values of every row's prefix, padded to the longest, in the model's dtype."""

    keys_BHPd: Sequence[Tensor]
    """Of each layer: taken apart once, as the gradient of an index is as large as what it is taken from."""
    values_BHPd: Sequence[Tensor]
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
        both = (one.unbind() for one in stacks[order[0]])
        keys, values = ([t.expand(len(order), -1, -1, -1) for t in one] for one in both)
    else:
        keys, values = (list(one.unbind()) for one in torch.stack([stacks[key] for key in order], dim=2))
    return PrefixCache(keys_BHPd=keys, values_BHPd=values, bias_B11P=bias_BP[:, None, None, :])


def _padded(prefix: Prefix | None, longest: int, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Keys and values as [2, L, H, longest, d]; zeros where there is no position."""
    num_layers, num_heads, width = shape
    if prefix is None:
        return like.new_zeros(2, num_layers, num_heads, longest, width)
    both = torch.stack([prefix.keys_LHPd, prefix.values_LHPd]).to(like)
    return nn.functional.pad(both, (0, 0, 0, longest - prefix.length))


@dataclass(frozen=True, kw_only=True)
class Branching:
    """Tokens of a decoder that are no line but a tree."""

    depth_BT: Tensor
    """Position of each token: how many lead to it."""
    bias_B1TT: Tensor
    """0 where a token sees another, the dtype's lowest value where it does not."""

    def at_depths(self, bias_1HTT: Tensor) -> Tensor:
        """A bias of pairs of positions, for the pairs of these tokens: [B, H, T, T]."""
        index = (self.depth_BT[:, :, None], self.depth_BT[:, None, :])
        return bias_1HTT[0].permute(1, 2, 0)[index].permute(0, 3, 1, 2)


def branching(trees: Sequence[Tree], start: int, like: Tensor) -> Branching:
    """The nodes of trees, each tree after so many tokens that all of its nodes see.

    Args:
        trees: One for each row.
        start: Tokens before the nodes.
        like: Gives dtype and device.
    """
    longest = start + max(len(tree.tokens) for tree in trees)
    depths, seen = dict[int, Tensor](), dict[int, Tensor]()
    for tree in {id(tree): tree for tree in trees}.values():
        size = start + len(tree.tokens)
        depth_T, seen_TT = torch.zeros(longest, dtype=torch.long), torch.eye(longest, dtype=torch.bool)
        depth_T[:size] = torch.tensor([*range(start), *(start + depth for depth in tree.depths)])
        seen_TT[:size, :start] = torch.ones(size, start, dtype=torch.bool).tril()
        seen_TT[start:size, start:size] = tree.seen()
        depths[id(tree)], seen[id(tree)] = depth_T, seen_TT
    hidden_BTT = ~torch.stack([seen[id(tree)] for tree in trees])
    bias_BTT = torch.zeros(hidden_BTT.shape, dtype=like.dtype).masked_fill(hidden_BTT, torch.finfo(like.dtype).min)
    depth_BT = torch.stack([depths[id(tree)] for tree in trees])
    return Branching(depth_BT=depth_BT.to(like.device), bias_B1TT=bias_BTT[:, None].to(like.device))


@contextlib.contextmanager
def positions_of(table: nn.Module | None, tree: Branching | None) -> Iterator[None]:
    """Within the context, a table of learned positions gives those of a tree's depths.

    Args:
        table: BART's, which counts from an offset; None where there is none.
        tree: Of the pass.
    """
    if table is None or tree is None:
        yield
        return

    def at_depths(module: nn.Module, _inputs: Any, _output: Any) -> Tensor:
        return nn.functional.embedding(tree.depth_BT + int(module.offset), module.weight)  # type: ignore[arg-type]

    hook = table.register_forward_hook(at_depths)
    try:
        yield
    finally:
        hook.remove()


def attend(  # noqa: PLR0913, PLR0917
    module: nn.Module,
    query_BHTd: Tensor,
    key_BHSd: Tensor,
    value_BHSd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    prefix: PrefixCache | None = None,
    position_bias: Tensor | None = None,
    tree: Branching | None = None,
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
        position_bias: T5's, of each pair of positions, [1, H, T, S]; a prefix has no position.
        tree: Where tokens are no line, who sees whom among them: for self-attention that is causal.
        seen: When given, (module, heads, head width) is appended: how `Encoder` learns that it is called.

    Returns:
        The output, [B, T, H, d], and None for the weights.
    """
    if seen is not None:
        seen.append((module, key_BHSd.shape[1], key_BHSd.shape[3]))
    if tree is not None and module.is_causal:
        attention_mask = tree.bias_B1TT
        position_bias = None if position_bias is None else tree.at_depths(position_bias)
    if position_bias is not None:
        attention_mask = position_bias if attention_mask is None else attention_mask + position_bias
    if prefix is not None:
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        attention_mask = _with_prefix(attention_mask, prefix, query_BHTd, key_BHSd)
        key_BHSd = torch.cat([prefix.keys_BHPd[layer], key_BHSd], dim=2)
        value_BHSd = torch.cat([prefix.values_BHPd[layer], value_BHSd], dim=2)
    run = _plain if _prefers_plain(query_BHTd, key_BHSd) else _fused
    scale = query_BHTd.shape[-1] ** -0.5 if scaling is None else scaling
    return run(query_BHTd, key_BHSd, value_BHSd, attention_mask, scale).transpose(1, 2), None


def _with_prefix(mask: Tensor | None, prefix: PrefixCache, query_BHTd: Tensor, key_BHSd: Tensor) -> Tensor:
    """The text's mask with the prefix's put before it: a prefix is seen from everywhere, windows included."""
    batch, num_keys = key_BHSd.shape[0], key_BHSd.shape[2]
    if mask is None:
        mask = query_BHTd.new_zeros(batch, 1, 1, num_keys)
    bias = prefix.bias_B11P.expand(-1, mask.shape[1], mask.shape[2], -1)
    return torch.cat([bias, mask.expand(batch, -1, -1, -1)], dim=3)


def _prefers_plain(query: Tensor, key: Tensor) -> bool:
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return slow and key.shape[2] <= (_MATH_KEYS if torch.is_grad_enabled() else _MATH_KEYS_ALONE)


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
