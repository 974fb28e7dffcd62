"""Text of the user on one line, without what no page can carry, and never two names alike."""

import hypothesis.strategies as st
from hypothesis import given

from tunewright.report.text import clean, distinct, line


def test_control_and_surrogate_characters_go_and_white_space_stays() -> None:
    assert clean("a\x00b\x1b[31m\n\tc\ud800\u00e9") == "ab[31m\n\tc\u00e9"


def test_a_line_is_cut_with_an_ellipsis() -> None:
    assert line("  one\n two\tthree ", 20) == "one two three"
    assert line("one two three", 8) == "one two\u2026"


def test_names_made_equal_by_cutting_get_a_number() -> None:
    assert distinct(["a b", "a\nb", "a  b", "c"]) == ["a b", "a b (2)", "a b (3)", "c"]


@given(st.lists(st.text(), max_size=20), st.integers(2, 30))
def test_names_stay_apart_and_can_be_written(texts: list[str], limit: int) -> None:
    names = distinct(texts, limit)
    assert len(set(names)) == len(texts)
    assert all(name.encode("utf-8") and "\n" not in name for name in names if name)


@given(st.text(), st.integers(1, 40))
def test_a_line_keeps_to_its_limit(text: str, limit: int) -> None:
    assert len(line(text, limit)) <= limit
