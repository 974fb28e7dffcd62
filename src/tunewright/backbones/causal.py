"""One run of a decoder over a packed batch: every soft prompt once, then every text.

    [prompt 1] ... [prompt G] [text 1] ... [text R]

The model's own layers see `[1, tokens, width]`: no work on padding, none twice. Only attention, registered with
transformers as one more implementation, knows which tokens belong together: a text sees the prefix that it names and
its own past. The last layer runs only where its output is read: of a prefix its keys and values, of a text its last
tokens. A text may go on where an earlier pass ended, and branch into a tree of tokens that see only what leads to them.
Exact as long as the base is in eval mode.

Shapes: N tokens, R sequences, Q queries and T keys of the longest, G distinct prefixes, P positions of the longest,
S = P + T, H query heads, K key/value heads (J = H / K queries share one), X = J Q, d head width, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import AttentionInterface, AttentionMaskInterface

from tunewright.backbones.attention_core import attention
from tunewright.backbones.packed import Sequences, sequences, spans
from tunewright.backbones.prefix import Kept, Keys

NAME = "tunewright-packed"

_NEVER = -1e30
"""Added to the score of a key that is not seen; finite, so that padding that sees nothing is no NaN."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a layer attends."""

    scaling: float
    window: int | None = None
    """Positions that are seen, one's own included."""
    softcap: float | None = None
    """Scores are bent into plus or minus this."""
    slopes_H: Tensor | None = None
    """ALiBi: added to the score for each position of the key."""


class Past(Protocol):
    """What the texts of a pass saw of themselves in earlier ones."""

    def extended(self, layer: int, new: Keys) -> Keys:
        """Keys and values of each text up to its last token; hears of those of this pass, and may keep them."""
        ...


class _KeysAreKnown(Exception):
    """The last layer has made its keys and values: what else it does is not read."""


