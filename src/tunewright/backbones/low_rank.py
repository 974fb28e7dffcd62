"""LoRA in a mixed batch: each row's low-rank update is added to the output of the base's own linear layers.

Shapes: B rows, T tokens, I input width, O output width, r rank, K distinct LoRAs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunewright.adapters.parts import Lora


@contextlib.contextmanager
def low_rank_updates(
    linears: Mapping[str, nn.Linear], loras: Sequence[Lora | None], tokens_of: "_TokensOf | None" = None
) -> Iterator[None]:
    """Within the context, the layers add the updates of the rows.

    Args:
        linears: Module name -> layer.
        loras: The LoRA of each row, or None.
        tokens_of: In a packed batch, where the tokens of one row follow those of another: indices of some rows'
            tokens among those that a layer sees.
    """
    distinct = list({id(lora): lora for lora in loras if lora is not None}.values())
    hooks = []
    try:
        for name, linear in linears.items():
            if any(name in lora.down for lora in distinct):
                update = _update(name, distinct, loras, tokens_of, linear.weight.device)
                hooks.append(linear.register_forward_hook(_adds(update)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


_TokensOf = Callable[[Sequence[int]], Tensor]

_Update = Callable[[Tensor, Tensor], Tensor]
"""(input [B, T, I], output [B, T, O] of the base's layer) -> the output with the update."""


def _adds(update: _Update) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _module, inputs, output: update(inputs[0], output)


def _update(
    name: str,
    distinct: Sequence[Lora],
    loras: Sequence[Lora | None],
    tokens_of: _TokensOf | None,
    device: torch.device,
) -> _Update:
    """The update of one layer, its factors on the layer's device; adapters lie on the CPU."""
    if len(distinct) == 1 and all(lora is not None for lora in loras):
        down_rI, up_Or = _factors(distinct[0], name, device)
        return _SharedUpdate(down_rI=down_rI, up_Or=up_Or)
    if tokens_of is not None:
        return _packed_update(name, distinct, loras, tokens_of, device)
    return _mixed_update(name, distinct, loras, device)


def _factors(lora: Lora, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """A, and B with the scaling in it."""
    return lora.down[name].to(device), lora.up[name].to(device) * lora.scaling


@dataclass(frozen=True, kw_only=True)
class _SharedUpdate:
    """Every row has the same LoRA."""

    down_rI: Tensor
    up_Or: Tensor

    def __call__(self, input_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        inner_BTr = nn.functional.linear(input_BTI, self.down_rI.to(input_BTI.dtype))
        flat, inner = output_BTO.flatten(0, -2), inner_BTr.flatten(0, -2)
        return torch.addmm(flat, inner, self.up_Or.to(input_BTI.dtype).T).view_as(output_BTO)


def _mixed_update(
    name: str, distinct: Sequence[Lora], loras: Sequence[Lora | None], device: torch.device
) -> "_MixedUpdate":
    """Stacks the factors, with zeros for a smaller rank and for rows without LoRA."""
    having = [lora for lora in distinct if name in lora.down]
    rank = max(lora.rank for lora in having)
    pairs = [_factors(lora, name, device) for lora in having]
    down = [nn.functional.pad(down_rI, (0, 0, 0, rank - len(down_rI))) for down_rI, _ in pairs]
    up = [nn.functional.pad(up_Or, (0, rank - up_Or.shape[1])) for _, up_Or in pairs]
    down.append(torch.zeros_like(down[0]))
    up.append(torch.zeros_like(up[0]))
    place = {id(lora): k for k, lora in enumerate(having)}
    which_B = torch.tensor([place.get(id(lora), len(having)) for lora in loras], device=device)
    return _MixedUpdate(down_KrI=torch.stack(down), up_KOr=torch.stack(up), which_B=which_B)


@dataclass(frozen=True, kw_only=True)
class _MixedUpdate:
    """Rows of several LoRAs, or of none (the last one, all zeros)."""

    down_KrI: Tensor
    up_KOr: Tensor
    which_B: Tensor

    def __call__(self, input_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        inner = torch.bmm(input_BTI, self.down_KrI[self.which_B].to(input_BTI.dtype).transpose(1, 2))
        return torch.baddbmm(output_BTO, inner, self.up_KOr[self.which_B].to(input_BTI.dtype).transpose(1, 2))


def _packed_update(
    name: str, distinct: Sequence[Lora], loras: Sequence[Lora | None], tokens_of: _TokensOf, device: torch.device
) -> "_PackedUpdate":
    """One update for each LoRA, of the tokens of its rows."""
    having = [lora for lora in distinct if name in lora.down]
    members = tuple([k for k, lora in enumerate(loras) if lora is mine] for mine in having)
    pairs = [_factors(lora, name, device) for lora in having]
    updates = tuple(_SharedUpdate(down_rI=down_rI, up_Or=up_Or) for down_rI, up_Or in pairs)
    return _PackedUpdate(updates=updates, members=members, tokens_of=tokens_of)


@dataclass(frozen=True, kw_only=True)
class _PackedUpdate:
    """Rows of several LoRAs, or of none, one after the other."""

    updates: tuple[_SharedUpdate, ...]
    members: tuple[list[int], ...]
    tokens_of: _TokensOf

    def __call__(self, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002
        input_NI, output_NO = input.flatten(0, -2), output.flatten(0, -2)
        for update, members in zip(self.updates, self.members, strict=True):
            tokens = self.tokens_of(members)
            output_NO = output_NO.index_copy(0, tokens, update(input_NI[tokens], output_NO[tokens]))
        return output_NO.view_as(output)
