"""Copy: the input is the answer. Where much of the target stands in the input already, this is hard to beat."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import CopiedInput
from tunewright.methods.base import Material, Method
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Nothing but the part."""
    return material.adapter(copied_input=CopiedInput())


METHOD = Method(
    name="copy-input",
    family="no training",
    summary="Answers with the input itself: a floor that everything that generates must beat.",
    trains="nothing",
    serves="nothing: the model is not run",
    place=place,
    kinds=("generate",),
    runs_base=False,
)
