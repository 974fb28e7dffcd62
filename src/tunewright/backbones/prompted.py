"""What a template asks of a base: room for a row, the row's nearest examples, the tokens of labels' words.

Shapes: B rows, D width.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.answers import unit
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.tokens import by_length
from tunewright.errors import ConfigError
from tunewright.types import Example, whole_text


class Base(Protocol):
    """What is used of a backbone."""

    @property
    def identity(self) -> BaseIdentity: ...
    @property
    def max_tokens(self) -> int: ...
    def token_ids(self, text: str) -> list[int]: ...
    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]: ...
    def features(self, rows: Sequence[Row]) -> Tensor: ...
    def encode_answer(self, text: str, *, after: str = ..., ends: bool = ...) -> tuple[int, ...]: ...


def phrase_ids(base: Base, adapter: Adapter) -> list[tuple[int, ...]]:
    """Tokens of all phrases that an adapter scores, label by label.

    Raises:
        ConfigError: A phrase without tokens, or of two labels.
    """
    assert adapter.verbalizer is not None
    assert adapter.template is not None
    found: list[tuple[int, ...]] = []
    owner: dict[tuple[int, ...], str] = {}
    for label, phrases in zip(adapter.labels, adapter.verbalizer.phrases, strict=True):
        for phrase in phrases:
            ids = base.encode_answer(phrase, after=adapter.template.row)
            if not ids or owner.setdefault(ids, label) != label:
                fault = f"labels {owner[ids]!r} and {label!r} have the same words" if ids else "a label has no word"
                todo = "Rename a label in the data; descriptions (--descriptions) must differ too."
                raise ConfigError(f"{fault}: {phrase!r}. {todo}")
            found.append(ids)
    return found


def answer_tokens(base: Base, adapter: Adapter) -> int:
    """Most tokens of its answers."""
    decoded = 0 if adapter.decoding is None else adapter.decoding.max_new_tokens
    phrases = max(map(len, phrase_ids(base, adapter)), default=0) if adapter.scores_phrases else 0
    return max(decoded, phrases)


def check_room(base: Base, room: int, *, fixed: int, frame: int, answer: int) -> None:
    """Makes sure that there is a token for a text.

    Raises:
        ConfigError: There is none.
    """
    if room < 1:
        raise ConfigError(
            f"the template leaves no room for a text: {fixed} tokens before the row, {frame} around its text and "
            f"{answer} of the answer, in a context of {base.max_tokens} tokens. Shorten it, or the answer."
        )


def retrieved(base: Base, examples: Sequence[Example], adapter: Adapter, room: int) -> Iterator[str]:
    """What stands before each row: its nearest examples, the nearest last, as many as fit so many tokens."""
    retriever = adapter.retriever
    if retriever is None:
        yield from [""] * len(examples)
        return
    vectors_BD = _vectors(base, examples, adapter.max_tokens, retriever)
    for nearest in retriever.ranked([whole_text(example) for example in examples], vectors_BD):
        sizes = accumulate(len(base.token_ids(shown)) for shown in nearest)
        yield "".join(reversed([shown for shown, size in zip(nearest, sizes, strict=True) if size <= room]))


def _vectors(base: Base, examples: Sequence[Example], limit: int, retriever: Retriever) -> Tensor | None:
    """Features of texts by themselves, as `FeatureStore` has them, where the retriever compares them."""
    if retriever.vectors_ND is None or not examples:
        return None
    bare = Adapter(base=base.identity, labels=(), max_tokens=base.max_tokens)
    rows = [Row(encoding=encoding, adapter=bare) for encoding in base.encode(examples, limit)]
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for members in by_length([len(row.encoding.ids) for row in rows]):
            found |= dict(zip(members, base.features([rows[k] for k in members]), strict=True))
        return unit(torch.stack([found[k] for k in range(len(rows))]).cpu())
