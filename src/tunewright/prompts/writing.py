"""Texts around the input of a task that asks for texts: instructions to choose from, and demonstrations.

Each is `(fixed, row)`: what stands before all rows, and what a row becomes, up to where the answer begins.
"""

from collections.abc import Iterable, Mapping

PLAIN = ("", "{text}\n")
"""For methods that learn what to do."""

INSTRUCTIONS: Mapping[str, tuple[str, str]] = {
    "input-output": ("", "Input: {text}\nOutput:"),
    "instruction": ("Write the right output for each input.\n\n", "Input: {text}\nOutput:"),
    "question-answer": ("", "Question: {text}\nAnswer:"),
    "plain": PLAIN,
}
"""For methods that only say it."""


def demonstrated(template: tuple[str, str], shown: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The template with demonstrations before the row.

    Args:
        template: `(fixed, row)`.
        shown: Rows as the template fills them, each with its answer.
    """
    fixed, row = template
    return fixed + "".join(f"{filled}{_space(filled)}{target}\n\n" for filled, target in shown), row


def _space(before: str) -> str:
    return "" if before[-1:].isspace() else " "
