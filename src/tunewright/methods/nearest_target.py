"""Nearest target: the target of the training input with the most similar words. What cannot beat it only looks up."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import NearestTarget
from tunewright.methods.base import Material, Method
from tunewright.types import Params, whole_text


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The training rows, the first target of each input."""
    first = {whole_text(example): str(example.target) for example in reversed(material.examples)}
    texts = tuple(reversed(first))
    return material.adapter(nearest_target=NearestTarget(texts=texts, targets=tuple(first[text] for text in texts)))


METHOD = Method(
    name="nearest-target",
    family="no training",
    summary="Answers with the target of the training input of the most similar words (TF-IDF): a floor.",
    trains="nothing; the N training rows are kept",
    serves="a search among N texts; the model is not run",
    place=place,
    kinds=("generate",),
    runs_base=False,
)
