"""Prompt ensemble: the best of several searched prompts answer together (Jiang et al. 2020, section 4)."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.members import Member, Members
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.prompt_search import best
from tunewright.methods.prompting import cannot_be_asked
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The best prompts of a pool, each calibrated by itself; the search is part of placing, and of its time."""
    found = [each.adapter(material) for each in best(material, int(params["pool"]), rng, int(params["members"]))]
    members = [
        Member(template=each.template, verbalizer=each.verbalizer, calibration=each.calibration)
        for each in found
        if each.template is not None
    ]
    return material.adapter(members=Members(members=tuple(members)), decoding=found[0].decoding)


def space(material: Material) -> Space:
    """How many prompts answer, and how many are drawn: each trial draws anew."""
    return {"members": Choice(options=(3, 5, 2)), "pool": Choice(options=(8, 16, 32))}


METHOD = Method(
    name="prompt-ensemble",
    family="no training",
    summary="Lets the best of several searched prompts answer together: the mean of probabilities, or a vote.",
    trains="nothing; prompts are chosen, C zero points are set for each",
    serves="one pass of the bare base for each prompt, in one batch",
    place=place,
    space=space,
    refuses=lambda base: (
        None if base.takes_members else cannot_be_asked(base) or "it is asked with one prompt at a time"
    ),
    by_words=True,
    kinds=("classify", "generate"),
)
