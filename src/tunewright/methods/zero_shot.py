"""Zero-shot: the answer that fits the text best; the training rows only set zero points.

A base that writes answers under a prompt, in text or by the labels' words. Of any other, the label whose description is
nearest to the text is taken.
"""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Verbalizer
from tunewright.data.labels import in_words
from tunewright.methods.base import Choice, Material, Method, Space, cannot_tell_words
from tunewright.methods.label_words import AUTOMATIC, PROTOTYPES, by_words
from tunewright.methods.prompting import calibrated, calibrations, prompts, templates
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.types import Params

_SCALE = 20.0


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A prompt, or the phrases of every label; and if asked, zero points."""
    words, template = str(params.get("words", "name")), str(params["template"])
    if material.backbone.answers_prompts:
        parts = by_words(material, prompts(material)[template], words)
    else:
        phrases = label_phrases(material.task, words, TEMPLATES[template])
        parts = {"verbalizer": Verbalizer(phrases=phrases, scale=_SCALE)}
    return calibrated(material.adapter(**parts), material, params)


def space(material: Material) -> Space:
    """Templates, which words of a label, and whether to set zero points."""
    if material.backbone.answers_prompts:
        described = ("description",) if material.backbone.is_here else ()
        told = (AUTOMATIC, PROTOTYPES) if material.backbone.is_here and material.task.kind == "classify" else ()
        return {
            "template": templates(material),
            **words_of(material, "name", *described, *told),
            **calibrations(material, "uniform", "contextual", "pmi", "none", "train-shares"),
        }
    return {
        "template": Choice(options=tuple(TEMPLATES)),
        **words_of(material, "both", "name", "description"),
        **calibrations(material, "uniform", "none", "train-shares"),
    }


def words_of(material: Material, *which: str) -> dict[str, Choice]:
    """Which words stand for a label, for a space: descriptions where there are any, nothing where texts are written."""
    task = material.task
    described = any(task.descriptions[label] != in_words(label) for label in task.labels)
    if material.backbone.answers_prompts and task.names_labels:
        described = described and cannot_tell_words(material.backbone, task, "description") is None
    options = which if described else ("name", *(each for each in which if each in (AUTOMATIC, PROTOTYPES)))
    return {"words": Choice(options=options)} if task.names_labels else {}


METHOD = Method(
    name="zero-shot",
    family="no training",
    summary="Compares the text with the words of the labels, in the best of several templates.",
    trains="nothing; a template is chosen, C zero points are set",
    serves="one pass of the bare base; C directions, or a prefix, are kept",
    place=place,
    space=space,
    by_words=True,
)
