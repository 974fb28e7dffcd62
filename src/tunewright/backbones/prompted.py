"""Bases that answer under a template: what stands around a row, its nearest examples, the tokens of labels' words.

Shapes: B rows, D width.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.answers import unit
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding, Row, together
from tunewright.backbones.tokens import by_length, encode_framed, fitting
from tunewright.errors import ConfigError
from tunewright.types import Example, whole_text


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around the rows of an adapter."""

    kept_tokens: int = 0
    """Before all rows, run once for them."""
    said: str = ""
    """Words that each row begins with."""
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    template: Template | None = None


class Prompted(Backbone):
    """A frozen base around whose rows a template may stand."""

    @abstractmethod
    def _frame(self, adapter: Adapter) -> Frame:
        """What stands around its rows."""

    @property
    def takes_templates(self) -> bool:
        return True

    @property
    def takes_members(self) -> bool:
        return self.answers_prompts

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """Tokenises as the adapter's template has it, so that prefix, row and answer fit the context.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Room for the answer; at least what its phrases or its decoding may take.

        Raises:
            ConfigError: The template leaves no room for a text.
        """
        if adapter.members is not None:
            return together([self.encode_for(examples, each, answer_tokens) for each in adapter.each])
        answer = 0 if self.answers_apart else max(answer_tokens, self.answer_tokens(adapter))
        frame = self._frame(adapter)
        before, template = adapter.prefix_tokens + frame.kept_tokens, frame.template
        room, wanted = self.max_tokens - before - answer, adapter.max_tokens - adapter.prefix_tokens
        if template is None:
            self._check_room(room, fixed=before, frame=0, answer=answer)
            return self.encode(examples, min(wanted, room))
        ends = len(frame.begin_ids) + len(frame.end_ids)
        around = ends + len(self.token_ids(frame.said + template.fill({})))
        self._check_room(room - around, fixed=before, frame=around, answer=answer)
        shown = [frame.said] * len(examples)
        if adapter.retriever is not None:
            found = self._retrieved(examples, adapter, adapter.retriever, (room - around) // 2)
            shown = [frame.said + words for words in found]
        limits = [min(wanted + around + len(self.token_ids(words.removeprefix(frame.said))), room) for words in shown]
        ids = (frame.begin_ids, frame.end_ids)
        framed = encode_framed(self._checkpoint.tokenizer, self.in_chat(examples), template, ids, limits, shown)
        return self._with_choices(framed, examples, adapter) if adapter.scores_choices else framed

    def _with_choices(
        self, encodings: Sequence[Encoding], examples: Sequence[Example], adapter: Adapter
    ) -> list[Encoding]:
        """The inputs with their rows' own candidates, cut to the room that is kept for answers."""
        found, most = [], self._most_choice_tokens
        for encoding, example in zip(encodings, examples, strict=True):
            whole = [self.encode_answer(choice, after=adapter.before_answer) for choice in example.choices]
            if not all(whole):
                empty = example.choices[whole.index(())]
                raise ConfigError(f"{self.identity.name} has no token for candidate {empty!r} of row {example.id}.")
            lost = max(0, *(len(ids) - most for ids in whole))
            cut = tuple(ids[:most] for ids in whole)
            found.append(replace(encoding, choices=cut, num_cut=encoding.num_cut + lost))
        return found

    @property
    def _most_choice_tokens(self) -> int:
        """Room for a row's own candidates, which is the same whatever the neighbours bring."""
        return max(1, self.max_tokens // 4)

    def _retrieved(
        self, examples: Sequence[Example], adapter: Adapter, retriever: Retriever, room: int
    ) -> Iterator[str]:
        """What stands before each row: its nearest examples, the nearest last, as many as fit so many tokens."""
        vectors_BD = None
        if retriever.by_features and examples:
            with torch.no_grad():
                vectors_BD = unit(self._bare_features(examples, adapter.max_tokens).cpu())
        for nearest in retriever.ranked([whole_text(example) for example in examples], vectors_BD):
            yield fitting(nearest, room, lambda text: len(self.token_ids(text)))

    def _bare_features(self, examples: Sequence[Example], limit: int) -> Tensor:
        """Features of texts by themselves, as `FeatureStore` has them."""
        bare = Adapter(base=self.identity, labels=(), max_tokens=self.max_tokens)
        rows = [Row(encoding=encoding, adapter=bare) for encoding in self.encode(examples, limit)]
        found: dict[int, Tensor] = {}
        for members in by_length([len(row.encoding.ids) for row in rows]):
            found |= dict(zip(members, self.features([rows[k] for k in members]), strict=True))
        return torch.stack([found[k] for k in range(len(rows))])

    def _check_room(self, room: int, *, fixed: int, frame: int, answer: int) -> None:
        if room < 1:
            raise ConfigError(
                f"the template leaves no room for a text: {fixed} tokens before the row, {frame} around its text and "
                f"{answer} of the answer, in a context of {self.max_tokens} tokens. Shorten it, or the answer."
            )

    def answer_tokens(self, adapter: Adapter) -> int:
        """Most tokens of its answers, with the reasoning before them."""
        decoded = 0 if adapter.decoding is None else adapter.decoding.max_new_tokens
        if not adapter.scores_phrases:
            return decoded
        if adapter.scores_choices:
            return max(decoded, self._most_choice_tokens)
        phrases = max(map(len, self.phrase_ids(adapter)), default=0)
        if adapter.reasoning is None:
            return max(decoded, phrases)
        return decoded + len(self.encode_answer(adapter.reasoning.cue, after=".")) + phrases

    def phrase_ids(self, adapter: Adapter) -> list[tuple[int, ...]]:
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
                ids = self.encode_answer(phrase, after=adapter.before_answer)
                if not ids or owner.setdefault(ids, label) != label:
                    fault = f"labels {owner[ids]!r} and {label!r} have the same words" if ids else "a label has no word"
                    todo = "Rename a label in the data; descriptions (--descriptions) must differ too."
                    raise ConfigError(f"{fault}: {phrase!r}. {todo}")
                found.append(ids)
        return found
