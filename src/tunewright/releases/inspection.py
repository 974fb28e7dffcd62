"""What is in an adapter, for a person to read: its parts, where it belongs, and its soft prompt as nearest words.

That a soft prompt's nearest words say what it does is not to be expected (Khashabi et al. 2022, "Prompt waywardness").

Shapes: P virtual tokens, V vocabulary, D width of the embeddings, K words shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Lora, Part, Prefix
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.foreign import is_foreign, named_base, read_foreign
from tunewright.backbones.kinds import open_backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSummary:
    """One part."""

    name: str
    bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any]
    """What is not a tensor: templates, phrases, texts of demonstrations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Near:
    """A word of the vocabulary beside a vector."""

    word: str
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorReading:
    """One vector of a soft prompt."""

    norm: float
    by_cosine: tuple[Near, ...]
    by_dot: tuple[Near, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptReading:
    """A soft prompt against the base's vocabulary."""

    vectors: tuple[VectorReading, ...]
    vocabulary_norms: tuple[float, float, float]
    """5th percentile, median and 95th percentile of the norms of the base's word embeddings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNorm:
    """How much a LoRA or a prefix does in a place of the base."""

    place: str
    norm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Everything about an adapter."""

    base: BaseIdentity | None
    """None where the folder does not say: PEFT's."""
    sha256: str
    labels: tuple[str, ...]
    max_tokens: int
    bytes: int
    about: Mapping[str, Any]
    """Task, method, parameters and scores of its training."""
    parts: tuple[PartSummary, ...]
    soft_prompt: PromptReading | None
    norms: tuple[LayerNorm, ...]
    """Frobenius norms: of a LoRA's update of each linear layer, of a prefix's keys and values in each layer."""


def read_adapter(path: Path, *, model: str | None = None, top: int = 5) -> Inspection:
    """What is in an adapter. The base is opened only where it is asked for: for a soft prompt, or a folder of PEFT's.

    Args:
        path: The folder, ours or PEFT's.
        model: Where the base is, when not under the name it had in training.
        top: Words for each vector of a soft prompt.

    Raises:
        AdapterError: No adapter there, or of another base.
        ModelError: The base cannot be loaded.
    """
    if is_foreign(path):
        backbone = _open(named_base(path) if model is None else model)
        adapter = read_foreign(path, backbone)
        return inspect(adapter, known_base=False, vocabulary=backbone, top=top)
    adapter = folder.load(path)
    if adapter.soft_prompt is None and model is None:
        return inspect(adapter, known_base=True, vocabulary=None, top=top)
    backbone = _open(adapter.base.name if model is None else model)
    backbone.check(adapter)
    return inspect(adapter, known_base=True, vocabulary=backbone, top=top)


def _open(name: str) -> Backbone:
    return open_backbone(load_checkpoint(name), dtype=torch.float32, device=torch.device("cpu"))


def inspect(adapter: Adapter, *, known_base: bool, vocabulary: Backbone | None, top: int) -> Inspection:
    """Reads an adapter.

    Args:
        adapter: The adapter.
        known_base: Whether its folder says where it belongs.
        vocabulary: The base, to read a soft prompt by.
        top: K.
    """
    prompt, reading = adapter.soft_prompt, None
    if prompt is not None and vocabulary is not None:
        reading = read_prompt(prompt.vectors_PD, vocabulary.word_embeddings, vocabulary.words, top)
    return Inspection(
        base=adapter.base if known_base else None,
        sha256=adapter.sha256(),
        labels=adapter.labels,
        max_tokens=adapter.max_tokens,
        bytes=adapter.num_bytes(),
        about=dict(adapter.about),
        parts=tuple(_summary(name, part) for name, part in adapter.parts().items()),
        soft_prompt=reading,
        norms=(*_lora_norms(adapter.lora), *_prefix_norms(adapter.prefix)),
    )


def read_prompt(
    vectors_PD: Tensor, table_VD: Tensor, words: Callable[[list[int]], list[str]], top: int
) -> PromptReading:
    """Nearest words of each vector, by cosine and by dot product.

    Args:
        vectors_PD: The soft prompt.
        table_VD: Embeddings as they enter the base.
        words: Token ids -> what they stand for.
        top: K, at most V.
    """
    vectors_PD, table_VD = vectors_PD.float(), table_VD.float()
    dot_PV = vectors_PD @ table_VD.T
    lengths_V, norms_P = table_VD.norm(dim=1), vectors_PD.norm(dim=1)
    cosine_PV = dot_PV / (norms_P[:, None] * lengths_V).clamp(min=torch.finfo(torch.float32).tiny)
    nearest = [_nearest(scores_PV, words, min(top, len(table_VD))) for scores_PV in (cosine_PV, dot_PV)]
    low, median, high = torch.quantile(lengths_V, torch.tensor([0.05, 0.5, 0.95])).tolist()
    return PromptReading(
        vectors=tuple(
            VectorReading(norm=norm, by_cosine=by_cosine, by_dot=by_dot)
            for norm, by_cosine, by_dot in zip(norms_P.tolist(), *nearest, strict=True)
        ),
        vocabulary_norms=(low, median, high),
    )


def _nearest(scores_PV: Tensor, words: Callable[[list[int]], list[str]], top: int) -> list[tuple[Near, ...]]:
    values_PK, ids_PK = scores_PV.topk(top)
    return [
        tuple(Near(word=word, similarity=value) for word, value in zip(words(ids), values, strict=True))
        for ids, values in zip(ids_PK.tolist(), values_PK.tolist(), strict=True)
    ]


def _summary(name: str, part: Part) -> PartSummary:
    tensors = part.tensors()
    return PartSummary(
        name=name,
        bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
        shapes={key: tuple(t.shape) for key, t in tensors.items()},
        settings=part.settings(),
    )


def _lora_norms(lora: Lora | None) -> list[LayerNorm]:
    """Of scaling x B A, through the small products: ||B A||^2 = trace(B^T B A A^T)."""
    if lora is None:
        return []
    grams = {name: (lora.up[name].T @ lora.up[name], lora.down[name] @ lora.down[name].T) for name in lora.down}
    return [
        LayerNorm(place=name, norm=lora.scaling * float((up_rr * down_rr.T).sum().clamp(min=0).sqrt()))
        for name, (up_rr, down_rr) in grams.items()
    ]


def _prefix_norms(prefix: Prefix | None) -> list[LayerNorm]:
    if prefix is None:
        return []
    both = (("keys", prefix.keys_LHPd), ("values", prefix.values_LHPd))
    return [
        LayerNorm(place=f"layer {k} {what}", norm=float(tensor.norm()))
        for k in range(len(prefix.keys_LHPd))
        for what, tensor in ((what, values_LHPd[k]) for what, values_LHPd in both)
    ]
