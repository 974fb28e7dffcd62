"""What a decoder is asked: words before all rows, and words around each, after which the answer begins."""

from tunewright.data.labels import in_words
from tunewright.types import Task

PROMPTS: dict[str, tuple[str, str]] = {
    "label": ("", "{text}\nLabel:"),
    "listed": ("Each text has one of these labels: {labels}.\n\n", "Text: {text}\nLabel:"),
    "question": ("", "Text: {text}\nQuestion: What is it about? {labels}?\nAnswer:"),
    "opinion": ("", "{text}\nIt was"),
    "topic": ("", "{text}\nThis is about"),
}
"""Name -> (before all rows, around a row). `{labels}` stands for the labels' names."""


def prompt(task: Task, name: str) -> tuple[str, str]:
    """A prompt with the labels' names in it.

    Args:
        task: Whose labels.
        name: Of `PROMPTS`.
    """
    labels = ", ".join(in_words(label) for label in task.labels)
    fixed, row = PROMPTS[name]
    return fixed.replace("{labels}", labels), row.replace("{labels}", labels.replace("{", "(").replace("}", ")"))
