"""Zero-shot: the label whose description is nearest to the text; the training rows only set zero points."""

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, Verbalizer
from tunewright.backbones.inference import predict
from tunewright.data.labels import in_words
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.writing import written
from tunewright.prompts.calibration import zero_points
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.prompts.writing import INSTRUCTIONS
from tunewright.types import Params

_SCALE = 20.0


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The phrases of every label and, if asked, zero points that set the labels' mean share on the training texts.

    Where texts are generated, the template alone.
    """
    if material.task.kind == "generate":
        return material.adapter(**written(material, INSTRUCTIONS[str(params["template"])]))
    groups = label_phrases(material.task, str(params["words"]), TEMPLATES[str(params["template"])])
    adapter = material.adapter(verbalizer=Verbalizer(phrases=groups, scale=_SCALE))
    if params["calibration"] == "none":
        return adapter
    logits_NC = predict(adapter, material.rows.encodings, material.store)
    return material.adapter(
        verbalizer=adapter.verbalizer, calibration=Calibration(bias_C=zero_points(logits_NC, _shares(material, params)))
    )


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
    return {
        "template": Choice(options=tuple(TEMPLATES)),
        "words": Choice(options=("both", "name", "description") if described else ("name",)),
        "calibration": Choice(options=("uniform", "none", "train-shares")),
    }


METHOD = Method(
    name="zero-shot",
    family="no training",
    summary="Compares the text with descriptions of the labels, in the best of several templates.",
    trains="nothing; a template is chosen, C zero points are set",
    serves="one pass of the bare base; C directions are kept",
    place=place,
    space=space,
    kinds=("classify", "generate"),
)
