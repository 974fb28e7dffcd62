"""Zero-shot: the label whose words fit the text best; the training rows only set zero points.

A base that writes scores the labels' words as the answer under a template. Of any other, the label whose description is
nearest to the text is taken.
"""

from dataclasses import replace

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, Template, Verbalizer
from tunewright.backbones.inference import predict
from tunewright.data.labels import in_words
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.writing import written
from tunewright.prompts.calibration import zero_points
from tunewright.prompts.templates import PROMPTS, prompt
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.prompts.writing import INSTRUCTIONS
from tunewright.types import Example, Params

_SCALE = 20.0

NOTHING_SAID = ("N/A", "", "[MASK]")
"""Texts without content, by which contextual calibration asks what a prompt says by itself (Zhao et al. 2021, 5)."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The phrases of every label and, if asked, zero points that set the labels' mean share on the training texts.

    Where texts are generated, the template alone.
    """
    if material.task.kind == "generate":
        return material.adapter(**written(material, INSTRUCTIONS[str(params["template"])]))
    if not material.backbone.writes:
        groups = label_phrases(material.task, str(params["words"]), TEMPLATES[str(params["template"])])
        return calibrated(material.adapter(verbalizer=Verbalizer(phrases=groups, scale=_SCALE)), material, params)
    fixed, row = prompt(material.task, str(params["template"]))
    groups = label_phrases(material.task, str(params["words"]), TEMPLATES["bare"])
    adapter = material.adapter(
        template=Template(fixed=fixed, row=row), verbalizer=Verbalizer(phrases=groups, scale=1.0)
    )
    return calibrated(adapter, material, params)


def calibrated(adapter: Adapter, material: Material, params: Params) -> Adapter:
    """With zero points, unless none are asked for."""
    if params["calibration"] == "none":
        return adapter
    if params["calibration"] == "contextual":
        empty = [Example(id=text, text=text) for text in NOTHING_SAID]
        bias_C = -predict(adapter, material.backbone.encode_for(empty, adapter), material.store).mean(0)
    else:
        encodings = material.rows.encodings
        if adapter.template is not None:
            encodings = material.backbone.encode_for(material.examples[:_ASKED], adapter)
        bias_C = zero_points(predict(adapter, encodings, material.store), _shares(material, params))
    return replace(adapter, calibration=Calibration(bias_C=bias_C))


_ASKED = 200
"""Training rows that are scored under a template to set zero points: there is no store of what they came to."""


def fitting(material: Material) -> tuple[str, ...]:
    """The prompts whose own words take at most a quarter of the context; the first where none does."""
    count = material.backbone.token_ids
    words = {name: sum(len(count(part)) for part in prompt(material.task, name)) for name in PROMPTS}
    found = tuple(name for name, num in words.items() if num <= material.backbone.max_tokens // 4)
    return found or tuple(PROMPTS)[:1]


def _shares(material: Material, params: Params) -> torch.Tensor:
    """Target share of each label: the same for all, or as in the training rows."""
    counts_C = torch.bincount(material.rows.labels_N, minlength=material.num_labels).float() + 1
    if params["calibration"] == "uniform":
        counts_C = torch.ones_like(counts_C)
    return counts_C / counts_C.sum()


def space(material: Material) -> Space:
    """Templates, which words of a label, and whether to set zero points."""
    task = material.task
    if task.kind == "generate":
        return {"template": Choice(options=tuple(INSTRUCTIONS))}
    described = any(task.descriptions[label] != in_words(label) for label in task.labels)
    if material.backbone.writes:
        return {
            "template": Choice(options=fitting(material)),
            "words": Choice(options=("name", "description") if described else ("name",)),
            "calibration": Choice(options=("uniform", "contextual", "none", "train-shares")),
        }
    return {
        "template": Choice(options=tuple(TEMPLATES)),
        "words": Choice(options=("both", "name", "description") if described else ("name",)),
        "calibration": Choice(options=("uniform", "none", "train-shares")),
    }


METHOD = Method(
    name="zero-shot",
    family="no training",
    summary="Compares the text with the words of the labels, in the best of several templates.",
    trains="nothing; a template is chosen, C zero points are set",
    serves="one pass of the bare base; C directions, or a prefix, are kept",
    place=place,
    space=space,
    kinds=("classify", "generate"),
)
