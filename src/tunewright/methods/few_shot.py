"""Few-shot: a base that writes sees answered examples before each row; for others the nearest examples vote."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import DemonstrationPool
from tunewright.backbones.answers import unit
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.prompting import (
    RETRIEVED,
    asking,
    calibrated,
    calibrations,
    prompts,
    retrievals,
    retrieving,
    shown,
    templates,
)
from tunewright.types import Params, whole_text


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Some training rows before every row, run once, or before each row its nearest; or all of them as voters."""
    if not material.backbone.answers_prompts:
        return material.adapter(demonstrations=_voters(material, params))
    prompt, count, choice = prompts(material)[str(params["template"])], int(params["shots"]), str(params["choice"])
    if choice in RETRIEVED:
        adapter = material.adapter(**asking(material, prompt), retriever=retrieving(material, prompt, count, choice))
    else:
        prompt, rows = shown(material, prompt, count, rng, stratified=choice == "stratified")
        adapter = material.adapter(**asking(material, prompt)).with_about({"shots": len(rows)})
    return calibrated(adapter, material, params)


def _voters(material: Material, params: Params) -> DemonstrationPool:
    return DemonstrationPool(
        texts=tuple(whole_text(e) for e in material.examples),
        labels_N=material.rows.labels_N if material.rows.sets_NC is None else material.rows.sets_NC,
        vectors_ND=unit(material.store(material.rows.encodings)),
        num_neighbours=int(params["neighbours"]),
        temperature=float(params["temperature"]),
    )


def space(material: Material) -> Space:
    """How many rows are shown, which, and under which words; or how many vote, and how much more the nearer count."""
    most = max(1, len(material.examples) // 2)
    turns = ("stratified",) if material.task.kind == "classify" else ()
    if material.backbone.answers_prompts:
        return {
            "shots": Choice(options=tuple(k for k in (8, 4, 16, 2, 32) if k <= most) or (1,)),
            "template": templates(material),
            "choice": Choice(options=(*turns, "random", *retrievals(material))),
            **calibrations(material, "uniform", "contextual", "pmi", "none"),
        }
    counts = tuple(k for k in (8, 1, 3, 16, 32, 64) if k <= most)
    return {"neighbours": Choice(options=counts), "temperature": Choice(options=(0.1, 0.03, 0.3, 1.0))}


METHOD = Method(
    name="few-shot",
    family="no training",
    summary="Shows labelled examples before each text; an encoder retrieves the nearest and lets them vote.",
    trains="nothing; some training rows are kept as text, or all N as a pool",
    serves="keys and values of the examples, run once; or a search among N and a longer row",
    place=place,
    space=space,
    by_words=True,
    uses="vector_store",
)
