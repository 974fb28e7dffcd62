"""Soft prompt: vectors before the input, learned while the base stays frozen (Lester et al. 2021)."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import SoftPrompt
from tunewright.methods.base import Choice, Material, Method, Range, Space
from tunewright.methods.heads import probed_head, start_ids, word_embeddings
from tunewright.training.optim import Rates
from tunewright.types import Params

_REFERENCE_RMS = 0.02
"""Root mean square of embeddings for which the rates of the search space are meant."""

HEAD_RATE = 0.1
"""The head starts fitted, so it moves slower than the prompt."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Embeddings of words, never noise, and a head fitted on the bare features."""
    ids = start_ids(material, str(params["init"]), int(params["length"]), rng)
    return material.adapter(
        soft_prompt=SoftPrompt(vectors_PD=word_embeddings(material)[ids].clone()), head=probed_head(material)
    )


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:  # noqa: ARG001
    """The prompt, and the head at a tenth of its rate."""
    return {"soft_prompt.vectors": 1.0, "head.weight": HEAD_RATE, "head.bias": HEAD_RATE}


def space(material: Material) -> Space:
    """Short prompts first; rates for AdamW at the scale of the base's embeddings."""
    scale = float(word_embeddings(material).square().mean().sqrt()) / _REFERENCE_RMS
    limit = material.max_tokens // 2
    return {
        "lr": Range(low=5e-3 * scale, high=3e-2 * scale, default=1e-2 * scale),
        "length": Choice(options=tuple(p for p in (20, 10, 5, 50, 100) if p <= limit)),
        "init": Choice(options=("labels", "vocabulary")),
    }


METHOD = Method(
    name="soft-prompt",
    family="soft prompts",
    summary="Learns vectors that stand before the input; the base stays frozen.",
    trains="P D + (D + 1) C",
    serves="P more tokens in each request",
    place=place,
    space=space,
    trained=trained,
)
