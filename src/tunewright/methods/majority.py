"""The floor: always the most common label. What cannot beat it has learned nothing."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration
from tunewright.methods.base import Material, Method
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Log shares of the labels in the training rows, one added to each count; log odds where a row may have several."""
    shares_C = material.shares()
    bias_C = shares_C.log() if material.rows.sets_NC is None else shares_C.logit()
    return material.adapter(calibration=Calibration(bias_C=bias_C))


METHOD = Method(
    name="majority",
    family="no training",
    summary="Always answers the most common label, or the best set for all rows: the floor that all else must beat.",
    trains="nothing; C label shares are counted",
    serves="nothing: the model is not run",
    place=place,
    kinds=("classify", "multi-label", "choose"),
    runs_base=False,
)
