"""The floor: always the most common label. What cannot beat it has learned nothing."""

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration
from tunewright.methods.base import Material, Method, Space
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Log shares of the labels in the training rows, one added to each count."""
    counts_C = torch.bincount(material.rows.labels_N, minlength=material.num_labels).float() + 1
    return material.adapter(calibration=Calibration(bias_C=(counts_C / counts_C.sum()).log()))


def space(material: Material) -> Space:
    """Nothing to search."""
    return {}


METHOD = Method(
    name="majority",
    family="no training",
    summary="Always answers the most common label: the floor that everything else must beat.",
    trains="nothing; C label shares are counted",
    serves="nothing: the model is not run",
    place=place,
    space=space,
    runs_base=False,
)
