"""Phrases for labels."""

import pytest

from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.types import Task

TASK = Task(name="t", labels=("card_lost", "top-up"), descriptions={"card_lost": "a lost card", "top-up": "top up"})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("name", (("It is card lost.", "This is card lost."), ("It is top up.", "This is top up."))),
        ("description", (("It is a lost card.", "This is a lost card."), ("It is top up.", "This is top up."))),
        (
            "both",
            (
                ("It is card lost.", "This is card lost.", "It is a lost card.", "This is a lost card."),
                ("It is top up.", "This is top up."),
            ),
        ),
    ],
)
def test_phrases(words: str, expected: tuple[tuple[str, ...], ...]) -> None:
    assert label_phrases(TASK, words, TEMPLATES["is"]) == expected


def test_braces_in_a_label_are_text() -> None:
    task = Task(name="t", labels=("{x}",), descriptions={"{x}": "{0} of {label}"})
    assert label_phrases(task, "both", ("{label}!",)) == (("{x}!", "{0} of {label}!"),)
