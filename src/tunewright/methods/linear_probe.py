"""Linear probe: a classifier on the features of the frozen base, which are computed once."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.methods.base import Material, Method, Range, Space
from tunewright.methods.heads import empty_head
from tunewright.training.optim import Rates
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:  # noqa: ARG001
    """A head of zeros."""
    return material.adapter(head=empty_head(material))


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:  # noqa: ARG001
    """The head."""
    return {"head.weight": 1.0, "head.bias": 1.0}


def space(material: Material) -> Space:  # noqa: ARG001
    """Rate and decay."""
    return {
        "lr": Range(low=3e-3, high=0.3, default=3e-2),
        "weight_decay": Range(low=1e-4, high=0.3, default=1e-2),
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
)
