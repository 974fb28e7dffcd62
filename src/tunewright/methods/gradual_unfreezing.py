"""Gradual unfreezing: the head first, then layers from the top, the lower ones slower.

Howard and Ruder 2018, section 3.3.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import is_embedding
from tunewright.methods import full
from tunewright.methods.base import Choice, Material, Range, Space
from tunewright.methods.heads import head_rates, narrowness
from tunewright.training.optim import Rates
from tunewright.types import Params

_THAWED_AT = 0.5
"""Share of the training after which everything trains."""


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """The head, and from the top as many layers as it is time for, each slower than the one above by `layer_decay`."""
    assert adapter.weights is not None
    heights = _heights(adapter.weights.values)
    least = 1 if adapter.head is None else 0  # without a head it is the top layer that begins
    thawed = max(least, int(progress / _THAWED_AT * (1 + max(heights.values()))))
    decay = float(params["layer_decay"])
    rates = {f"weights.{name}": decay**height for name, height in heights.items() if height < thawed}
    return {**rates, **head_rates(adapter, full.HEAD_RATE)}


_LAYER = re.compile(r"(.*?)\.(\d+)\.")


def _heights(names: Iterable[str]) -> dict[str, int]:
    """Parameter name -> layers above it: 0 for the top layer and what follows it, the most for embeddings.

    The layers of a decoder stand above those of the encoder that it reads; what follows a stack counts with its top.
    """
    found = {name: match.groups() if (match := _LAYER.match(name)) else None for name in names}
    layers = {layer for layer in found.values() if layer}
    rising = sorted(layers, key=lambda layer: (layer[0].startswith("decoder."), int(layer[1])))
    place = {layer: k for k, layer in enumerate(rising)}
    top = len(rising) - 1
    ends = {stack.partition(".")[0]: k for (stack, _), k in place.items()}
    heights = {
        name: top - (ends.get(name.partition(".")[0], top) if layer is None else place[layer])
        for name, layer in found.items()
    }
    return {name: top + 1 if is_embedding(name) else height for name, height in heights.items()}


def space(material: Material) -> Space:
    """The top layer's rate and how much slower each layer below is."""
    scale = narrowness(material)
    return {
        "lr": Range(low=2e-5 * scale, high=3e-4 * scale, default=1e-4 * scale),
        "layer_decay": Choice(options=(0.9, 0.8, 1.0)),
    }


METHOD = replace(
    full.METHOD,
    name="gradual-unfreezing",
    summary="Full fine-tuning that thaws the base layer by layer from the top, the lower layers slower.",
    space=space,
    trained=trained,
)
