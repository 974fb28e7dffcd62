"""Models behind an endpoint: rows become requests, and what comes back is read as scores of labels or as text.

No tokenizer is here. What stands for tokens are pieces of a text of at most three bytes: somewhat more of them than
most tokenizers make, and a text can be put together from them again. Room is counted in them; what is billed is counted
in the endpoint's own tokens, as its `usage` says.

Shapes: B rows, F phrases, E of a reading, which is F here.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tunewright.adapters.adapter import BODY_PARTS, Adapter, BaseIdentity
from tunewright.adapters.parts import Decoding, Template
from tunewright.backbones import answers
from tunewright.backbones.base import Base, Encoding, Generation, Row
from tunewright.backbones.dialect import Ask, Body
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.endpoint import Endpoint
from tunewright.backbones.heard import Heard
from tunewright.backbones.label_answers import phrase_scores, read_phrase
from tunewright.backbones.reasoned import reasoned
from tunewright.backbones.replies import Reply
from tunewright.backbones.tokens import fitting
from tunewright.errors import AdapterError, ConfigError
from tunewright.types import Example, whole_text

CONTEXT_TOKENS = 32_768
"""Taken for granted: endpoints do not tell."""

_PIECE_BYTES = 3
_SPARE_TOKENS = 4
"""Beyond the longest label: white space, a mark, the end."""
_SEEDS = 2**31
"""That every endpoint takes; a torch generator's may be beyond 64 signed bits."""


