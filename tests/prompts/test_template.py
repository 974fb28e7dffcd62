"""Prompts from texts: where they are split, what stands in their places, what is refused; demonstrations and draws."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tunewright.errors import ConfigError, DataError
from tunewright.prompts.template import (
    PROMPTS,
    Prompt,
    built_in,
    demonstration,
    draw,
    one_mask,
    parse,
    premise,
    read_source,
    until_mask,
    with_demonstrations,
    with_mask,
)
from tunewright.types import Example

TASK = tiny.task()
PAIRS = replace(TASK, paired=True)


@pytest.mark.parametrize(
    ("source", "fixed", "row"),
    [
        ("Classify: {text} ->", "", "Classify: {text} ->"),
        ("Say it.\n\nText: {text}\nLabel:", "Say it.\n\n", "Text: {text}\nLabel:"),
        ("One of {labels}.\nIt: {text}", "One of food, travel, music.\n", "It: {text}"),
        ("{text}\nIs it {labels}?", "", "{text}\nIs it food, travel, music?"),
        ('As {"a": 1}.\n{text}', 'As {"a": 1}.\n', "{text}"),
        ("{review}: {text}", "", "{text}: {text}"),
    ],
)
def test_split(source: str, fixed: str, row: str) -> None:
    """At the line with the first place for a row's own words."""
    assert parse(source, TASK, {"text": "review", "label": "stars"}) == Prompt(fixed=fixed, row=row)


def test_pairs() -> None:
    prompt = parse("So:\n{premise}\n{hypothesis}?", PAIRS, {"text": "premise", "text_pair": "hypothesis"})
    assert prompt == Prompt(fixed="So:\n", row="{text}\n{text_pair}?")
    assert prompt.fill({"text": "{text_pair}", "text_pair": "{text}"}) == "{text_pair}\n{text}?"
    assert parse("{text}?", PAIRS).fill({"text": "a", "text_pair": "b"}) == "a\nb?"


def test_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("{labels} {txet} {text_pair}", TASK, {"text": "review"})
    assert caught.value.faults == (
        "unknown placeholder '{txet}'. Did you mean '{text}'? Allowed: {review}, {text}, {labels}.",
        "unknown placeholder '{text_pair}'. Did you mean '{text}'? Allowed: {review}, {text}, {labels}.",
        "the template has no place for a row's text. Allowed: {review}, {text}, {labels}. Write {review} or {text}.",
    )
    with pytest.raises(ConfigError, match=r"unknown placeholder '\{labels\}'"):
        parse("{text} {labels}", replace(TASK, labels=(), kind="generate"))


def test_a_labels_name_is_no_place() -> None:
    odd = replace(TASK, labels=("{text}", "b"), descriptions={"{text}": "a", "b": "b"})
    prompt = parse("{labels}\n{text} {labels}", odd)
    assert prompt.fill({"text": "soup"}) == "soup (text), b"
    assert prompt.fixed == "{text}, b\n"


def test_built_in_prompts_are_of_both_kinds() -> None:
    for kind, names in PROMPTS.items():
        task = replace(TASK, kind=kind, labels=TASK.labels if kind == "classify" else ())
        assert list(built_in(task)) == list(names)
        assert all("{text}" in prompt.row and "{" not in prompt.fixed for prompt in built_in(task).values())


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Say:\n{text}\n\n", encoding="utf-8")
    assert read_source(str(path)) == "Say:\n{text}\n"
    path.write_text(" \n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is empty"):
        read_source(str(path))
    path.write_bytes(b"\xff\xfe{text}")
    with pytest.raises(ConfigError, match="cannot read the template"):
        read_source(str(path))


def test_demonstrations() -> None:
    """A space before the answer unless there is white space."""
    prompt = Prompt(fixed="Say.\n\n", row="{text}\nLabel:")
    shown = [demonstration(prompt.fill({"text": "soup"}), "food"), demonstration("a train\n", "travel")]
    found = with_demonstrations(prompt, shown)
    assert found == Prompt(fixed="Say.\n\nsoup\nLabel: food\n\na train\ntravel\n\n", row=prompt.row)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.booleans(), st.integers(0, 9))
