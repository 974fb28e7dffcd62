"""What is remembered of answers, for those who say later whether they were right."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.serve.ask import Answer
from tunewright.types import Example

_ROWS = 10_000
"""The latest; feedback on older ones must bring its own answer."""

_CHARACTERS = 32 * 2**20
"""Of their answers and texts together: ten thousand long texts would fill gigabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """An answer; and its text, only where texts are kept."""

    answer: str
    text: str | None = None
    text_pair: str | None = None

    @property
    def num_characters(self) -> int:
        """Of all that is remembered."""
        return sum(len(each) for each in (self.answer, self.text, self.text_pair) if each is not None)


class Memory:
    """The latest answers by row.

    Args:
        keeps_texts: Whether their texts too.
    """

    def __init__(self, *, keeps_texts: bool) -> None:
        self._keeps_texts = keeps_texts
        self._rows: OrderedDict[str, Remembered] = OrderedDict()
        self._characters = 0

    def note(self, ids: Sequence[str], examples: Sequence[Example], answers: Sequence[Answer]) -> None:
        """Rows that were answered."""
        for row_id, example, answer in zip(ids, examples, answers, strict=True):
            texts = (example.text, example.text_pair) if self._keeps_texts else (None, None)
            self._rows[row_id] = Remembered(answer=answer.answer, text=texts[0], text_pair=texts[1])
            self._characters += self._rows[row_id].num_characters
        while len(self._rows) > _ROWS or self._characters > _CHARACTERS:
            _, gone = self._rows.popitem(last=False)
            self._characters -= gone.num_characters

    def find(self, row_id: str) -> Remembered | None:
        """What is known of a row."""
        return self._rows.get(row_id)
