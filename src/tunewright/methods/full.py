"""Full fine-tuning: every parameter of the base, as fp32 masters."""

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Weights
from tunewright.methods.base import Material, Method, Range, Space
from tunewright.methods.heads import answering, head_rates, narrowness
from tunewright.training.optim import Rates
from tunewright.types import Params

HEAD_RATE = 10.0


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The base's own values and a head from the labels' words."""
    return material.adapter(weights=own_weights(material), **answering(material))


def own_weights(material: Material) -> Weights:
    """The base's values, to be trained.

    Of the word embeddings only the rows that occur in the training texts are held: the others get no gradient and, as
    embeddings are not decayed, would never move. Where a decoder's head shares them, its other rows stand still.
    """
    backbone = material.weights
    values = {name: value.clone() for name, value in backbone.masters().items()}
    rows = material.rows
    ids_V = torch.tensor(sorted({i for ids in (*(e.ids for e in rows.encodings), *rows.answers) for i in ids}))
    values[backbone.vocabulary_name] = values[backbone.vocabulary_name][ids_V]
    return Weights(values=values, vocabulary=backbone.vocabulary_name, vocabulary_ids_V=ids_V)


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """Everything; the head ten times as fast."""
    assert adapter.weights is not None
    rates = {f"weights.{name}": 1.0 for name in adapter.weights.values}
    return {**rates, **head_rates(adapter, HEAD_RATE)}


def space(material: Material) -> Space:
    """The rate."""
    scale = narrowness(material)
    return {"lr": Range(low=1e-5 * scale, high=2e-4 * scale, default=5e-5 * scale)}


METHOD = Method(
    name="full",
    family="fine-tuning",
    summary="Learns all weights of the base.",
    trains="all parameters of the base (word embeddings: those of the training texts) + (D + 1) C",
    serves="a base of its own in memory; its rows do not mix with others",
    place=place,
    space=space,
    trained=trained,
    kinds=("classify", "multi-label", "generate"),
    learns="weights",
)
