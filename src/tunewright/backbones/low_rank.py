"""LoRA in a mixed batch: each row's low-rank update is added to the output of the base's own linear layers.

Shapes: B rows, T tokens, I input width, O output width, r rank, K distinct LoRAs.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.adapters.parts import Lora
from tunewright.backbones import fused


@contextlib.contextmanager
def low_rank_updates(
    linears: Mapping[str, nn.Linear], loras: Sequence[Lora | None], tokens_of: "TokensOf | None" = None
) -> Iterator[None]:
    """Within the context, the layers add the updates of the rows.

    Args:
        linears: Module name -> layer.
        loras: The LoRA of each row, or None.
        tokens_of: In a packed batch, where the tokens of one row follow those of another: indices of some rows'
            tokens among those that a layer sees.
    """
    distinct = list({id(lora): lora for lora in loras if lora is not None}.values())
    layouts = dict[int, _Layout]()
    changed = [(name, linear) for name, linear in linears.items() if any(name in lora.down for lora in distinct)]
    own = [linear.__dict__.get("forward") for _, linear in changed]
    try:
        for name, linear in changed:
            update = _update(name, distinct, loras, tokens_of, layouts, linear.weight.device)
            linear.forward = partial(_updated, linear, linear.forward, update)  # type: ignore[method-assign]
        yield
    finally:
        for (_, linear), forward in zip(changed, own, strict=True):
            if forward is None:
                linear.__dict__.pop("forward", None)
            else:
                linear.forward = forward  # type: ignore[method-assign]


_MOST_LOOPED = 4
"""LoRAs of a packed batch that are looped over; more are padded and multiplied together."""

TokensOf = Callable[[Sequence[int]], Tensor]

_Update = Callable[[Tensor, Tensor], Tensor]
"""(input [B, T, I], output [B, T, O] of the base's layer) -> the output with the update."""


def _updated(module: nn.Linear, forward: Callable[[Tensor], Tensor], update: _Update, values: Tensor) -> Tensor:
    """The layer's output with the update."""
    is_nested = getattr(forward, "func", None) is _updated
    trains = any(parameter.requires_grad for parameter in module.parameters())
    if is_nested or trains or not torch.is_grad_enabled() or not isinstance(update, _SharedUpdate):
        return update(values, forward(values))
    factors = (update.down_rI, update.up_Or, update.scaling)
    output: Tensor = _UpdatedLinear.apply(values, module.weight, module.bias, *factors)  # type: ignore[no-untyped-call]
    return output


class _UpdatedLinear(torch.autograd.Function):
    """A frozen layer and one LoRA for all rows: autograd would take a pass over memory for each sum and each cast."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_rI: Tensor,
        up_Or: Tensor,
        scaling: float,
    ) -> Tensor:
        flat_NI, down, up = values.flatten(0, -2), down_rI.to(values.dtype), (up_Or * scaling).to(values.dtype)
        inner_Nr = nn.functional.linear(flat_NI, down)
        output_NO = fused.linear(flat_NI, weight_OI, bias_O).addmm_(inner_Nr, up.T)
        ctx.save_for_backward(flat_NI, weight_OI, down, up, inner_Nr)
        ctx.scaling, ctx.dtype = scaling, down_rI.dtype
        return output_NO.view(*values.shape[:-1], len(weight_OI))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat_NI, weight_OI, down_rI, up_Or, inner_Nr = ctx.saved_tensors
        output_NO = gradients[0].flatten(0, -2)
        inner_change_Nr, change = output_NO @ up_Or, None
        if ctx.needs_input_grad[0]:
            change = (output_NO @ weight_OI).addmm_(inner_change_Nr, down_rI)
            change = change.view(*gradients[0].shape[:-1], weight_OI.shape[1])
        down_change_rI = (inner_change_Nr.T @ flat_NI).to(ctx.dtype)
        up_change_Or = (inner_Nr.T @ output_NO).T.to(ctx.dtype) * ctx.scaling
        return change, None, None, down_change_rI, up_change_Or, None


def _update(
    name: str,
    distinct: Sequence[Lora],
    loras: Sequence[Lora | None],
    tokens_of: TokensOf | None,
    layouts: "dict[int, _Layout]",
    device: torch.device,
) -> _Update:
    """The update of one layer, its factors on the layer's device; adapters lie on the CPU."""
    if len(distinct) == 1 and all(lora is not None for lora in loras):
        return _shared(distinct[0], name, device)
    if tokens_of is not None and len(distinct) <= _MOST_LOOPED:
        return _packed_update(name, distinct, loras, tokens_of, device)
    stacked = _stacked(name, distinct, loras, device)
    if tokens_of is None:
        return stacked
    return _PaddedUpdate(stacked=stacked, loras=loras, tokens_of=tokens_of, layouts=layouts)


def _shared(lora: Lora, name: str, device: torch.device) -> "_SharedUpdate":
    return _SharedUpdate(down_rI=lora.down[name].to(device), up_Or=lora.up[name].to(device), scaling=lora.scaling)


def _factors(lora: Lora, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """A, and B with the scaling in it."""
    return lora.down[name].to(device), lora.up[name].to(device) * lora.scaling


@dataclass(frozen=True, kw_only=True)
class _SharedUpdate:
    """Every row has the same LoRA."""

    down_rI: Tensor
    up_Or: Tensor
    scaling: float

    def __call__(self, input_BTI: Tensor, output_BTO: Tensor) -> Tensor:
        inner_BTr = nn.functional.linear(input_BTI, self.down_rI.to(input_BTI.dtype))
        flat, inner, up_Or = output_BTO.flatten(0, -2), inner_BTr.flatten(0, -2), self.up_Or * self.scaling
        return torch.addmm(flat, inner, up_Or.to(input_BTI.dtype).T).view_as(output_BTO)


def _stacked(
    name: str, distinct: Sequence[Lora], loras: Sequence[Lora | None], device: torch.device
) -> "_StackedUpdate":
    """All factors, with zeros for a smaller rank and, where there are such, for rows without LoRA."""
    having = [lora for lora in distinct if name in lora.down]
    rank, pairs = max(lora.rank for lora in having), [_factors(lora, name, device) for lora in having]
    down = [_widened(down_rI, 0, rank) for down_rI, _ in pairs]
    up = [_widened(up_Or, 1, rank) for _, up_Or in pairs]
    place = {id(lora): k for k, lora in enumerate(having)}
    which = [place.get(id(lora), len(having)) for lora in loras]
    if len(having) in which:
        down.append(torch.zeros_like(down[0]))
        up.append(torch.zeros_like(up[0]))
    return _StackedUpdate(
        down_KrI=torch.stack(down),
        up_KOr=torch.stack(up),
        which_B=None if which == list(range(len(down))) else torch.tensor(which, device=device),
    )


def _widened(factor: Tensor, dim: int, rank: int) -> Tensor:
    missing = rank - factor.shape[dim]
    return factor if missing == 0 else nn.functional.pad(factor, (0, 0, 0, missing) if dim == 0 else (0, missing))


@dataclass(frozen=True, kw_only=True)
class _StackedUpdate:
    """Rows of several LoRAs, or of none (the last one, all zeros)."""

    down_KrI: Tensor
    up_KOr: Tensor
    which_B: Tensor | None
    """None where each row has its own, in order."""

    def __call__(self, input_BTI: Tensor, output_BTO: Tensor | None) -> Tensor:
        """The output with the update; None: the update alone."""
        down_BrI, up_BOr = (self._of_rows(factor.to(input_BTI.dtype)) for factor in (self.down_KrI, self.up_KOr))
        inner_BTr = torch.bmm(input_BTI, down_BrI.transpose(1, 2))
        if output_BTO is None:
            return torch.bmm(inner_BTr, up_BOr.transpose(1, 2))
        return torch.baddbmm(output_BTO, inner_BTr, up_BOr.transpose(1, 2))

    def _of_rows(self, factor_K: Tensor) -> Tensor:
        return factor_K if self.which_B is None else factor_K[self.which_B]


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the tokens of each row stand among those that a layer sees, and when they are unpacked to [B, T]."""

    source_BT: Tensor
    """Which token stands there; on padding the first."""
    token_M: Tensor
    """All tokens of rows with a LoRA."""
    place_M: Tensor
    """b T + t of each."""
    has_all: bool
    """Whether these are all tokens, in their order."""


def _layout(loras: Sequence[Lora | None], tokens_of: TokensOf, num_tokens: int) -> _Layout:
    tokens = [tokens_of([] if lora is None else [k]) for k, lora in enumerate(loras)]
    source_BT = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    longest = source_BT.shape[1]
    places = [k * longest + torch.arange(len(own), device=own.device) for k, own in enumerate(tokens)]
    token_M = torch.cat(tokens)
    has_all = torch.equal(token_M, torch.arange(num_tokens, device=token_M.device))
    return _Layout(source_BT=source_BT, token_M=token_M, place_M=torch.cat(places), has_all=has_all)


@dataclass(frozen=True, kw_only=True)
class _PaddedUpdate:
    """Rows of many LoRAs, or of none, one after the other: unpacked for one product with all of them."""

    stacked: _StackedUpdate
    loras: Sequence[Lora | None]
    tokens_of: TokensOf
    layouts: dict[int, _Layout]
    """Of as many tokens as a layer sees: all that it is given, or those that are read."""

    def __call__(self, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002
        input_NI, output_NO = input.flatten(0, -2), output.flatten(0, -2)
        if len(input_NI) not in self.layouts:
            self.layouts[len(input_NI)] = _layout(self.loras, self.tokens_of, len(input_NI))
        found = self.layouts[len(input_NI)]
        unpacked = input_NI.index_select(0, found.source_BT.flatten()).view(*found.source_BT.shape, -1)
        update_MO = self.stacked(unpacked, None).flatten(0, 1).index_select(0, found.place_M)
        if found.has_all:
            return output + update_MO.view_as(output)
        return output_NO.index_add(0, found.token_M, update_MO).view_as(output)


def _packed_update(
    name: str, distinct: Sequence[Lora], loras: Sequence[Lora | None], tokens_of: TokensOf, device: torch.device
) -> "_PackedUpdate":
    """One update for each LoRA, of the tokens of its rows."""
    having = [lora for lora in distinct if name in lora.down]
    members = tuple([k for k, lora in enumerate(loras) if lora is mine] for mine in having)
    updates = tuple(_shared(lora, name, device) for lora in having)
    return _PackedUpdate(updates=updates, members=members, tokens_of=tokens_of)


@dataclass(frozen=True, kw_only=True)
class _PackedUpdate:
    """Rows of several LoRAs, or of none, one after the other."""

    updates: tuple[_SharedUpdate, ...]
    members: tuple[list[int], ...]
    tokens_of: TokensOf

    def __call__(self, input: Tensor, output: Tensor) -> Tensor:  # noqa: A002
        input_NI, output_NO = input.flatten(0, -2), output.flatten(0, -2)
        for update, members in zip(self.updates, self.members, strict=True):
            tokens = self.tokens_of(members)
            output_NO = output_NO.index_copy(0, tokens, update(input_NI[tokens], output_NO[tokens]))
        return output_NO.view_as(output)
