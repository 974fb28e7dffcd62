"""Few-shot: the nearest labelled examples, which vote; or, where texts are generated, a few rows shown before all."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import DemonstrationPool
from tunewright.backbones.answers import unit
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.writing import shown, written
from tunewright.prompts.writing import INSTRUCTIONS
from tunewright.types import Params, whole_text


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The training rows as a pool with their features; to generate, some of them in the template."""
    if material.task.kind == "generate":
        template = INSTRUCTIONS[str(params["template"])]
        return material.adapter(**written(material, shown(material, template, int(params["shots"]), rng)))
    pool = DemonstrationPool(
        texts=tuple(whole_text(e) for e in material.examples),
        labels_N=material.rows.labels_N,
        vectors_ND=unit(material.store(material.rows.encodings)),
        num_neighbours=int(params["neighbours"]),
        temperature=float(params["temperature"]),
    )
    return material.adapter(demonstrations=pool)


def space(material: Material) -> Space:
    """How many neighbours vote, and how much more the nearer ones count."""
    if material.task.kind == "generate":
        return {"shots": Choice(options=(4, 2, 8, 16)), "template": Choice(options=tuple(INSTRUCTIONS))}
    counts = tuple(k for k in (8, 1, 3, 16, 32, 64) if k <= max(1, len(material.examples) // 2))
    return {"neighbours": Choice(options=counts), "temperature": Choice(options=(0.1, 0.03, 0.3, 1.0))}


METHOD = Method(
    name="few-shot",
    family="no training",
    summary="Retrieves the nearest labelled examples and lets them vote.",
    trains="nothing; the N training rows are kept as a pool",
    serves="one pass of the bare base and a search among N vectors",
    place=place,
    space=space,
    kinds=("classify", "generate"),
)
