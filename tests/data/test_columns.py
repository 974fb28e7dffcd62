"""Columns as given, by name, by rule; and the lines for unknown, ambiguous and none."""

import re

import pytest

from tunewright.data.columns import find_columns, match_columns
from tunewright.data.tables import Table
from tunewright.errors import DataError


def table(**columns: list[str]) -> Table:
    rows = tuple(dict[str, str | None](zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return Table(name="t", path="t.csv", columns=tuple(columns), rows=rows)


WORDS = [f"a sentence with some words in it, number {number}" for number in range(6)]
CLASSES = ["x", "y", "x", "y", "x", "y"]
NUMBERS = [str(number) for number in range(6)]


def test_by_name_and_said() -> None:
    roles, notice = find_columns(table(id=NUMBERS, Message=WORDS, Intent=CLASSES))
    assert roles == {"text": "Message", "label": "Intent"}
    assert notice.code == "columns"
    assert notice.message == "Columns: text = `Message` (by name), label = `Intent` (by name)."


def test_text_and_label_win_over_other_names() -> None:
    roles, _ = find_columns(table(title=WORDS, text=WORDS, label=CLASSES, category=CLASSES))
    assert roles == {"text": "text", "label": "label"}


@pytest.mark.parametrize(
    ("first", "second"),
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text", "text_pair")],
)
def test_pairs_by_name(first: str, second: str) -> None:
    roles, _ = find_columns(table(**{second: WORDS, first: WORDS, "label": CLASSES}))
    assert roles == {"text": first, "text_pair": second, "label": "label"}


def test_question_and_sentence_are_a_pair() -> None:
    roles, _ = find_columns(table(question=WORDS, sentence=WORDS, label=CLASSES))
    assert roles == {"text": "question", "text_pair": "sentence", "label": "label"}


def test_given_text_alone_makes_no_pair() -> None:
    roles, _ = find_columns(table(premise=WORDS, hypothesis=WORDS, label=CLASSES), text="hypothesis")
    assert roles == {"text": "hypothesis", "label": "label"}


def test_given_pair_leaves_the_text_to_be_found() -> None:
    roles, notice = find_columns(table(message=WORDS, answer=WORDS, label=CLASSES), text_pair="answer")
    assert roles == {"text": "message", "text_pair": "answer", "label": "label"}
    assert "text_pair = `answer` (as given)" in notice.message


def test_by_rule() -> None:
    roles, notice = find_columns(table(nr=NUMBERS, kunde=["Meier", *NUMBERS[1:]], inhalt=WORDS, art=CLASSES))
    assert roles == {"text": "inhalt", "label": "art"}
    assert "text = `inhalt` (by rule: the longest, 42 characters on average)" in notice.message
    assert "label = `art` (by rule: 2 distinct values)" in notice.message


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        (
            {"text": WORDS, "label": CLASSES},
            {"text": "txt"},
            r"t\.csv: unknown column 'txt'\. Did you mean 'text'\?.*--text",
        ),
        (
            {"text": WORDS, "label": CLASSES},
            {"label": "lable"},
            r"column 'lable'\. Did you mean 'label'\?.*--label",
        ),
        ({"text": WORDS, "label": CLASSES}, {"text": "label", "label": "label"}, r"one column for two roles"),
        (
            {"title": WORDS, "body": WORDS, "label": CLASSES},
            {},
            r"ambiguous text column.*'title', 'body'.*--text\.",
        ),
        (
            {"text": WORDS, "intent": CLASSES, "topic": CLASSES},
            {},
            r"ambiguous label.*'intent', 'topic'.*--label\.",
        ),
        ({"eins": WORDS, "zwei": WORDS, "label": CLASSES}, {}, r"ambiguous text column.*'eins', 'zwei'"),
        ({"text": WORDS, "art": CLASSES, "wer": CLASSES}, {}, r"ambiguous label column.*'art', 'wer'"),
        ({"text": WORDS, "nr": NUMBERS}, {}, r"no label column found: .*2 to 3 distinct values.*'text', 'nr'.*--label"),
        ({"nr": NUMBERS, "label": CLASSES}, {}, r"no text column found: no column holds words.*--text"),
    ],
)
def test_errors(columns: dict[str, list[str]], given: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        find_columns(table(**columns), "classify", **given)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


PAIRED = {"text": "a", "text_pair": "b"}


def test_roles_of_another_table() -> None:
    own = {"text": "ask", "label": "kind"}
    assert match_columns(table(kind=CLASSES, ask=WORDS), own, given={}) == (own, None)
    roles, said = match_columns(table(kind=CLASSES, ask=WORDS, old=CLASSES), own, given={"label": "old"})
    assert (roles, said) == ({"text": "ask", "label": "old"}, None)
    roles, said = match_columns(table(body=WORDS, kind=CLASSES), own, given={})
    assert roles == {"text": "body", "label": "kind"}
    assert said is not None
    assert said.message == "Columns: text = `body` (by name), label = `kind` (as in training)."


def test_pairs_of_another_table() -> None:
    roles, _ = match_columns(table(hypothesis=WORDS, premise=WORDS), PAIRED, given={})
    assert roles == {"text": "premise", "text_pair": "hypothesis"}
    with pytest.raises(DataError, match=r"unknown column 'b'.* Allowed: a, c\. Name it with --text-pair\."):
        match_columns(table(a=WORDS, c=WORDS), PAIRED, given={})
    with pytest.raises(DataError, match=r"ambiguous text column"):
        match_columns(table(hypothesis=WORDS, premise=WORDS, sentence1=WORDS), {"text": "a"}, given={})
