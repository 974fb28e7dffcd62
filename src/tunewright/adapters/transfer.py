"""Starting where another adapter ended: the prompt of another task (Vu et al. 2022, SPoT), or a saved one that goes on.

Shapes: P virtual tokens, D width, L layers, H heads, d head width, r rank.
"""

import dataclasses
from typing import cast

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Head, Lora, Part, Prefix, SoftPrompt, Weights
from tunewright.adapters.prompt_encoder import PromptEncoder


def learned(adapter: Adapter) -> dict[str, Part]:
    """The parts that change what the base computes and were learned, by field name."""
    return {name: part for name, part in adapter.parts().items() if name in _ALIKE}


def starting_at(adapter: Adapter, start: Adapter) -> Adapter:
    """A placed adapter with the body of another one in its own sizes and, where the labels are the same, its head.

    Longer prompts and prefixes repeat the other's vectors, shorter ones cut them; a LoRA of higher rank computes the
    same, one of lower rank the nearest (Eckart and Young 1936). Unchanged where the two have not the same parts.
    """
    mine, its = learned(adapter), learned(start)
    if not mine or mine.keys() != its.keys():
        return adapter
    found: dict[str, Part] = {name: _ALIKE[name](part, its[name]) for name, part in mine.items()}
    if start.head is not None and adapter.head is not None and start.labels == adapter.labels:
        found["head"] = Head(weight_CD=start.head.weight_CD.clone(), bias_C=start.head.bias_C.clone())
    return dataclasses.replace(adapter, **found)  # type: ignore[arg-type]


def resized(vectors: Tensor, length: int, dim: int) -> Tensor:
    """So many positions along a dimension: repeated from the first on, or the first ones."""
    return vectors.index_select(dim, torch.arange(length) % vectors.shape[dim])


def _soft_prompt(mine: Part, its: Part) -> SoftPrompt | PromptEncoder:
    placed = cast(SoftPrompt | PromptEncoder, mine)
    vectors_PD = resized(cast(SoftPrompt, its).vectors_PD, placed.length, 0)
    return placed.ending_at(vectors_PD) if isinstance(placed, PromptEncoder) else SoftPrompt(vectors_PD=vectors_PD)


def _prefix(mine: Part, its: Part) -> Prefix:
    length, start = cast(Prefix, mine).length, cast(Prefix, its)
    return Prefix(keys_LHPd=resized(start.keys_LHPd, length, 2), values_LHPd=resized(start.values_LHPd, length, 2))


def _lora(mine: Part, its: Part) -> Lora:
    placed, start = cast(Lora, mine), cast(Lora, its)
    gain = start.scaling / placed.scaling
    factors = {
        name: _ranked(start.down[name], gain * start.up[name], placed.down[name])
        for name in placed.down
        if name in start.down
    }
    down = {name: factors[name][0] if name in factors else tensor for name, tensor in placed.down.items()}
    up = {name: factors[name][1] if name in factors else tensor for name, tensor in placed.up.items()}
    return dataclasses.replace(placed, down=down, up=up)


def _ranked(down_rI: Tensor, up_Or: Tensor, placed_rI: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the placed rank: more with the placed ones' own rows and nothing behind them, fewer by a short SVD."""
    rank, wanted = len(down_rI), len(placed_rI)
    if wanted >= rank:
        more = up_Or.new_zeros(len(up_Or), wanted - rank)
        return torch.cat([down_rI, placed_rI[rank:]]), torch.cat([up_Or, more], 1)
    left_Or, left_rr = torch.linalg.qr(up_Or)
    right_Ir, right_rr = torch.linalg.qr(down_rI.T)
    u_rr, values_r, v_rr = torch.linalg.svd(left_rr @ right_rr.T)
    roots = values_r[:wanted].sqrt()
    return (roots[:, None] * v_rr[:wanted]) @ right_Ir.T, left_Or @ u_rr[:, :wanted] * roots


def _weights(mine: Part, its: Part) -> Weights:
    """The other's values; word embeddings of the words that either has."""
    placed, start = cast(Weights, mine), cast(Weights, its)
    name = placed.vocabulary
    values = {n: start.values.get(n, tensor).clone() for n, tensor in placed.values.items()}
    if name not in placed.values or name not in start.values:
        return dataclasses.replace(placed, values=values)
    ids_V = torch.cat([placed.vocabulary_ids_V, start.vocabulary_ids_V]).unique()
    rows = placed.values[name].new_zeros(len(ids_V), placed.values[name].shape[1])
    for part in (placed, start):
        rows[torch.searchsorted(ids_V, part.vocabulary_ids_V)] = part.values[name]
    return dataclasses.replace(placed, values={**values, name: rows}, vocabulary_ids_V=ids_V)


_ALIKE = {"soft_prompt": _soft_prompt, "prefix": _prefix, "lora": _lora, "weights": _weights}
