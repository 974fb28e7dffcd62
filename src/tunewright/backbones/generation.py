"""Text token by token, for rows that join and leave between steps (continuous batching: Yu et al. 2022, section 3.2).

A row is run once when it joins; from then on a step runs its last token alone, in one pass with all other rows,
whatever their adapters. Rows that bring weights of their own have a lane of their own.

Shapes: R rows of a lane, V vocabulary, D width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunewright.adapters.parts import Decoding, Weights
from tunewright.backbones.base import FinishReason, Generation, Request
from tunewright.backbones.packed import sequences
from tunewright.backbones.prefix import Kept, Keys, stacked
from tunewright.backbones.prefixed import Prefixed
from tunewright.backbones.scoring import Seen
from tunewright.backbones.stepwise import Emitted
from tunewright.backbones.storage import Storage
from tunewright.backbones.tokens import by_length
from tunewright.backbones.written import Written


@dataclass(kw_only=True, eq=False)
class Answering:
    """A row that is being answered."""

    request: Request
    written: Written
    room: int
    """Tokens that it may still get."""

    def take(self, token: int, log_prob: float) -> Emitted:
        """One more token."""
        self.room -= 1
        text, stopped = self.written.add(token, last=self.room <= 0)
        reason: FinishReason | None = "stop" if stopped else "length" if self.room <= 0 else None
        return Emitted(id=self.request.id, token=token, log_prob=log_prob, text=text, finish_reason=reason)


def choose(answering: Sequence[Answering], logits_RV: Tensor) -> list[Emitted]:
    """The next token of each, as its request decodes."""
    tokens = [
        draw(logits_V, a.request.decoding, a.request.generator) if a.request.decoding.temperature > 0 else likeliest
        for a, logits_V, likeliest in zip(answering, logits_RV, logits_RV.argmax(-1).tolist(), strict=True)
    ]
    index_R = torch.tensor(tokens, device=logits_RV.device)[:, None]
    log_probs = (logits_RV.gather(1, index_R)[:, 0] - logits_RV.logsumexp(-1)).tolist()
    return [a.take(token, log_prob) for a, token, log_prob in zip(answering, tokens, log_probs, strict=True)]


@dataclass(kw_only=True, eq=False)
class _Writer(Answering):
    """With what its text saw before it."""

    kept: Kept | None
    """Its prefix."""
    start: int
    """Position of its first token."""


class Generating:
    """Answers in text; rows join by `add`, get a token with each `step`, and leave when they finish or by `remove`.

    Args:
        base: The decoder.

    Raises:
        ModelError: It came without a language model's head.
    """

    def __init__(self, base: Prefixed) -> None:
        self._base, self._head = base, base.head()
        self._lanes: dict[tuple[int, ...], _Lane] = {}
        self._first: list[Emitted] = []
        """First tokens, chosen when their rows joined."""

    def __len__(self) -> int:
        """Rows that are being answered or have tokens to be told of."""
        return len(self._ids())

    def _ids(self) -> set[Hashable]:
        writing = {writer.request.id for lane in self._lanes.values() for writer in lane.writers}
        return writing | {emitted.id for emitted in self._first}

    @torch.no_grad()
    def add(self, requests: Sequence[Request]) -> None:
        """Rows join, all or none; their first tokens are among what the next step returns.

        Raises:
            ValueError: Two rows of one id, or one of a row that is still being answered.
        """
        ids = [request.id for request in requests]
        if len({*ids, *self._ids()}) < len(ids) + len(self):
            raise ValueError(f"each row that is answered must have an id of its own. Got {ids}.")
        groups: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            groups.setdefault(self._base.pass_of(request.row), []).append(request)
        try:
            for key, members in groups.items():
                if key not in self._lanes:
                    self._lanes[key] = _Lane(self._base, members[0].row.adapter.weights)
                for some in by_length([len(request.row.encoding.ids) for request in members]):
                    self._first += self._lanes[key].join([members[k] for k in some])
        except BaseException:
            self.remove([request.id for request in requests])
            raise
        self._close()

    @torch.no_grad()
    def step(self) -> list[Emitted]:
        """One more token for every row."""
        found, self._first = self._first, []
        for lane in self._lanes.values():
            found += lane.step()
        self._close()
        return found

    def remove(self, ids: Sequence[Hashable]) -> None:
        """Rows leave unfinished, if they have not left yet."""
        gone = set(ids)
        self._first = [emitted for emitted in self._first if emitted.id not in gone]
        for lane in self._lanes.values():
            lane.leave([k for k, writer in enumerate(lane.writers) if writer.request.id in gone])
        self._close()

    def _close(self) -> None:
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.writers}


class _Lane:
    """Rows that run together."""

    def __init__(self, base: Prefixed, weights: Weights | None) -> None:
        self._base, self._weights = base, weights
        self.writers: list[_Writer] = []
        """Number r has place r of the storage."""
        self._storage = Storage()
        self._prefixes: tuple[list[Kept | None], list[Keys] | None] = ([], None)
        """Which prefixes stand side by side now (held, so that no other gets their ids), and keys and values of all."""

    def join(self, requests: Sequence[Request]) -> list[Emitted]:
        """Runs the texts; returns their first tokens."""
        base, rows = self._base, [request.row for request in requests]
        seen, batch = Seen(), base.batch(rows, [row.encoding.ids for row in rows], self._weights)
        hidden_RD = base.run(batch, seen).hidden_MD
        assert hidden_RD is not None
        lengths = batch.lengths()
        joined = []
        for request, which in zip(requests, batch.which, strict=True):
            start, size = sum(lengths[which]), len(request.row.encoding.ids)
            room = min(request.decoding.max_new_tokens, base.max_tokens - start - size)
            written = Written(base.tokenizer, base.end_ids, request.decoding.stop)
            kept = batch.known[which]
            joined.append(_Writer(request=request, kept=kept, start=start, written=written, room=room))
        self._storage.join(seen.layers, [len(row.encoding.ids) for row in rows], [w.start for w in joined])
        self.writers += joined
        return self._choose(joined, hidden_RD)

    def step(self) -> list[Emitted]:
        """Runs the last token of each row; returns the next ones."""
        if not self.writers:
            return []
        which, prefixes = self._side_by_side()
        starts = [w.start + size for w, size in zip(self.writers, self._storage.lengths, strict=True)]
        texts = sequences([1] * len(starts), starts, which, self._base.device)
        assert texts is not None
        last, loras = [w.written.ids[-1] for w in self.writers], [w.request.row.adapter.update for w in self.writers]
        with self._storage:
            hidden_RD = self._base.go_on(last, texts, prefixes, self._storage, loras, self._weights)
        return self._choose(list(self.writers), hidden_RD)

    def leave(self, places: Sequence[int]) -> None:
        """Rows leave; the last ones take their places."""
        for place in sorted(places, reverse=True):
            self._storage.leave(place)
            last = self.writers.pop()
            if place < len(self.writers):
                self.writers[place] = last

    def _choose(self, writers: Sequence[_Writer], hidden_RD: Tensor) -> list[Emitted]:
        """The next token of each; those that it finishes leave."""
        found = choose(writers, self._base.head().logits(hidden_RD, self._weights))
        done = {e.id for e in found if e.finish_reason is not None}
        self.leave([k for k, writer in enumerate(self.writers) if writer.request.id in done])
        return found

    def _side_by_side(self) -> tuple[list[int], list[Keys]]:
        """Which prefix each row sees, and the keys and values of all: put together again when other rows are here."""
        distinct = {_key(w.kept): w.kept for w in self.writers}
        if list(distinct) != [_key(kept) for kept in self._prefixes[0]]:
            like, kept = torch.empty(0, dtype=self._base.dtype, device=self._base.device), list(distinct.values())
            self._prefixes = (kept, stacked(kept, self._base.prefix_shape, like))
        place = {key: g for g, key in enumerate(distinct)}
        return [place[_key(w.kept)] for w in self.writers], self._prefixes[1] or []


def _key(kept: Kept | None) -> int:
    return 0 if kept is None else id(kept[0])


def draw(logits_V: Tensor, decoding: Decoding, generator: torch.Generator | None) -> int:
    """A token from softmax(logits / temperature), of the likeliest that together have the probability `top_p`.

    One number is drawn for each token, and looked up in the cumulated probabilities.
    """
    assert generator is not None, "who draws brings a generator"
    values_V, order_V = (logits_V.double().cpu() / decoding.temperature).softmax(-1).sort(descending=True, stable=True)
    before_V = values_V.cumsum(-1) - values_V
    values_V = values_V[before_V < decoding.top_p]
    cumulated_V = values_V.cumsum(-1)
    point = torch.rand((), dtype=torch.float64, generator=generator) * cumulated_V[-1]
    return int(order_V[min(int(torch.searchsorted(cumulated_V, point, right=True)), len(values_V) - 1)])


def generate(base: Prefixed, requests: Sequence[Request], most_rows: int) -> dict[Hashable, Generation]:
    """Answers all requests, at most so many at a time; the next joins when one leaves."""
    running, waiting = Generating(base), list(reversed(requests))
    found: dict[Hashable, list[Emitted]] = {request.id: [] for request in requests}
    while waiting or len(running):
        free = most_rows - len(running)
        running.add([waiting.pop() for _ in range(min(free, len(waiting)))])
        for emitted in running.step():
            found[emitted.id].append(emitted)
    return {key: whole(parts) for key, parts in found.items()}


def whole(parts: Sequence[Emitted]) -> Generation:
    """All tokens of a row as its answer."""
    reason = parts[-1].finish_reason
    assert reason is not None
    return Generation(
        text="".join(part.text for part in parts),
        ids=tuple(part.token for part in parts),
        log_probs=tuple(part.log_prob for part in parts),
        finish_reason=reason,
    )
