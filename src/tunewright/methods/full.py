"""Full fine-tuning: every parameter of the base, as fp32 masters."""

from dataclasses import replace

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Weights
from tunewright.methods.base import Material, Method, Range, Space
from tunewright.methods.heads import answering, head_rates, narrowness
from tunewright.methods.label_words import answer_choices
from tunewright.training.optim import Rates
from tunewright.types import Params

HEAD_RATE = 10.0


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The base's own values and a head from the labels' words."""
    adapter = material.adapter(**answering(material, params))
    return replace(adapter, weights=own_weights(material, adapter))


def own_weights(material: Material, adapter: Adapter) -> Weights:
    """The base's values that take part in an answer, one in text or one from features, to be trained.

    Of the word embeddings only the rows that occur in the training texts, and in the words around them, are held: the
    others get no gradient and, as embeddings are not decayed, would never move. Where a decoder's head shares them, its
    other rows stand still, though a loss over all words would move them a little: a word that no target has.

    Args:
        material: Base and training rows.
        adapter: What will stand around a row.
    """
    backbone = material.weights
    masters, writing = backbone.masters().items(), adapter.head is None
    values = {name: value.clone() for name, value in masters if backbone.is_run(name, writing=writing)}
    encodings = material.rows.encodings
    if adapter.template is not None:
        encodings = [*encodings, *backbone.encode_for(material.examples, adapter)]
    ids_V = torch.tensor(sorted({i for ids in (*(e.ids for e in encodings), *material.rows.answers) for i in ids}))
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
    return {"lr": Range(low=1e-5 * scale, high=2e-4 * scale, default=5e-5 * scale), **answer_choices(material)}


METHOD = Method(
    name="full",
    family="fine-tuning",
    summary="Learns all weights of the base.",
    trains="all parameters of the base (word embeddings: those of the training texts) + (D + 1) C",
    serves="a base of its own in memory; its rows do not mix with others",
    place=place,
    space=space,
    trained=trained,
    learns="weights",
)
