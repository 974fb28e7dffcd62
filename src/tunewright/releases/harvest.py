"""From feedback to labelled rows: the next version of the data."""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.errors import RegistryError, RunError, counted
from tunewright.files import read_json
from tunewright.releases.entries import Feedback
from tunewright.releases.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvest:
    """Labelled rows, and what was said that makes none."""

    rows: tuple[dict[str, str], ...]
    """`text`, `label` (`target` where the task writes), and `text_pair` where any row has one; oldest first."""
    num_confirmed: int
    num_corrected: int
    num_superseded: int
    """The same request was spoken of again later, or the same text."""
    num_wrong: int
    """Wrong, and nobody said what would have been right."""
    num_without_text: int
    """Their sender kept the text to himself."""
    num_without_answer: int
    """Right, but nobody knows any more what was."""

    @property
    def summary(self) -> str:
        """One line with all counts."""
        left = {
            "superseded by a later word": self.num_superseded,
            "wrong without the right answer": self.num_wrong,
            "without a text": self.num_without_text,
            "without the answer that was right": self.num_without_answer,
        }
        said = ", ".join(f"{count} {reason}" for reason, count in left.items() if count)
        kept = f"{counted(len(self.rows), 'row')} ({self.num_confirmed} confirmed, {self.num_corrected} corrected)"
        return f"{kept}; left out: {said or 'none'}"


def harvest(state: State, task: str) -> Harvest:
    """All of a task's feedback, whichever version answered. Of one request, or one text, the last word counts.

    Raises:
        RegistryError: No such task, or its rows are more than texts.
    """
    record: dict[str, Any] = {}
    with contextlib.suppress(RunError):  # the folder is gone
        record = dict(read_json(Path(state.versions(task)[-1].folder) / "adapter.json"))
    parts, column = record.get("parts", {}), "target" if record.get("labels") == [] else "label"
    every = (parts, *parts.get("members", {}).get("members", ()))
    if "candidates" in parts or any(each.get("template", {}).get("columns") for each in every):
        raise RegistryError(f"rows of {task} have columns beside the text, which feedback does not keep: label a file.")
    given = state.feedback(task)
    last: dict[str, Feedback] = {}
    for each in given:
        before = last.pop(each.request_id, each)  # its text and answer stand where this word brings none
        texts = before if each.text is None else each
        answer = before.answer if each.answer is None else each.answer
        last[each.request_id] = replace(each, text=texts.text, text_pair=texts.text_pair, answer=answer)
    counts: Counter[str] = Counter()
    rows: dict[tuple[str, str | None], Feedback] = {}
    for each in last.values():
        fault = _fault(each)
        if fault is not None:
            counts[fault] += 1
            continue
        assert each.text is not None
        counts["superseded"] += (each.text, each.text_pair) in rows
        rows.pop((each.text, each.text_pair), None)
        rows[each.text, each.text_pair] = each
    paired = any(each.text_pair is not None for each in rows.values())
    return Harvest(
        rows=tuple(_row(each, column, paired=paired) for each in rows.values()),
        num_confirmed=sum(each.verdict == "right" for each in rows.values()),
        num_corrected=sum(each.verdict == "corrected" for each in rows.values()),
        num_superseded=len(given) - len(last) + counts["superseded"],
        num_wrong=counts["wrong"],
        num_without_text=counts["text"],
        num_without_answer=counts["answer"],
    )


def _fault(each: Feedback) -> str | None:
    """Why it makes no row."""
    if each.verdict == "wrong":
        return "wrong"
    if each.text is None or not each.text.strip():
        return "text"
    return None if _label(each) else "answer"


def _label(each: Feedback) -> str | None:
    return each.answer if each.verdict == "right" else each.corrected


def _row(each: Feedback, column: str, *, paired: bool) -> dict[str, str]:
    label = _label(each)
    assert each.text is not None
    assert label is not None
    pair = {"text_pair": "" if each.text_pair is None else each.text_pair} if paired else {}
    return {"text": each.text, **pair, column: label}
