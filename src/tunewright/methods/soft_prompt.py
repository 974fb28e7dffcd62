"""Soft prompt: vectors before the input, learned while the base stays frozen (Lester et al. 2021)."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import SoftPrompt
from tunewright.methods.base import Material, Method, Range, Space
from tunewright.methods.heads import answering, embedding_scale, head_rates, inits, lengths, start_vectors
from tunewright.methods.label_words import answer_choices
from tunewright.training.optim import Rates
from tunewright.types import Params

HEAD_RATE = 0.3
"""Of the prompt's rate, which is high for a head."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Embeddings of words, never noise, and a head from the labels' words."""
    vectors_PD = start_vectors(material, str(params["init"]), int(params["length"]), rng)
    return material.adapter(soft_prompt=SoftPrompt(vectors_PD=vectors_PD), **answering(material, params))


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """The prompt, and the head slower."""
    return {"soft_prompt.vectors": 1.0, **head_rates(adapter, HEAD_RATE)}


def space(material: Material) -> Space:
    """Short prompts first; rates for AdamW at the scale of the base's embeddings."""
    scale = embedding_scale(material)
    return {
        "lr": Range(low=5e-3 * scale, high=3e-2 * scale, default=1e-2 * scale),
        "length": lengths((20, 10, 5, 50, 100), material),
        "init": inits(material),
        **answer_choices(material),
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
    learns="soft_prompt",
)
