"""From labels to phrases: a label's words, each in each template."""

from tunewright.data.labels import in_words
from tunewright.types import Task

TEMPLATES: dict[str, tuple[str, ...]] = {
    "many": (
        "{label}",
        "It was {label}.",
        "This text is about {label}.",
        "This is an example of {label}.",
        "The topic is {label}.",
    ),
    "about": ("This text is about {label}.",),
    "opinion": ("It was {label}.", "A {label} review.", "I found it {label}."),
    "feeling": ("I feel {label}.", "The tone is {label}."),
    "is": ("It is {label}.", "This is {label}."),
    "message": ("The message is a {label}.", "This is a {label} message."),
    "question": ("The question asks for {label}.",),
    "bare": ("{label}",),
}
"""Sets of templates for a label's words."""


def label_phrases(task: Task, words: str, templates: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """For each label, each of its words in each template.

    Args:
        task: Labels and descriptions; a semicolon separates several words for a label.
        words: `name`, `description` or `both`.
        templates: With `{label}`.
    """
    groups = []
    for label in task.labels:
        name = in_words(label)
        described = tuple(word.strip() for word in task.descriptions[label].split(";") if word.strip())
        chosen = {"name": (name,), "description": described, "both": (name, *described)}[words]
        groups.append(tuple(dict.fromkeys(t.format(label=word) for word in chosen for t in templates)))
    return tuple(groups)
