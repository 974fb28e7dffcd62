"""Zero-shot: the label whose description is nearest to the text; the training rows only set zero points."""

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, Verbalizer
from tunewright.backbones.inference import predict
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.types import Params, Task

TEMPLATES: dict[str, tuple[str, ...]] = {
    "many": (
        "{label}",
        "It was {label}.",
        "This text is about {label}.",
        "This is an example of {label}.",
        "The topic is {label}.",
    ),
    "about": ("This text is about {label}.",),
    "opinion": ("It was {label}.", "A {label} review.", "I found it {label}."),
    "feeling": ("I feel {label}.", "The tone is {label}."),
    "is": ("It is {label}.", "This is {label}."),
    "message": ("The message is a {label}.", "This is a {label} message."),
    "question": ("The question asks for {label}.",),
    "bare": ("{label}",),
}
"""Sets of templates for a label's words."""

_SCALE = 20.0


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The phrases of every label and, if asked, zero points that set the labels' mean share on the training texts."""
    groups = label_phrases(material.task, str(params["words"]), TEMPLATES[str(params["template"])])
    adapter = material.adapter(verbalizer=Verbalizer(phrases=groups, scale=_SCALE))
    if params["calibration"] == "none":
        return adapter
    logits_NC = predict(adapter, material.rows.encodings, material.store)
    return material.adapter(
        verbalizer=adapter.verbalizer, calibration=Calibration(bias_C=zero_points(logits_NC, _shares(material, params)))
    )


def label_phrases(task: Task, words: str, templates: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """For each label, each of its words in each template.

    Args:
        task: Labels and descriptions; a semicolon separates several words for a label.
        words: `name`, `description` or `both`.
        templates: With `{label}`.
    """
    groups = []
    for label in task.labels:
        name = label.replace("_", " ").replace("-", " ")
        described = tuple(word.strip() for word in task.descriptions[label].split(";") if word.strip())
        chosen = {"name": (name,), "description": described, "both": (name, *described)}[words]
        groups.append(tuple(dict.fromkeys(t.format(label=word) for word in chosen for t in templates)))
    return tuple(groups)


def _shares(material: Material, params: Params) -> torch.Tensor:
    """Target share of each label: the same for all, or as in the training rows."""
    counts_C = torch.bincount(material.rows.labels_N, minlength=material.num_labels).float() + 1
    if params["calibration"] == "uniform":
        counts_C = torch.ones_like(counts_C)
    return counts_C / counts_C.sum()


def zero_points(logits_NC: torch.Tensor, shares_C: torch.Tensor, num_rounds: int = 50) -> torch.Tensor:
    """Bias per label under which the mean probabilities of the rows equal the given shares.

    Fixed-point iteration on log shares; the texts' labels are not used.

    Args:
        logits_NC: Of the training texts.
        shares_C: Wanted mean probability of each label.
        num_rounds: Of the iteration.
    """
    bias_C = torch.zeros_like(shares_C)
    for _ in range(num_rounds):
        mean_C = (logits_NC + bias_C).softmax(-1).mean(0)
        bias_C = bias_C + shares_C.log() - (mean_C + 1e-9).log()
    return bias_C


def space(material: Material) -> Space:
    """Templates, which words of a label, and whether to set zero points."""
    task = material.task
    names = {label.replace("_", " ").replace("-", " ") for label in task.labels}
    described = names != set(task.descriptions.values())
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
)