class Remote(Base):
    """A model that answers elsewhere.

    Args:
        endpoint: Connected.
    """

    max_tokens = CONTEXT_TOKENS
    width = 0
    writes = takes_templates = reasons = True
    is_here = False
    batch_tokens = 2**40  # the endpoint says how many at a time

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._heard: list[Heard] | None = None

    @property
    def identity(self) -> BaseIdentity:
        return self.endpoint.identity

    @property
    def tells_scores(self) -> bool:
        return self.endpoint.labelling.num_top > 0

    @property
    def about(self) -> Mapping[str, object]:
        where = f"{self.endpoint.url} may change them at any time"
        return {"weights": f"cannot be verified: {where}; the hash is of URL and model name"}

    @property
    def priced_as(self) -> str:
        return self.endpoint.model

    @property
    def fault(self) -> str | None:
        return self.endpoint.fault

    def token_ids(self, text: str) -> list[int]:
        return pieces(text)

    def words(self, ids: Sequence[int]) -> list[str]:
        return [joined([i]) for i in ids]

    def encode(self, examples: Sequence[Example], limit: int) -> list[Encoding]:
        return [_cut(example, PLAIN, "", limit) for example in examples]

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """As the adapter's template has it, so that fixed text, row and answer fit the context.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Room for the answer; at least what its labels or its decoding may take.

        Raises:
            ConfigError: The template leaves no room for a text.
        """
        template = PLAIN if adapter.template is None else adapter.template
        fixed, around = len(pieces(template.fixed)), len(pieces(template.fill({})))
        room = self.max_tokens - fixed - max(answer_tokens, self._answer_tokens(adapter))
        if room - around < 1:
            raise ConfigError(
                f"the template leaves no room for a text: {fixed + around} pieces of {_PIECE_BYTES} bytes in a context "
                f"that is taken to have {self.max_tokens}. Shorten it, or the answer."
            )
        shown = [""] * len(examples)
        if adapter.retriever is not None:
            ranked = adapter.retriever.ranked([whole_text(example) for example in examples], None)
            shown = [fitting(nearest, (room - around) // 2, lambda text: len(pieces(text))) for nearest in ranked]
        limits = [min(adapter.max_tokens + around + len(pieces(words)), room) for words in shown]
        return [_cut(*each) for each in zip(examples, [template] * len(examples), shown, limits, strict=True)]

    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:  # noqa: ARG002
        return tuple(pieces(text if after[-1:].isspace() else f" {text.lstrip()}"))

    def fixed_ids(self, text: str) -> tuple[int, ...]:
        return tuple(pieces(text))

    def phrase_ids(self, adapter: Adapter) -> list[tuple[int, ...]]:
        return [tuple(pieces(phrase)) for phrase in _phrases(adapter)]

    def scores(self, rows: Sequence[Row], candidates: Sequence[tuple[int, ...]]) -> Tensor:  # noqa: ARG002
        """Of the rows' own phrases, log-probabilities [B, F]: other candidates cannot be scored elsewhere."""
        return torch.stack(self.readings(rows))

    def check(self, adapter: Adapter) -> None:
        super().check(adapter)
        inside = ({*BODY_PARTS, "head"} - {"template", "retriever"}) & set(adapter.parts())
        if inside or (adapter.retriever is not None and adapter.retriever.by_features):
            raise AdapterError(
                f"{self.identity.name} answers elsewhere and carries nothing that is learned inside a base."
            )

    def features(self, rows: Sequence[Row]) -> Tensor:
        """None: [B, 0]."""
        return torch.zeros(len(rows), 0)

    def readings(self, rows: Sequence[Row]) -> list[Tensor]:
        """Scores of each row's phrases, log-probabilities; behind a reasoning where an adapter asks for one."""
        if any(row.adapter.reasoning is not None for row in rows):
            return reasoned(self, rows)
        replies = self._ask([self._choice(row) for row in rows])
        found = []
        for row, reply in zip(rows, replies, strict=True):
            phrases = _phrases(row.adapter)
            self._hear(row, reply, None if self.tells_scores else read_phrase(reply.text, phrases) is None)
            found.append(torch.tensor(phrase_scores(reply, phrases), dtype=torch.float32))
        return found

    def answer(self, adapter: Adapter, readings_BE: Tensor, dropout: Dropout | None = None) -> Tensor:
        return answers.answer(adapter, readings_BE, _no_features, dropout)

    def generate(self, rows: Sequence[Row], generators: Sequence[torch.Generator] | None = None) -> list[Generation]:
        """Answers in text, each row as its adapter's decoding says; what is drawn hangs on the generators' seeds."""
        seeds = [None] * len(rows) if generators is None else [each.initial_seed() % _SEEDS for each in generators]
        bodies = [self._text(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        replies = self._ask(bodies)
        for row, reply in zip(rows, replies, strict=True):
            self._hear(row, reply, None)
        return [_stopped(row.adapter, reply) for row, reply in zip(rows, replies, strict=True)]

    def overheard(self, answering: Callable[[], object]) -> list[Heard]:
        before, self._heard = self._heard, []
        try:
            answering()
            return self._heard
        finally:
            self._heard = before

    def _ask(self, bodies: Sequence[Body]) -> list[Reply]:
        return self.endpoint.ask(bodies, self.between, counts=self._heard is None)

    def _hear(self, row: Row, reply: Reply, illegal: bool | None) -> None:
        if self._heard is not None:
            size = len(_prompt(row).encode("utf-8", "surrogatepass"))
            heard = Heard(usage=reply.usage, prompt_bytes=size, waited_ms=reply.waited_ms, illegal=illegal)
            self._heard.append(heard)

    def _choice(self, row: Row) -> Body:
        """Asks for a label."""
        ask = Ask(prompt=_prompt(row), max_tokens=self._answer_tokens(row.adapter), tells=True)
        return self.endpoint.labelling.body(self.endpoint.model, ask)

    def _text(self, row: Row, seed: int | None) -> Body:
        """Asks for a text."""
        how = Decoding() if row.adapter.decoding is None else row.adapter.decoding
        ask = Ask(
            prompt=_prompt(row),
            max_tokens=how.max_new_tokens,
            temperature=how.temperature,
            top_p=how.top_p,
            stop=how.stop,
            seed=seed,
        )
        return self.endpoint.writing.body(self.endpoint.model, ask)

    def _answer_tokens(self, adapter: Adapter) -> int:
        """Most tokens of its answers."""
        if adapter.scores_phrases:
            return max(len(pieces(phrase)) for phrase in _phrases(adapter)) + _SPARE_TOKENS
        return (Decoding() if adapter.decoding is None else adapter.decoding).max_new_tokens


PLAIN = Template(fixed="", row="{text}")


def pieces(text: str) -> list[int]:
    """A text in pieces of at most three bytes, or of one longer character, as numbers."""
    found, piece = list[int](), b""
    for character in text:
        more = character.encode("utf-8", "surrogatepass")
        if piece and len(piece) + len(more) > _PIECE_BYTES:
            found.append(int.from_bytes(b"\1" + piece))
            piece = b""
        piece += more
    return [*found, int.from_bytes(b"\1" + piece)] if piece else found


def joined(ids: Sequence[int]) -> str:
    """The text of some pieces."""
    return b"".join(i.to_bytes((i.bit_length() + 7) // 8)[1:] for i in ids).decode("utf-8", "surrogatepass")


def _cut(example: Example, template: Template, before: str, limit: int) -> Encoding:
    """A row as its template has it; of what is too long the longest text is cut."""
    texts = template.words(example)
    ids = whole = pieces(before + template.fill(texts))
    while len(ids) > limit and any(texts.values()):
        longest = max(texts, key=lambda name: len(pieces(texts[name])))
        kept = pieces(texts[longest])[: -max(1, (len(ids) - limit) // len(texts))]
        texts[longest] = joined(kept)
        ids = pieces(before + template.fill(texts))
    return Encoding(ids=tuple(ids), type_ids=(0,) * len(ids), num_cut=len(whole) - len(ids))


def _stopped(adapter: Adapter, reply: Reply) -> Generation:
    """The answer up to the first stop: an endpoint takes four of them at most, or none."""
    stops = () if adapter.decoding is None else adapter.decoding.stop
    end = min((reply.text.find(stop) for stop in stops if stop in reply.text), default=None)
    text = reply.text[:end]
    reason = reply.finish_reason if end is None else "stop"
    return Generation(text=text, ids=tuple(pieces(text)), log_probs=(), finish_reason=reason)


def _prompt(row: Row) -> str:
    return ("" if row.adapter.template is None else row.adapter.template.fixed) + joined(row.encoding.ids)


def _phrases(adapter: Adapter) -> list[str]:
    assert adapter.verbalizer is not None
    return [phrase for phrases in adapter.verbalizer.phrases for phrase in phrases]


def _no_features(_: tuple[str, ...]) -> Tensor:
    raise AssertionError("no method that reads features is offered")
