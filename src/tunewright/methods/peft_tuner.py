"""`peft:<type>`: any tuner of PEFT's as a candidate, run by its own library (Mangrulkar et al. 2022).

A type needs no line here: PEFT lists them, and one without a rate of its own is searched in the general range.
"""

from functools import partial

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.backbones import tuners
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Base
from tunewright.errors import AdapterError, unknown
from tunewright.methods.base import Choice, Material, Method, Range, Space
from tunewright.methods.heads import answering, narrowness
from tunewright.methods.label_words import answer_choices
from tunewright.training.optim import Rates
from tunewright.types import Params

_GENERAL = (1e-4, 1e-2, 1e-3)
_RATES = {
    "dora": (1e-4, 2e-3, 7e-4),  # that of `lora`, of which it is a variant (Liu et al. 2024)
    "ia3": (1e-3, 3e-2, 5e-3),  # around the 3e-3 of T-Few (Liu et al. 2022)
    "vera": (1e-3, 3e-2, 5e-3),  # vectors alone learn, as in IA3 (Kopiczko et al. 2024)
}
"""Type -> lowest, highest and first rate, where its source tells of another than the general range."""


def fault(kind: str) -> str | None:
    """Why there is no such method, in one line, or None."""
    try:
        if tuners.left_out(kind) is not None:
            return f"peft:{kind} has no place among the methods: {tuners.left_out(kind)}. Choose another type."
        return None if kind in tuners.types() else unknown("PEFT type", kind, tuners.types())
    except AdapterError as error:
        return f"peft:{kind}: {error}"


def method(kind: str) -> Method:
    """The method of a type without a fault."""
    return Method(
        name=f"peft:{kind}",
        family="fine-tuning",
        summary=f"Learns what PEFT's {kind} adds to linear layers; the base stays frozen.",
        trains="what PEFT's type learns + (D + 1) C",
        serves="a pass of its own: its rows do not mix with those of other adapters",
        place=partial(place, kind),
        space=partial(space, kind),
        trained=trained,
        refuses=partial(refuses, kind),
        kinds=("classify", "multi-label", "generate"),
        learns="tuner",
    )


def place(kind: str, material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """As PEFT starts it; a head from the labels' words."""
    parts = answering(material, params)
    linears = material.weights.changeable(writing="head" not in parts)
    rank = int(params["rank"]) if "rank" in params else None
    tuner = tuners.place(linears, kind, rank=rank, seed=int(rng.integers(2**63)))
    return material.adapter(tuner=tuner, **parts)


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """What PEFT says learns, and the head."""
    assert adapter.tuner is not None
    names = (f"tuner.{name}" for name in adapter.tuner.trained)
    return dict.fromkeys((*names, *(name for name in adapter.tensors() if name.startswith("head."))), 1.0)


def space(kind: str, material: Material) -> Space:
    """Rate, and rank where the type has one: PEFT's own first, then half and twice."""
    low, high, default = (narrowness(material) * rate for rate in _RATES.get(kind, _GENERAL))
    rank = tuners.default_rank(kind)
    ranks = {} if rank is None else {"rank": Choice(options=(rank, rank // 2, 2 * rank))}
    return {"lr": Range(low=low, high=high, default=default), **ranks, **answer_choices(material)}


def refuses(kind: str, base: Base) -> str | None:
    """PEFT's reason why it cannot be put on a base."""
    return tuners.reason(base.changeable(writing=False), kind) if isinstance(base, Backbone) else None