class Pass:
    """One run of the model.

    Args:
        prompts: The soft prompts; number g ends prefix g.
        texts: The texts, unless only the prefixes' keys and values are wanted.
        known: Keys and values of each layer that need no run: of deep prefixes, or kept from another run.
        alone: The same for each text, where texts may attend one by one.
        reads: So many of the last tokens of each text are read; one where it is not given.
        past: Of the texts; None where they begin here and nobody goes on.
    """

    def __init__(
        self,
        prompts: Sequences | None,
        texts: Sequences | None,
        known: Callable[[], Sequence[Keys] | None],
        *,
        alone: Sequence[Kept] = (),
        reads: Sequence[int] | None = None,
        past: Past | None = None,
    ) -> None:
        self.prompts, self.texts, self._known, self._past, self._alone = prompts, texts, cache(known), past, alone
        self.prefixes: list[Keys] = []
        """Of each layer, where there are no texts or somebody may go on."""
        self._first = 0 if prompts is None else prompts.num_tokens
        self._reads = reads if reads is not None else [1] * (0 if texts is None else len(texts.lengths))
        self._ends, self._last_queries = _ends(texts, self._first, self._reads)
        self._last_keys = (torch.zeros(0), torch.zeros(0))
        self._stage: Literal["all", "keys", "ends"] = "all"
        """All tokens; in the last layer only as far as the keys, and then only the tokens that are read."""
        self._masks: dict[tuple[int, int | None], tuple[Tensor, int]] = {}
        self._masks_alone: dict[int | None, Tensor] = {}

    def run(self, model: Callable[[], Tensor], last_layer: nn.Module) -> Tensor | None:
        """Last hidden state of the tokens that are read, text by text; None where there are no texts.

        Args:
            model: Runs it and returns the last hidden state [1, N, D].
            last_layer: Of the model.
        """
        hooks = []
        if self.texts is None or len(self._ends) < self._first + self.texts.num_tokens:
            hooks = [
                last_layer.register_forward_pre_hook(self._narrow, with_kwargs=True),
                last_layer.register_forward_hook(self._widen),
            ]
        token = _running.set(self)
        try:
            return model()[0].index_select(0, self._ends)
        except _KeysAreKnown:
            return None
        finally:
            _running.reset(token)
            for hook in hooks:
                hook.remove()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within it, a layer before the last one runs as it did in this run, which is over."""
        token, stage = _running.set(self), self._stage
        self._stage = "all"
        try:
            yield
        finally:
            self._stage = stage
            _running.reset(token)

    def tokens_of(self, members: Sequence[int]) -> Tensor:
        """Indices, among the tokens that a layer sees now, of some sequences' tokens; prompts are counted first."""
        blocks = [block for block in (self.prompts, self.texts) if block is not None]
        first = 0 if self.prompts is None else len(self.prompts.lengths)
        lengths = self._reads if self._stage == "ends" else [length for block in blocks for length in block.lengths]
        before = first if self._stage == "ends" else 0
        every = spans(lengths)
        found = [n for k in members if k >= before for n in every[k - before]]
        return torch.tensor(found, dtype=torch.long, device=blocks[0].place_N.device)

    def _narrow(self, layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Runs the last layer up to its keys and values; then it goes on with the tokens that are read."""
        size = (args[0] if args else kwargs["hidden_states"]).shape[1]
        self._stage = "keys"
        try:
            layer.forward(*args, **kwargs)
        except _KeysAreKnown:
            if self.texts is None:
                raise
        self._stage = "ends"

        def ends(value: Any) -> Any:
            per_token = isinstance(value, Tensor) and value.ndim > 1 and value.shape[:2] == (1, size)
            return value.index_select(1, self._ends) if per_token else value

        return tree_map(ends, args), tree_map(ends, kwargs)

    def _widen(self, _layer: nn.Module, _args: Any, output: Any) -> Any:
        """As many rows as there were, for models that insist on them."""
        hidden_1RD = output[0] if isinstance(output, tuple) else output
        size = self._first + (0 if self.texts is None else len(self.texts.place_N))
        hidden_1ND = hidden_1RD.new_zeros(1, size, hidden_1RD.shape[2]).index_copy(1, self._ends, hidden_1RD)
        return (hidden_1ND, *output[1:]) if isinstance(output, tuple) else hidden_1ND

    def attend(self, layer: int, query_NHd: Tensor, key_NKd: Tensor, value_NKd: Tensor, rule: Rule) -> Tensor:
        """One layer's attention, [N, H, d]; in the last layer of the tokens that are read."""
        if self._stage == "ends":
            key_NKd, value_NKd = self._last_keys
        if self._alone and self._stage != "keys" and rule.softcap is None and rule.slopes_H is None:
            return self._one_by_one(layer, query_NHd, key_NKd, value_NKd, rule)
        if self._stage == "keys":
            self._last_keys = (key_NKd, value_NKd)
            if self.texts is not None:
                raise _KeysAreKnown
        # Split, not sliced: the gradient of a split is put together once, that of slices is added up.
        sizes = [self._first, len(key_NKd) - self._first]
        (prompt_key, text_key), (prompt_value, text_value) = key_NKd.split(sizes), value_NKd.split(sizes)
        known = None if (every := self._known()) is None else every[layer]
        prompt = None if self.prompts is None else _keys(self.prompts, prompt_key, prompt_value)
        prefix = known if prompt is None else prompt if known is None else known.then(prompt)
        self._keep(layer, prefix)
        if self._stage == "keys":
            raise _KeysAreKnown
        text = None if self.texts is None else _keys(self.texts, text_key, text_value)
        if text is not None and self._past is not None:
            text = self._past.extended(layer, text)
        if self._stage == "ends" and self._last_queries is not None and text is not None:
            return self._attention(query_NHd, self._last_queries, prefix, text, rule)
        prompt_query, text_query = query_NHd.split(sizes)
        outputs = []
        if self.prompts is not None and prompt is not None:
            outputs.append(self._attention(prompt_query, self.prompts, known, prompt, rule))
        if self.texts is not None and text is not None:
            outputs.append(self._attention(text_query, self.texts, prefix, text, rule))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _keep(self, layer: int, prefix: Keys | None) -> None:
        """A prefix that is asked for; once, though a layer may run again on the way back."""
        if prefix is not None and (self.texts is None or self._past is not None) and len(self.prefixes) == layer:
            self.prefixes.append(prefix)

    def _one_by_one(self, layer: int, query_NHd: Tensor, key_NKd: Tensor, value_NKd: Tensor, rule: Rule) -> Tensor:
        """Each text to its own prefix and past, without padding and with no copy of other prefixes."""
        assert self.texts is not None
        lengths, output_NHd = self.texts.lengths, torch.zeros_like(query_NHd)
        longest = max(kept[0].shape[2] for kept in self._alone)
        mask_TS = self._past_only(max(lengths), longest, rule.window, query_NHd)
        reads = spans(self._reads if self._stage == "ends" else lengths)
        for kept, asked, span in zip(self._alone, reads, spans(lengths), strict=True):
            own = (t[span.start : span.stop].transpose(0, 1) for t in (key_NKd, value_NKd))
            key, value = (torch.cat([b[layer], t], 1)[None] for b, t in zip(kept, own, strict=True))
            query_1HQd = query_NHd[asked.start : asked.stop].transpose(0, 1)[None]
            size, start = len(span), longest - kept[0].shape[2]
            mask_QS = mask_TS[size - len(asked) : size, start : longest + size]
            found = nn.functional.scaled_dot_product_attention(
                query_1HQd, key, value, attn_mask=mask_QS, scale=rule.scaling, enable_gqa=True
            )
            output_NHd[asked.start : asked.stop] = found[0].transpose(0, 1)
        return output_NHd

    def _past_only(self, size: int, before: int, window: int | None, like: Tensor) -> Tensor:
        """Added to the scores of the longest text behind the longest prefix; what others need is a part of it."""
        if window not in self._masks_alone:
            distance_TS = torch.arange(size)[:, None] + before - torch.arange(before + size)
            hidden_TS = (distance_TS < 0) | (distance_TS >= (before + size if window is None else window))
            self._masks_alone[window] = like.new_zeros(hidden_TS.shape).masked_fill_(hidden_TS, _NEVER)
        return self._masks_alone[window]

    def _attention(self, query_NHd: Tensor, queries: Sequences, prefix: Keys | None, own: Keys, rule: Rule) -> Tensor:
        """Of sequences to their own past and to the prefix each names, one softmax over both."""
        query_KRXd = queries.unpack(query_NHd, own.keys_KGPd.shape[0])
        mask, seen = self._mask(queries, prefix, own, rule)
        output_BXd = attention(
            query_KRXd.flatten(0, 1),
            own.keys_KGPd.flatten(0, 1),
            own.values_KGPd.flatten(0, 1),
            None if prefix is None else prefix.seen_by(queries.prefix_R),
            mask if rule.slopes_H is None else mask + _slants(rule.slopes_H, queries, prefix, own),
            seen if rule.slopes_H is None else 0,
            rule.scaling,
            rule.softcap,
        )
        return queries.pack(output_BXd.view(*query_KRXd.shape))

    def _mask(self, queries: Sequences, prefix: Keys | None, own: Keys, rule: Rule) -> tuple[Tensor, int]:
        """Added to the scores, [R, 1, Q, S], and how many of its first columns are zeros."""
        key = (id(queries), rule.window)
        if key not in self._masks:
            position_RS, filled_RS = _columns(queries, prefix, own)
            distance_RQS = queries.position_RT[:, :, None] - position_RS[:, None]
            seen_RQS = filled_RS[:, None] & (distance_RQS >= 0)
            if queries.tree_RTT is not None:
                size = queries.tree_RTT.shape[2]
                others_RQS, own_RQT = seen_RQS.split([seen_RQS.shape[2] - size, size], 2)
                seen_RQS = torch.cat([others_RQS, own_RQT & queries.tree_RTT], 2)
            if rule.window is not None:
                seen_RQS = seen_RQS & (distance_RQS < rule.window)
            mask_RQS = torch.zeros_like(distance_RQS, dtype=own.keys_KGPd.dtype).masked_fill_(~seen_RQS, _NEVER)
            size = position_RS.shape[1] - own.position_GP.shape[1]
            self._masks[key] = mask_RQS[:, None], size if whole(seen_RQS[..., :size]) else 0
        return self._masks[key]


def whole(seen_RQP: Tensor) -> bool:
    """Whether every query sees every key."""
    return bool(seen_RQP.all())


def _columns(queries: Sequences, prefix: Keys | None, own: Keys) -> tuple[Tensor, Tensor]:
    """Position of each key, and whether it is one."""
    if prefix is None:
        return own.position_GP, own.filled_GP
    position_RS = torch.cat([prefix.position_GP[queries.prefix_R], own.position_GP], 1)
    return position_RS, torch.cat([prefix.filled_GP[queries.prefix_R], own.filled_GP], 1)


def _slants(slopes_H: Tensor, queries: Sequences, prefix: Keys | None, own: Keys) -> Tensor:
    """ALiBi, [K, R, J, 1, S]; fp32."""
    slopes_K1J11 = slopes_H.view(own.keys_KGPd.shape[0], 1, -1, 1, 1)
    return slopes_K1J11 * _columns(queries, prefix, own)[0][:, None, None]


def _ends(texts: Sequences | None, first: int, reads: Sequence[int]) -> tuple[Tensor, Sequences | None]:
    """Indices of the tokens that are read among all tokens, and the record of these alone."""
    if texts is None:
        return torch.zeros(0, dtype=torch.long), None
    device = texts.place_N.device
    ends = [first + n for span, num in zip(spans(texts.lengths), reads, strict=True) for n in span[len(span) - num :]]
    starts = [start + length - num for start, length, num in zip(texts.starts, texts.lengths, reads, strict=True)]
    return torch.tensor(ends, device=device), sequences(reads, starts, texts.prefixes, device)


def _keys(block: Sequences, key_NKd: Tensor, value_NKd: Tensor) -> Keys:
    """Keys and values of sequences, unpacked."""
    return Keys(
        keys_KGPd=block.unpack(key_NKd, key_NKd.shape[1]),
        values_KGPd=block.unpack(value_NKd, value_NKd.shape[1]),
        position_GP=block.position_RT,
        filled_GP=block.filled_RT,
    )


_running: ContextVar[Pass] = ContextVar("running")


def attend(  # noqa: PLR0913, PLR0917
    module: nn.Module,
    query_1HNd: Tensor,
    key_1KNd: Tensor,
    value_1KNd: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    slopes_H: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One layer's attention; the signature is transformers' attention interface.

    Args:
        module: The layer's attention module.
        query_1HNd: Queries.
        key_1KNd: Keys.
        value_1KNd: Values.
        attention_mask: Not used: who sees whom follows from the running `Pass`.
        scaling: Of the scores; 1 / sqrt(d) when absent.
        sliding_window: Positions that are seen.
        softcap: Bound of the scores.
        slopes_H: ALiBi's.

    Returns:
        The output, [1, N, H, d], and None for the weights.
    """
    scale = query_1HNd.shape[-1] ** -0.5 if scaling is None else scaling
    rule = Rule(scaling=scale, window=sliding_window, softcap=softcap, slopes_H=slopes_H)
    query, key, value = (t.squeeze(0).transpose(0, 1) for t in (query_1HNd, key_1KNd, value_1KNd))
    return _running.get().attend(int(module.layer_idx), query, key, value, rule)[None], None  # type: ignore[arg-type]


def _no_mask(**_: Any) -> None:
    """Who sees whom follows from the running `Pass`."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
