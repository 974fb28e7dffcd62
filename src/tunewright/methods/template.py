"""Template: the user's present prompt as it is, so that everything else is measured against it."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.methods.base import Material, Method
from tunewright.methods.prompting import asking, cannot_be_asked
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The prompt, answered by the labels' names or in text; no zero points."""
    assert material.prompt is not None, "left out before"
    return material.adapter(**asking(material, material.prompt))


METHOD = Method(
    name="template",
    family="no training",
    summary="Asks with your own prompt as it is (--template).",
    trains="nothing",
    serves="one pass of the bare base behind the prompt",
    place=place,
    refuses=cannot_be_asked,
    by_words=True,
    kinds=("classify", "choose", "generate"),
    needs="template",
)
