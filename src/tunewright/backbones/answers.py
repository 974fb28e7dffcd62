"""From readings to logits: head, verbalizer, demonstrations and calibration of an adapter.

Shapes: B rows, D width, C labels, N pool rows, K neighbours, F phrases, E = D + F where phrases are scored, else D.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import DemonstrationPool, Head, Verbalizer
from tunewright.backbones.dropout import Dropout

Embed = Callable[[tuple[str, ...]], Tensor]
"""Texts -> features, [texts, D], under the same adapter."""

_EMPTY = 1e-6
"""Weight of a label none of the neighbours has."""


def answer(adapter: Adapter, readings_BE: Tensor, embed: Embed, dropout: Dropout | None = None) -> Tensor:
    """Logits [B, C], fp32: the sum of what the adapter's answering parts say.

    Args:
        adapter: Whose parts answer.
        readings_BE: Pooled output of the base under this adapter, fp32, with each of the row's candidates where
            these are paired with its text; then the scores of phrases, if any.
        embed: Features of the verbalizer's phrases.
        dropout: On the head's input, while training.
    """
    if adapter.members is not None:
        return _averaged(adapter, readings_BE, embed)
    verbalizer = adapter.verbalizer
    num_scores = adapter.num_phrases
    features_BD, scores_BF = readings_BE.split([readings_BE.shape[1] - num_scores, num_scores], 1)
    logits_BC: Tensor = features_BD.new_zeros(features_BD.shape[0], len(adapter.labels))
    if adapter.head is not None and adapter.pairs_choices:
        features_BCD = features_BD.unflatten(1, (len(adapter.labels), -1))
        logits_BC = logits_BC + _by_head(adapter.head, features_BCD, dropout).squeeze(-1)
    elif adapter.head is not None:
        logits_BC = logits_BC + _by_head(adapter.head, features_BD, dropout)
    if verbalizer is not None and num_scores:
        logits_BC = logits_BC + _by_scores(verbalizer, scores_BF)
    elif verbalizer is not None:
        logits_BC = logits_BC + _by_verbalizer(verbalizer, features_BD, embed)
    elif adapter.scores_choices:
        logits_BC = logits_BC + scores_BF
    if adapter.demonstrations is not None:
        logits_BC = logits_BC + _by_neighbours(adapter.demonstrations, features_BD, len(adapter.labels))
    if adapter.calibration is not None and adapter.calibration.bias_C is not None:
        logits_BC = logits_BC + adapter.calibration.bias_C.to(logits_BC)
    return logits_BC


def _averaged(adapter: Adapter, readings_BE: Tensor, embed: Embed) -> Tensor:
    """The logarithm of the members' mean probabilities; each reads as many features as the others."""
    scored = [m.num_phrases for m in adapter.each]
    width = (readings_BE.shape[1] - sum(scored)) // len(scored)
    parts = readings_BE.split([width + num for num in scored], 1)
    shares = [answer(m, part, embed).log_softmax(-1) for m, part in zip(adapter.each, parts, strict=True)]
    return torch.stack(shares).logsumexp(0) - math.log(len(shares))


def _by_head(head: Head, features_BD: Tensor, dropout: Dropout | None) -> Tensor:
    values = features_BD if dropout is None else dropout(features_BD)
    return nn.functional.linear(values, head.weight_CD.to(values), head.bias_C.to(values))


def _by_verbalizer(verbalizer: Verbalizer, features_BD: Tensor, embed: Embed) -> Tensor:
    # Features from a store lie on the CPU, those of the phrases where the base runs.
    return verbalizer.scale * unit(features_BD) @ directions(verbalizer.phrases, embed).to(features_BD).T


def _by_scores(verbalizer: Verbalizer, scores_BF: Tensor) -> Tensor:
    groups = scores_BF.split([len(phrases) for phrases in verbalizer.phrases], 1)
    means_BC = torch.stack([scores_Bf.mean(1) for scores_Bf in groups], 1)
    logits_BC: Tensor = means_BC * verbalizer.scale
    return logits_BC


def _by_neighbours(pool: DemonstrationPool, features_BD: Tensor, num_labels: int) -> Tensor:
    similarity_BN = unit(features_BD) @ pool.vectors_ND.to(features_BD).T
    nearest_BK, index_BK = similarity_BN.topk(min(pool.num_neighbours, similarity_BN.shape[1]))
    weights_BK = (nearest_BK / pool.temperature).softmax(-1)
    if pool.labels_N.ndim == 2:
        sets_BKC = pool.labels_N.to(weights_BK)[index_BK]
        return ((weights_BK[..., None] * sets_BKC).sum(1)).clamp(_EMPTY, 1 - _EMPTY).logit()
    shares_BC = features_BD.new_zeros(features_BD.shape[0], num_labels)
    shares_BC.scatter_add_(1, pool.labels_N.to(index_BK.device)[index_BK], weights_BK)
    return (shares_BC + _EMPTY).log()


def directions(groups: Sequence[tuple[str, ...]], embed: Embed) -> Tensor:
    """For each group of phrases, the mean direction of their features: [C, D], of length 1."""
    return unit(torch.stack([unit(embed(phrases)).mean(0) for phrases in groups]))


def unit(vectors: Tensor) -> Tensor:
    """The vectors at length 1, along the last dimension."""
    return nn.functional.normalize(vectors, dim=-1)
