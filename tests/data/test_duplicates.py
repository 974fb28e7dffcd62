"""Twins: against shingles of strings compared pair by pair, with the groups as scipy's connected components."""

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tunewright.data.duplicates import (
    conflicting_labels,
    nearly_shared_rows,
    normalise,
    shared_rows,
    twin_groups,
    twin_notices,
)
from tunewright.types import Example


def rows(*texts: str, source: str = "t", labels: str | None = None) -> list[Example]:
    given_labels = "a" * len(texts) if labels is None else labels
    return [
        Example(id=f"{source}:{number}", text=text, label=label)
        for number, (text, label) in enumerate(zip(texts, given_labels, strict=True), 1)
    ]


def naive_similar(one: str, other: str) -> bool:
    """The documented definition, on strings."""
    one, other = normalise(one), normalise(other)
    if min(len(one), len(other)) < 20:
        return one == other
    one, other = (re.sub(r"\d+", "0", text) for text in (one, other))
    first, second = ({text[at : at + 4] for at in range(len(text) - 3)} for text in (one, other))
    return len(first & second) >= 0.8 * len(first | second)


def naive_groups(texts: list[str]) -> list[int]:
    edges = np.array([[naive_similar(one, other) for other in texts] for one in texts])
    components = connected_components(csr_array(edges), directed=False)[1].tolist()
    return [components.index(component) for component in components]


def test_normalise() -> None:
    assert normalise("  Hello,   WORLD!! \n") == "hello world"
    assert normalise("\uff28\uff45llo \u201cStra\u00dfe\u201d") == "hello strasse"
    assert normalise("order 12") != normalise("order 13")
    assert normalise(":)") != normalise(":(")
    assert normalise("great \U0001f600") != normalise("great \U0001f621")
    assert normalise("\u0915\u0940") != normalise("\u0915\u093e")


# fmt: off
WORDS = (
    "my", "card", "order", "has", "not", "arrived", "yet", "please", "help", "where", "is", "the", "refund",
    "for", "number", "12", "345", "today",
)
# fmt: on


@st.composite
def edited_texts(draw: st.DrawFn) -> list[str]:
    """A few sentences, and copies of them with some words changed: similarities on both sides of the threshold."""
    sentence = st.lists(st.sampled_from(WORDS), min_size=1, max_size=25)
    texts = draw(st.lists(sentence, min_size=1, max_size=4))
    copies = []
    for words in texts * 3:
        edits = draw(st.dictionaries(st.integers(0, len(words) - 1), st.sampled_from(WORDS), max_size=3))
        copies.append([edits.get(position, word) for position, word in enumerate(words)])
    return [" ".join(words) for words in draw(st.permutations(texts + copies))]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(edited_texts())
def test_groups_are_the_components_of_the_naive_comparison(texts: list[str]) -> None:
    assert list(twin_groups(rows(*texts))) == naive_groups(texts)


def test_one_changed_letter_in_a_long_text_but_not_in_a_short_one() -> None:
    long = "I ordered a new card two weeks ago and it has still not arrived at my home"
    assert twin_groups(rows(long, "other words entirely, nothing alike", long.replace("card", "crad"))) == (
        0,
        1,
        0,
    )
    assert twin_groups(rows("good film", "Good film!", "good films", "good  FILM")) == (0, 0, 2, 0)


def test_numbers_tell_only_short_texts_apart() -> None:
    assert twin_groups(rows("order 12 is late", "order 13 is late")) == (0, 1)
    assert twin_groups(rows("my order 12 has not arrived", "my order 13998 has not arrived")) == (0, 0)


def test_pairs_are_twins_only_when_both_texts_are() -> None:
    premise = "a man in a red shirt is riding a bicycle along the river on a sunny afternoon in may"
    examples = [
        Example(id="t:1", text=premise, text_pair="a man is outside with his bicycle"),
        Example(id="t:2", text=premise, text_pair="nobody moves"),
        Example(id="t:3", text=premise + "!", text_pair="A man is outside with his bicycle."),
    ]
    assert twin_groups(examples) == (0, 1, 0)


