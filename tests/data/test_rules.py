"""Slices: which rows are in them, what is joined, and what is refused."""

from collections.abc import Sequence

import pytest

from tunewright.data.rules import FEWEST, MOST, Rule, check_fields, parse_rules, slice_rows
from tunewright.errors import ConfigError
from tunewright.types import Example


def rows(*cells: str, column: str = "lang") -> list[Example]:
    return [Example(id=f"t:{k}", text="x" * (k + 1), fields={column: cell}) for k, cell in enumerate(cells)]


def sliced(given: str, examples: Sequence[Example]) -> dict[str, list[int]]:
    (members,), _ = slice_rows(parse_rules([given]), examples)
    return {name: found.tolist() for name, found in members.items()}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lang", ("lang", None, "")),
        ("len>200", ("len", ">", "200")),
        (" amount <= 9.5 ", ("amount", "<=", "9.5")),
        ("my column>=-1e3", ("my column", ">=", "-1e3")),
        ("lang=de", ("lang", "=", "de")),
        ("lang==de", ("lang", "=", "de")),
    ],
)
def test_rules_are_read(given: str, expected: tuple[str, str | None, str]) -> None:
    (found,) = parse_rules([given])
    assert (found.column, found.sign, found.value) == expected


def test_all_faults_at_once() -> None:
    wrong = ["", ">3", "len", "len>", "a<b", "a<1<2", "a>nan", "a<>1"]
    with pytest.raises(ConfigError) as caught:
        parse_rules([*wrong, "lang", "lang"])
    faults = caught.value.faults
    assert len(faults) == len(wrong) + 1
    for fault, given in zip(faults, wrong, strict=False):
        assert fault.startswith("`slice` must be a column, or a rule such as len>200")
        assert fault.endswith(f"Got {given!r}.")
    assert faults[-1] == "`slice` names 'lang' twice. Name each once."


def test_columns_that_are_not_there() -> None:
    assert check_fields(parse_rules(["len>3", "lang", "lang=de", "n>1"]), ("n", "lang"), "d.csv") == ("lang", "n")
    with pytest.raises(ConfigError) as caught:
        check_fields(parse_rules(["lagn", "lang", "m>1"]), ("text", "lang"), "d.csv")
    assert len(caught.value.faults) == 2
    assert "d.csv: unknown column 'lagn'. Did you mean 'lang'? Allowed: text, lang. Name it with --slice" in str(
        caught.value
    )


def test_a_slice_for_each_value() -> None:
    cells = ["de", " en ", "de", ""] * FEWEST
    found = sliced("lang", rows(*cells))
    assert found == {
        f"lang={name}": [k for k, cell in enumerate(cells) if cell == value]
        for name, value in (("de", "de"), ("(empty)", ""), ("en", " en "))
    }


def test_rare_values_are_one_slice() -> None:
    cells = ["de"] * FEWEST + ["fr"] * (FEWEST - 1) + ["it"]
    (members,), (said,) = slice_rows(parse_rules(["lang"]), rows(*cells))
    assert {name: len(found) for name, found in members.items()} == {"lang=de": FEWEST, "lang=other": FEWEST}
    assert (said.code, said.count) == ("joined-slices", 2)
    assert said.message == (
        "2 of 3 values of 'lang' in the test rows are reported together, as lang=other: 'fr', 'it'."
    )


def test_a_single_rare_value_keeps_its_name() -> None:
    (members,), notices = slice_rows(parse_rules(["lang"]), rows(*["de"] * FEWEST, "fr"))
    assert list(members) == ["lang=de", "lang=fr"]
    assert notices == ()


@pytest.mark.parametrize("values", [MOST - 1, MOST, MOST + 1, 3 * MOST])
def test_a_sensible_number(values: int) -> None:
    cells = [f"v{k % values:02}" for k in range(values * FEWEST)]
    found = sliced("lang", rows(*cells))
    assert len(found) == min(values, MOST)
    assert sorted(k for members in found.values() for k in members) == list(range(len(cells)))
    assert ("lang=other" in found) == (values > MOST)


def test_a_value_called_other_is_among_the_others() -> None:
    found = sliced("lang", rows(*["other"] * 20, *["de"] * 15, "fr"))
    assert {name: len(rows) for name, rows in found.items()} == {"lang=de": 15, "lang=other": 21}


@pytest.mark.parametrize(
    ("given", "inside"),
    [("n<2", [0, 3]), ("n<=2", [0, 1, 3]), ("n>2", [2]), ("n>=2", [1, 2]), ("n=2", [1]), ("n=2.0", [1])],
)
def test_conditions(given: str, inside: list[int]) -> None:
    """The last row has no value and is in neither part."""
    found = sliced(given, rows("1", "2", "10", "-3.5", " ", column="n"))
    (rule, yes), (opposite, no) = found.items()
    assert (rule, yes) == (given, inside)
    assert no == [k for k in range(4) if k not in inside]
    signs = {"n<2": "n>=2", "n<=2": "n>2", "n>2": "n<=2", "n>=2": "n<2", "n=2": "n!=2", "n=2.0": "n!=2.0"}
    assert opposite == signs[given]


def test_length_is_of_both_texts() -> None:
    examples = [Example(id="1", text="abc"), Example(id="2", text="abc", text_pair="de"), Example(id="3", text="é" * 4)]
    assert sliced("len>=5", examples) == {"len>=5": [1], "len<5": [0, 2]}


def test_equal_to_a_word() -> None:
    assert sliced("lang=de", rows("de", "en", "", "de")) == {"lang=de": [0, 3], "lang!=de": [1]}


def test_what_says_nothing_is_refused_all_at_once() -> None:
    examples = [Example(id=str(k), text="abc", fields={"a": "x", "b": f"v{k}", "c": "3"}) for k in range(30)]
    rules = [Rule(column="a"), Rule(column="b"), *parse_rules(["c>5", "c<5", "len>2", "a>1", "b=w"])]
    with pytest.raises(ConfigError) as caught:
        slice_rows(rules, examples)
    expected = [
        "'a' does not tell the 30 test rows apart: they have the same value.",
        "'b' does not tell the 30 test rows apart: they have 30 values, none of them in 10 rows.",
        "'c>5' does not tell the 30 test rows apart: it holds for 0 of 30 that have a value.",
        "'c<5' does not tell the 30 test rows apart: it holds for 30 of 30 that have a value.",
        "'len>2' does not tell the 30 test rows apart: it holds for 30 of 30",
        "'a>1' needs numbers in 'a'. Got 'x'.",
        "'b=w' does not tell the 30 test rows apart: it holds for 0 of 30",
    ]
    assert len(caught.value.faults) == len(expected)
    for fault, phrase in zip(caught.value.faults, expected, strict=True):
        assert phrase in fault
