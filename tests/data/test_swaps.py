"""Swapped terms: whole words, case kept, both ways."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.swaps import absent_terms, read_pairs, swap, swapped_rows
from tunewright.errors import ConfigError
from tunewright.types import Example


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he saw the other", "she saw the other"),
        ("She said HE, he said she.", "He said SHE, she said he."),
        ("there, sheer: none", "there, sheer: none"),
        ("he's, (he) he", "she's, (she) she"),
        ("h\u0115 he\u0301x", "h\u0115 she\u0301x"),
        ("nothing", "nothing"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert swap(text, ("he", "she")) == expected
    assert swap(text, ("she", "he")) == expected


@pytest.mark.parametrize(
    ("pair", "text", "expected"),
    [
        (("US", "UK"), "the US told us: UK", "the UK told us: US"),
        (("Anna", "Mehmet"), "Anna, anna and Mehmet", "Mehmet, anna and Anna"),
        (("York", "New York"), "York is not New York", "New York is not York"),
        (("my husband", "my wife"), "My husband and my wife", "My wife and my husband"),
        (("c++", "c#"), "C++ and c#, not xc++", "C# and c++, not xc++"),
        (("i", "we"), "I think \u0130 and \u0131", "We think We and we"),
        (("der", "die"), "Der Hund, DIE Katze", "Die Hund, DER Katze"),
    ],
)
def test_terms(pair: tuple[str, str], text: str, expected: str) -> None:
    assert swap(text, pair) == expected


@given(st.lists(st.sampled_from(["he", "she", "He", "She", "HE", "SHE", "the", "a"]), max_size=8))
def test_twice_is_as_before(words: list[str]) -> None:
    text = " ".join(words)
    once = swap(text, ("he", "she"))
    assert swap(once, ("he", "she")) == text
    assert (once == text) == (not {word.lower() for word in words} & {"he", "she"})


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "- [he, she]\n- [yes, no]\n- [big, small]\n")
    examples = [
        Example(id="t:1", text="He is big", label="a"),
        Example(id="t:2", text="nothing", text_pair="no, she", label="b"),
        Example(id="t:3", text="nothing"),
    ]
    swaps = swapped_rows(path, examples)
    assert [(each.terms, each.positions) for each in swaps] == [
        (("he", "she"), (0, 1)),
        (("yes", "no"), (1,)),
        (("big", "small"), (0,)),
    ]
    assert [(row.id, row.text, row.text_pair, row.label) for each in swaps for row in each.rows] == [
        ("t:1 he/she", "She is big", None, "a"),
        ("t:2 he/she", "nothing", "no, he", "b"),
        ("t:2 yes/no", "nothing", "yes, she", "b"),
        ("t:1 big/small", "He is small", None, "a"),
    ]
    assert absent_terms(swaps) == []
    (said,) = absent_terms(swapped_rows(path, examples[2:]))
    assert said.message == "No test row holds he/she, yes/no, big/small: swapping these terms says nothing."
    assert swapped_rows(None, examples) == ()


@pytest.mark.parametrize("text", ["he: she\n", "", "[]", "he\n"])
def test_no_list_of_pairs(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold pairs of terms, one a line, such as `- \[he, she\]`\. Got "):
        read_pairs(write(tmp_path / "s.yaml", text))


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "- [he, she]\n- [he]\n- [a, a]\n- he\n- [she, he]\n- ['', b]\n- [x, y]\n")
    with pytest.raises(ConfigError) as caught:
        read_pairs(path)
    faults = caught.value.faults
    assert len(faults) == 5
    assert all("two different terms" in fault for fault in (*faults[:3], faults[4]))
    assert "the pair ['she', 'he'] is there twice. Remove one." in faults[3]
    with pytest.raises(ConfigError, match="no such file"):
        read_pairs(str(tmp_path / "absent.yaml"))
