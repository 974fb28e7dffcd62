"""Attention to a shared prefix and to one's own tokens, one softmax over both, with a derivative written by hand.

Autograd would write each slice, sum and mask of the scores to memory once more, and again on the way back; on a CPU
that takes longer than the products. Here the scores are touched by a softmax, its derivative and two copies.

Shapes: B sequences times key/value heads, C of them or one for each head where all sequences share a prefix, X queries
of one key/value head, T own keys, P keys of the prefix, S = P + T, d head width.
"""

from typing import Any

import torch
from torch import Tensor


def attention(
    query_BXd: Tensor,
    key_BTd: Tensor,
    value_BTd: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    mask: Tensor,
    seen: int,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """Output [B, X, d].

    Args:
        query_BXd: Queries.
        key_BTd: Own keys.
        value_BTd: Own values.
        prefix: Keys and values [C, P, d].
        mask: Added to the scores, seen as [K, R, J, Q, S]; [R, 1, Q, S], or fp32 with the two other dimensions.
        seen: The first so many of its columns are zeros.
        scaling: Of the scores.
        softcap: Scores are bent into plus or minus this first.
    """
    if prefix is None:
        prefix = (key_BTd.new_zeros(1, 0, key_BTd.shape[2]),) * 2
    output: Tensor = _Attention.apply(query_BXd, key_BTd, value_BTd, *prefix, mask, seen, scaling, softcap)  # type: ignore[no-untyped-call]
    return output


def _shared(values_BXm: Tensor, prefix_CPd: Tensor) -> Tensor:
    """With the queries of all sequences that share a prefix as one long block: [C, Y, m]."""
    num = prefix_CPd.shape[0]
    return values_BXm.reshape(num, values_BXm.shape[0] // num * values_BXm.shape[1], values_BXm.shape[2])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, before_key: Tensor, before_value: Tensor, *how: Any
    ) -> Tensor:
        mask, seen, scaling, softcap = how
        size, scores_BXS = before_key.shape[1], _product(query, key.transpose(1, 2), scaling)
        if size > 0:
            before_CYP = _product(_shared(query, before_key), before_key.transpose(1, 2), scaling)
            scores_BXS = torch.cat([before_CYP.view(*query.shape[:2], size), scores_BXS], 2)
        bent_BXS = None
        if softcap is not None:
            bent_BXS = scores_BXS.div_(softcap).tanh_()
            scores_BXS = bent_BXS * softcap
        shares_BXS = _masked(scores_BXS, mask, seen).softmax(-1).to(query.dtype)
        before_CYP, own_BXT = _apart(shares_BXS, before_key)
        output_BXd = own_BXT @ value
        if size > 0:
            _shared(output_BXd, before_key).baddbmm_(before_CYP, before_value)
        ctx.save_for_backward(query, key, value, before_key, before_value, shares_BXS, bent_BXS)
        ctx.scaling = scaling
        return output_BXd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, before_key, before_value, shares_BXS, bent_BXS = ctx.saved_tensors
        output, size = gradients[0].contiguous(), before_key.shape[1]
        change_BXS = output @ value.transpose(1, 2)
        if size > 0:
            before_CYP = _shared(output, before_key) @ before_value.transpose(1, 2)
            change_BXS = torch.cat([before_CYP.view(*query.shape[:2], size), change_BXS], 2)
        change_BXS = torch._softmax_backward_data(change_BXS, shares_BXS, -1, shares_BXS.dtype)
        if bent_BXS is not None:
            change_BXS.addcmul_(change_BXS * bent_BXS, bent_BXS.to(change_BXS), value=-1)
        before_CYP, own_BXT = _apart(shares_BXS, before_key)
        before_change_CYP, own_change_BXT = _apart(change_BXS, before_key)
        query_change = _product(own_change_BXT, key, ctx.scaling)
        changes = [_product(own_change_BXT.transpose(1, 2), query, ctx.scaling), own_BXT.transpose(1, 2) @ output]
        if size > 0:
            _shared(query_change, before_key).baddbmm_(before_change_CYP, before_key, alpha=ctx.scaling)
        if size > 0 and ctx.needs_input_grad[3]:
            changes.append(_product(before_change_CYP.transpose(1, 2), _shared(query, before_key), ctx.scaling))
            changes.append(before_CYP.transpose(1, 2) @ _shared(output, before_key))
        return query_change, *changes, *[None] * (8 - len(changes))


def _product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """Scaled while it is summed."""
    return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scaling)


def _apart(values_BXS: Tensor, prefix_CPd: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of the prefix, [C, Y, P], and one's own; each by itself in memory, as products want it."""
    before_BXP, own_BXT = values_BXS.split([prefix_CPd.shape[1], values_BXS.shape[2] - prefix_CPd.shape[1]], 2)
    return _shared(before_BXP.contiguous(), prefix_CPd), own_BXT.contiguous()


def _masked(scores_BXS: Tensor, mask: Tensor, seen: int) -> Tensor:
    """Scores with the mask added, where it is not all zeros."""
    num_rows, num_queries, num_keys = mask.shape[-4], *mask.shape[-2:]
    scores_KRJQS = scores_BXS.view(-1, num_rows, scores_BXS.shape[1] // num_queries, num_queries, num_keys)
    if mask.dtype != scores_BXS.dtype:
        return (scores_KRJQS + mask).view(scores_BXS.shape)
    scores_KRJQS[..., seen:].add_(mask[..., seen:])
    return scores_BXS
