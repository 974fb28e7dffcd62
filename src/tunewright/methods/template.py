"""Template: the user's present prompt as it is, so that everything else is measured against it."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.backbone import Backbone
from tunewright.methods.base import Material, Method, Space
from tunewright.methods.prompting import asking
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The prompt, answered by the labels' names or in text; no zero points."""
    assert material.prompt is not None, "left out before"
    return material.adapter(**asking(material, material.prompt))


def space(material: Material) -> Space:
    """Nothing to search."""
    return {}


def refuses(backbone: Backbone) -> str | None:
    """A base that cannot be asked in words."""
    return None if backbone.writes else f"{backbone.identity.name} writes no text; give a decoder with --model"


METHOD = Method(
    name="template",
    family="no training",
    summary="Asks with your own prompt as it is (--template).",
    trains="nothing",
    serves="one pass of the bare base behind the prompt",
    place=place,
    space=space,
    refuses=refuses,
    kinds=("classify", "generate"),
    needs="template",
)
