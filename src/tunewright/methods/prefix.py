"""Prefix: keys and values before the input in every layer (Li and Liang 2021; Liu et al. 2022, P-tuning v2)."""

import numpy as np
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Prefix
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Base
from tunewright.methods.base import Choice, Material, Method, Range, Space
from tunewright.methods.heads import answering, head_rates, inits, lengths, narrowness, noise, start_vectors
from tunewright.methods.label_words import answer_choices
from tunewright.training.optim import Rates
from tunewright.types import Params

HEAD_RATE = 0.3
"""Of the prefix's rate, which is high for a head."""

NOISE = "noise"
"""The start where later tokens would change what words leave; large random ones disturb the base most."""

_NOISE = 0.3


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Keys and values that words leave (section 7.4), or small noise; and a head from the labels' words."""
    length, init = int(params["length"]), str(params.get("init", NOISE))
    prefix = None
    if init != NOISE:
        prefix = material.weights.cache_of(start_vectors(material, init, length, rng))
    if prefix is None:
        prefix = small_prefix(material, length, rng)
    return material.adapter(prefix=prefix, **answering(material, params))


def small_prefix(material: Material, length: int, rng: np.random.Generator) -> Prefix:
    """Keys and values of small noise."""
    shape = material.weights.prefix_shape
    assert shape is not None, "refused before"
    num_layers, num_heads, width = shape

    def part() -> Tensor:
        return noise((num_layers, num_heads, length, width), _NOISE, rng)

    return Prefix(keys_LHPd=part(), values_LHPd=part())


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """Keys, values, and the head slower."""
    return {"prefix.keys": 1.0, "prefix.values": 1.0, **head_rates(adapter, HEAD_RATE)}


def space(material: Material) -> Space:
    """Short prefixes first; on a decoder, the words whose cache it starts from."""
    scale = narrowness(material)
    space: dict[str, Range | Choice] = {
        "lr": Range(low=3e-3 * scale, high=6e-2 * scale, default=2e-2 * scale),
        "length": lengths((20, 10, 5, 50), material),
    }
    if material.weights.cache_of(material.weights.word_embeddings[:1]) is not None:
        space["init"] = Choice(options=(*inits(material).options, NOISE))
    return {**space, **answer_choices(material)}


def refuses(backbone: Base) -> str | None:
    """A base whose attention does not go through transformers' interface."""
    if isinstance(backbone, Backbone) and backbone.prefix_shape is not None:
        return None
    return f"{backbone.identity.name} computes attention on its own, not through transformers' interface"


METHOD = Method(
    name="prefix",
    family="soft prompts",
    summary="Learns keys and values before the input in every layer; the base stays frozen.",
    trains="2 L P H d + (D + 1) C",
    serves="P more keys in each layer, no more tokens",
    place=place,
    space=space,
    trained=trained,
    learns="prefix",
    refuses=refuses,
)
