"""Scores of labels by hand-made answers: each number is worked out beside it."""

import math

import pytest

from tunewright.backbones.heard import Usage
from tunewright.backbones.label_answers import READ, phrase_scores, read_phrase, told_scores
from tunewright.backbones.replies import Reply, Told


def told(chosen: str, **options: float) -> Told:
    """A token with the probabilities of what could have stood there; `_` is a space."""
    top = [(text.replace("_", " "), math.log(p)) for text, p in options.items()]
    return Told(text=chosen, log_prob=dict(top)[chosen], top=tuple(top))


def reply(text: str, *tokens: Told) -> Reply:
    return Reply(text=text, finish_reason="stop", tokens=tokens, usage=Usage(), waited_ms=0)


def probabilities(scores: list[float]) -> list[float]:
    return [math.exp(score) for score in scores]


def test_single_tokens() -> None:
    found = told_scores([told("good", good=0.6, bad=0.3, fine=0.05)], ["bad", "good"])
    assert probabilities(found) == pytest.approx([0.3, 0.6])


def test_case_spaces_and_marks_are_added_up() -> None:
    token = told(" Good", **{"_Good": 0.5, "good": 0.2, '_"good': 0.05, "bad.": 0.1})
    assert probabilities(told_scores([token], ["bad", "good"])) == pytest.approx([0.1, 0.75])


def test_a_label_that_is_not_listed_gets_the_smaller_bound() -> None:
    """Of .9 and .04 listed .06 is left: the least likely token bounds it. Of .6 and .39 it is what is left, .01."""
    assert probabilities(told_scores([told("a", a=0.9, x=0.04)], ["a", "b"])) == pytest.approx([0.9, 0.04])
    assert probabilities(told_scores([told("a", a=0.6, x=0.39)], ["a", "b"])) == pytest.approx([0.6, 0.01])


def test_labels_of_several_tokens_part_where_they_differ() -> None:
    tokens = [told("card", card=0.8, lost=0.1), told("_arrival".replace("_", " "), _arrival=0.7, _linking=0.2)]
    found = told_scores(tokens, ["card arrival", "card linking", "lost card"])
    assert probabilities(found) == pytest.approx([0.8 * 0.7, 0.8 * 0.2, 0.1])


def test_a_beginning_off_the_path_is_shared() -> None:
    found = told_scores([told("yes", yes=0.5, not_=0.0001, **{"not": 0.4})], ["yes", "not now", "not here"])
    assert probabilities(found) == pytest.approx([0.5, 0.4001 / 2, 0.4001 / 2])


def test_one_label_begins_another() -> None:
    ends = told_scores([told("good", good=0.7, bad=0.2)], ["good", "good enough", "bad"])
    assert probabilities(ends) == pytest.approx([0.7, 0.1, 0.2])
    goes_on = [told("good", good=0.7, bad=0.2), told(" enough", _enough=0.9, _x=0.05)]
    assert probabilities(told_scores(goes_on, ["good", "good enough", "bad"])) == pytest.approx([0.7, 0.63, 0.2])


def test_white_space_first() -> None:
    tokens = [Told(text="\n", log_prob=0.0, top=(("\n", 0.0),)), told("a", a=0.5, b=0.3)]
    assert probabilities(told_scores(tokens, ["b", "a"])) == pytest.approx([0.3, 0.5])


def test_no_token_is_a_label() -> None:
    scores = told_scores([told("The", The=0.9, An=0.05)], ["food", "music"])
    assert scores[0] == scores[1] == pytest.approx(math.log(0.05))


@pytest.mark.parametrize(
    ("text", "which"),
    [("music", 1), (' "Music".\n', 1), ("card_arrival", 2), ("**Card Arrival**", 2), ("the music", None), ("", None)],
)
def test_written_answers_are_read_strictly(text: str, which: int | None) -> None:
    phrases = ["food", "music", "card arrival"]
    assert read_phrase(text, phrases) == which
    scores = probabilities(phrase_scores(reply(text), phrases))
    expected = [(1 - READ) / 2] * 3 if which is not None else [1.0] * 3
    if which is not None:
        expected[which] = READ
    assert scores == pytest.approx(expected)
