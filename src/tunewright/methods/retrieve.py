"""Retrieve: passages of documents stand before each row, for the base to answer from (Lewis et al. 2020, section 2)."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.answers import unit
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.prompting import asking, calibrated, calibrations, cannot_be_asked, prompts, templates
from tunewright.types import Example, Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """All passages, of which each row gets the nearest before it."""
    prompt, by = prompts(material)[str(params["template"])], str(params["by"])
    passages = [Example(id=str(k), text=text) for k, text in enumerate(material.documents)]
    vectors_ND = None
    if by == "nearest":
        vectors_ND = unit(material.store(material.backbone.encode(passages, material.max_tokens)))
    retriever = Retriever(
        texts=tuple(material.documents),
        shown=tuple(f"{text}\n\n" for text in material.documents),
        num_shown=int(params["passages"]),
        vectors_ND=vectors_ND,
    ).moved(material.vector_store)
    return calibrated(material.adapter(**asking(material, prompt), retriever=retriever), material, params)


def space(material: Material) -> Space:
    """The template, how many passages, how they are found, and the zero points."""
    by = ("bm25", "nearest") if material.backbone.is_here else ("bm25",)
    return {
        "template": templates(material),
        "passages": Choice(options=tuple(k for k in (3, 1, 5) if k <= len(material.documents)) or (1,)),
        "by": Choice(options=by),
        **calibrations(material, "uniform", "none"),
    }


METHOD = Method(
    name="retrieve",
    family="no training",
    summary="Puts the passages of your documents (--documents) that are nearest to a row before it.",
    trains="nothing; the documents are kept as passages",
    serves="a search among the passages, and a longer row",
    place=place,
    space=space,
    refuses=cannot_be_asked,
    by_words=True,
    kinds=("classify", "generate"),
    needs="documents",
    uses="vector_store",
)