def test_draw(groups: list[int], stratified: bool, seed: int) -> None:
    """Every row once; stratified, no group is twice ahead of one that has rows left."""
    order = draw(groups, np.random.default_rng(seed), stratified=stratified)
    assert sorted(order) == list(range(len(groups)))
    if stratified:
        for size in range(len(order)):
            taken, left = Counter(groups[k] for k in order[:size]), Counter(groups[k] for k in order[size:])
            assert all(taken[a] - taken[b] <= 1 for a in taken for b in left)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("Text: {text}\nLabel:", "{text}\nLabel:"),
        ("{text} or {text_pair}? It was [MASK].", "{text}? It was [MASK]."),
        ("[MASK] is what {text} is about", "{text}[MASK] is what  is about"),
        ("Which of old or new is {text}", "{text}Which of old or new is "),
        ("{text}\n", "{text}\n"),
    ],
)
def test_premise(row: str, expected: str) -> None:
    """The words behind the row's own, or all where none are; the mask is among them."""
    assert premise(Prompt(fixed="Choose.\n", row=row)) == Prompt(fixed="", row=expected)


def test_a_mask_is_a_place_for_the_answer() -> None:
    prompt = Prompt(fixed="", row="{text} It was [MASK], so.")
    assert prompt.fill({"text": "[MASK] {text_pair}"}) == "[MASK] {text_pair} It was [MASK], so."
    assert prompt.fill({"text": "[MASK]"}, "good") == "[MASK] It was good, so."
    assert with_mask(prompt) is prompt
    assert with_mask(Prompt(fixed="so\n", row="{text}\nLabel:")) == Prompt(fixed="so\n", row="{text}\nLabel: [MASK].")
    assert one_mask(prompt, "m") is prompt


def test_a_mask_for_a_model_that_goes_on() -> None:
    """It reads up to the mask; words behind it would never be read."""
    assert until_mask(Prompt(fixed="", row="{text} It was [MASK]."), "m").row == "{text} It was"
    assert until_mask(Prompt(fixed="", row="{text}\n[MASK]"), "m").row == "{text}\n"
    plain = Prompt(fixed="", row="{text} ")
    assert until_mask(plain, "m") is plain
    for row in ("[MASK] news: {text}", "{text} It was [MASK] indeed", "{text} [MASK] [MASK]"):
        with pytest.raises(
            ConfigError, match=r"'m' goes on where a template ends, so that no words may follow \[MASK\]"
        ):
            until_mask(Prompt(fixed="", row=row), "m")
    for row, count in (("{text}", 0), ("[MASK] {text} [MASK]", 2)):
        with pytest.raises(ConfigError, match=rf"'m' must have one \[MASK\], where the answer stands. Got {count}"):
            one_mask(Prompt(fixed="", row=row), "m")


def test_the_line_of_a_mask_is_part_of_the_row() -> None:
    found = parse("Choose.\n[MASK] is the topic of\n{text}", TASK)
    assert found == Prompt(fixed="Choose.\n", row="[MASK] is the topic of\n{text}")


def test_columns_have_places() -> None:
    """A column of the text's role stands for the text, any other for its cell; the text itself may be left out."""
    roles = {"text": "question", "label": "stars"}
    source = 'Say it.\nQ: {question}\nC: {context} {"a": 1} {Other name}\nA:'
    prompt = parse(source, TASK, roles, ("context", "Other name"))
    assert (prompt.fixed, prompt.columns) == ("Say it.\n", ("context", "Other name"))
    row = Example(id="a", text="{context}?", fields={"context": "{text}", "Other name": "so", "more": "x"})
    assert prompt.show(row) == 'Q: {context}?\nC: {text} {"a": 1} so\nA:'
    assert prompt.fill({}) == 'Q: \nC:  {"a": 1} \nA:'
    assert premise(prompt) == Prompt(fixed="", row="{text}\nA:")
    alone = parse("{context}:", PAIRS, roles, ("context",))
    assert alone.show(replace(row, text_pair="b")) == "{text}:"
    with pytest.raises(DataError, match="row a comes without `context`, which the template shows"):
        alone.show(replace(row, fields={}))


def test_columns_that_have_no_place() -> None:
    roles = {"text": "question", "label": "stars"}
    with pytest.raises(ConfigError) as caught:
        parse("{contxt} {stars} {nobody knows}", TASK, roles, ("context",))
    allowed = "Allowed: {question}, {context}, {text}, {labels}."
    assert caught.value.faults == (
        f"unknown placeholder '{{contxt}}'. Did you mean '{{context}}'? {allowed}",
        f"placeholder '{{stars}}' stands for the answer, which no template may show. {allowed}",
        f"the template has no place for a row's text. {allowed} Write {{question}} or {{text}}.",
    )
