"""Phrases for labels, and zero points that give each label its share."""

import pytest
import torch

from tests import tiny
from tunewright.methods.zero_shot import TEMPLATES, label_phrases, zero_points
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


@pytest.mark.parametrize("shares", [[0.25, 0.25, 0.5], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]])
def test_zero_points_give_the_shares(shares: list[float]) -> None:
    """Mean probabilities after the shift, within 1e-3; the order of a label's texts stays."""
    logits = tiny.normal(1, 200, 3, scale=2.0) + torch.tensor([3.0, 0.0, -2.0])
    bias = zero_points(logits, torch.tensor(shares))
    torch.testing.assert_close((logits + bias).softmax(-1).mean(0), torch.tensor(shares), atol=1e-3, rtol=0)
