"""LoRA: low-rank updates of every linear layer (Hu et al. 2021)."""

import math

import numpy as np
import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Lora
from tunewright.methods.base import Choice, Material, Method, Range, Space
from tunewright.methods.heads import answering, narrowness, noise
from tunewright.methods.label_words import answer_choices
from tunewright.training.optim import Rates
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A normal, B zero (section 4.1), on all linear layers, alpha = 2 r; a head from the labels' words."""
    parts = answering(material, params)
    return material.adapter(lora=factors(material, params, rng, writing="head" not in parts), **parts)


def factors(material: Material, params: Params, rng: np.random.Generator, *, writing: bool) -> Lora:
    """Of all linear layers that take part in an answer, one in text or one from features."""
    rank, base = int(params["rank"]), material.weights
    linears = {n: m for n, m in base.linears.items() if base.is_run(n, writing=writing)}
    return Lora(
        alpha=2.0 * rank,
        down={n: noise((rank, m.in_features), 1 / math.sqrt(m.in_features), rng) for n, m in linears.items()},
        up={n: torch.zeros(m.out_features, rank) for n, m in linears.items()},
    )


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """Both factors and the head."""
    return {name: 1.0 for name in adapter.tensors() if name.split(".")[0] in ("lora", "head")}


def space(material: Material) -> Space:
    """Rate and rank."""
    scale = narrowness(material)
    return {
        "lr": Range(low=1e-4 * scale, high=2e-3 * scale, default=7e-4 * scale),
        "rank": Choice(options=(8, 4, 16)),
        **answer_choices(material),
    }


METHOD = Method(
    name="lora",
    family="fine-tuning",
    summary="Learns low-rank updates of every linear layer; the base stays frozen.",
    trains="r (in + out) for each linear layer + (D + 1) C",
    serves="two thin matrix products beside each linear layer",
    place=place,
    space=space,
    trained=trained,
    learns="lora",
)
