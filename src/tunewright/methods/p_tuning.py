"""P-tuning: a soft prompt that a small network makes while it trains (Liu et al. 2021, section 3.2)."""

from dataclasses import replace

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.prompt_encoder import Network, PromptEncoder
from tunewright.methods import soft_prompt
from tunewright.methods.base import Choice, Material, Range, Space
from tunewright.methods.heads import answering, embedding_scale, head_rates, inits, lengths, start_vectors
from tunewright.runtime import torch_generator
from tunewright.training.optim import Rates
from tunewright.types import Params

HEAD_RATE = 15.0
"""Of the network's rate, which is low for a head."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A network whose first vectors are embeddings of words, never noise, and a head from the labels' words."""
    vectors_PD = start_vectors(material, str(params["init"]), int(params["length"]), rng)
    network: Network = "lstm" if params["network"] == "lstm" else "mlp"
    shape = (vectors_PD.shape[0], vectors_PD.shape[1])
    encoder = PromptEncoder.random(network, shape, vectors_PD.shape[1], torch_generator(rng))
    return material.adapter(soft_prompt=encoder.ending_at(vectors_PD), **answering(material))


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """Inputs and network; the head faster."""
    names = [name for name in adapter.tensors() if name.startswith("soft_prompt.")]
    return {**dict.fromkeys(names, 1.0), **head_rates(adapter, HEAD_RATE)}


def space(material: Material) -> Space:
    """Short prompts first; rates at the scale of the base's embeddings, which the network's last layer has."""
    scale = embedding_scale(material)
    return {
        "lr": Range(low=3e-5 * scale, high=1e-3 * scale, default=2e-4 * scale),
        "length": lengths((20, 10, 5, 50, 100), material),
        "network": Choice(options=("mlp", "lstm")),
        "init": inits(material),
    }


METHOD = replace(
    soft_prompt.METHOD,
    name="p-tuning",
    summary="Learns a small network that makes the vectors before the input; the vectors alone are kept.",
    trains="P D + 3 (D + 1) D (mlp) or P D + (22 D + 19) D (lstm) + (D + 1) C",
    place=place,
    space=space,
    trained=trained,
)
