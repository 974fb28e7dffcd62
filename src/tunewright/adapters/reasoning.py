"""A part by which a base reasons before it answers, and how answers that differ become one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.adapters.parts import Part


@dataclass(frozen=True, kw_only=True)
class Reasoning(Part):
    """The base writes its reasoning, then a cue, then its answer (Wei et al. 2022, section 2)."""

    cue: str
    """Stands between the two."""
    full_stop: bool = False
    """Whether a full stop at the end is part of an answer in text."""

    def answer(self, text: str) -> str:
        """What follows the last cue, to the end of its line; empty where there is no cue: such an answer is illegal."""
        _, cue, rest = text.rpartition(self.cue)
        line = rest.strip().partition("\n")[0].strip() if cue else ""
        return line if self.full_stop else line.removesuffix(".").strip()

    def check(self) -> None:
        assert self.cue.strip(), "a cue can be found"


def voted(answers: Sequence[str]) -> str:
    """The answer that most give, but for white space, the first of equals; illegal ones, which are empty, do not count.

    Self-consistency (Wang et al. 2023, section 2).
    """
    counts = Counter(" ".join(answer.split()) for answer in answers)
    del counts[""]
    if not counts:
        return ""
    return next(answer for answer in answers if " ".join(answer.split()) == counts.most_common(1)[0][0])
