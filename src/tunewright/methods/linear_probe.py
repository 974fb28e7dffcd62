"""Linear probe: a classifier on the features of the frozen base, which are computed once."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.methods.base import Material, Method, Range, Space
from tunewright.methods.heads import first_head
from tunewright.training.optim import Rates
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A head from the labels' words, or from what tells right candidates."""
    return material.adapter(head=first_head(material))


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """The head."""
    return {"head.weight": 1.0, "head.bias": 1.0}


_REFERENCE_RMS = 0.22
"""Root mean square of features for which the rates of the search space are meant."""


def space(material: Material) -> Space:
    """Rate, at the scale of the features, and decay."""
    scale = _REFERENCE_RMS / float(material.store(material.rows.encodings).square().mean().sqrt())
    return {
        "lr": Range(low=1e-3 * scale, high=2e-2 * scale, default=3e-3 * scale),
        "weight_decay": Range(low=1e-3, high=1.0, default=0.1),
    }


METHOD = Method(
    name="linear-probe",
    family="fine-tuning",
    summary="Learns a linear classifier on the frozen base's features.",
    trains="(D + 1) C",
    serves="nothing beyond the bare base",
    place=place,
    space=space,
    trained=trained,
    kinds=("classify", "multi-label", "choose"),
    passes=4.0,
)