def test_a_system_message_is_compared_apart() -> None:
    """Long and shared it makes no twins, and hides none that stand far apart; another one tells rows apart."""
    rng = np.random.default_rng(0)
    words = [f"{''.join(rng.choice(list('bcdfghaeiou'), 6))}" for _ in range(600)]
    texts = [" ".join(words[k * 5 : k * 5 + 5]) for k in range(120)]
    texts[110] = f"{texts[3]}!"
    system = " ".join(reversed(words))
    systems = [system] * 119 + [system[::-1]]
    texts[119] = texts[5]
    chats = [(("system", said), ("user", text)) for said, text in zip(systems, texts, strict=True)]
    given_rows = [
        Example(id=f"t:{k}", text=f"System: {c[0][1]}\nUser: {c[1][1]}", messages=c) for k, c in enumerate(chats)
    ]
    expected = list(range(120))
    expected[110] = 3
    assert list(twin_groups(given_rows)) == expected
    texts[110] = f"{texts[3]} now"
    near = replace(given_rows[110], messages=(("system", system), ("user", texts[110])))
    assert list(twin_groups([*given_rows[:110], near, *given_rows[111:]])) == expected


def test_thousands_of_one_template_stay_fast() -> None:
    texts = [f"the sensor in hall {n} reports a temperature too high, code {chr(97 + n % 26)}" for n in range(4000)]
    started = time.process_time()
    assert set(twin_groups(rows(*texts))) == {0}
    assert time.process_time() - started < 5


def test_same_groups_in_any_order() -> None:
    texts = [f"{word} is what I would like to know about my order" for word in WORDS] + ["hello"] * 3
    order = np.random.default_rng(0).permutation(len(texts))
    groups, shuffled = twin_groups(rows(*texts)), twin_groups(rows(*[texts[place] for place in order]))
    same = np.equal.outer(np.array(groups), np.array(groups))
    assert np.array_equal(same[np.ix_(order, order)], np.equal.outer(np.array(shuffled), np.array(shuffled)))


def test_twin_notice_counts_rows_and_groups() -> None:
    examples = rows("one", "two", "One!", "three", "TWO", "one")
    [notice] = twin_notices(examples, twin_groups(examples))
    assert (notice.code, notice.count, notice.ids) == ("near-duplicates", 5, ("t:1", "t:2", "t:3", "t:5", "t:6"))
    assert "5 rows are exact or near duplicates, in 2 groups" in notice.message
    assert twin_notices(rows("a", "b"), (0, 1)) == []


def test_rows_shared_by_given_splits() -> None:
    splits = {
        "train": rows("one", "two", "two", source="train"),
        "dev": rows("Two.", "three", source="dev"),
        "test": rows("four", "THREE", "one", source="test"),
    }
    [notice] = shared_rows(splits)
    assert (notice.code, notice.count) == ("duplicates-across-splits", 3)
    assert notice.ids == ("dev:1", "test:2", "test:3")
    assert re.search(r"3 rows stand in two .* \(first: dev:1 = train:[23]\)", notice.message)
    assert shared_rows({"train": rows("one", "one")}) == []


def test_rows_nearly_shared_by_given_splits() -> None:
    one, two = "my new card has still not arrived at home", "where do I see the exchange rate of today"
    splits = {
        "train": rows(two, one, one + " yet", source="train"),
        "dev": rows(one.upper(), one + "!!", "nothing alike", source="dev"),  # exact: left to `shared_rows`
        "test": rows("nothing at all", two + "s", "so " + one, source="test"),
    }
    [notice] = nearly_shared_rows(splits)
    assert (notice.code, notice.count, notice.ids) == ("near-duplicates-across-splits", 2, ("test:2", "test:3"))
    assert notice.message.startswith("2 rows are near duplicates of rows of another given split (first: test:2 and tr")
    assert "(first: test:2 and train:1)" in notice.message
    assert [exact.ids for exact in shared_rows(splits)] == [("dev:1", "dev:2")]
    assert nearly_shared_rows({"train": rows(one, one + " yet")}) == []
    assert nearly_shared_rows({"train": rows(one, one + " yet"), "test": rows(two, two + "s")}) == []


@pytest.mark.parametrize(("labels", "ids"), [("abab", ("t:1", "t:4")), ("abba", None)])
def test_conflicting_labels(labels: str, ids: tuple[str, ...] | None) -> None:
    notices = conflicting_labels(rows("one", "two", "three", "ONE", labels=labels))
    assert [notice.ids for notice in notices] == ([] if ids is None else [ids])
