"""Rows with terms swapped, such as he and she: an answer that then changes hangs on the term."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.config import parse_yaml
from tunewright.data.chats import plain_text
from tunewright.errors import ConfigError
from tunewright.types import Example, Notice

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Swap:
    """The rows that hold one of two terms, with the two exchanged."""

    terms: Pair
    positions: tuple[int, ...]
    """Of the rows among those that were searched."""
    rows: tuple[Example, ...]
    """Their ids say which terms were swapped."""


def read_pairs(path: str) -> tuple[Pair, ...]:
    """Pairs of terms from a YAML file: a list of lists of two, such as `- [he, she]`.

    Raises:
        ConfigError: Unreadable file, or no such list; with every fault.
    """
    content = parse_yaml(Path(path).expanduser(), as_text=True)
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path} must hold pairs of terms, one a line, such as `- [he, she]`. Got {content!r:.80}.")
    faults, pairs = [], list[Pair]()
    for item in content:
        terms = [str(term).strip() for term in item] if isinstance(item, list) else []
        if len(terms) != 2 or not all(terms) or terms[0] == terms[1]:
            faults.append(f"{path}: a pair must be two different terms, such as `- [he, she]`. Got {item!r:.80}.")
        elif {*terms} in ({*pair} for pair in pairs):
            faults.append(f"{path}: the pair {terms} is there twice. Remove one.")
        else:
            pairs.append((terms[0], terms[1]))
    if faults:
        raise ConfigError(faults)
    return tuple(pairs)


def swapped_rows(path: str | None, rows: Sequence[Example]) -> tuple[Swap, ...]:
    """For each pair of a file, the rows that hold one of its terms, swapped; nothing without a file."""
    return () if path is None else tuple(_swapped(pair, rows) for pair in read_pairs(path))


def absent_terms(swaps: Sequence[Swap]) -> list[Notice]:
    """Said of the pairs that no test row holds."""
    absent = ["/".join(swap.terms) for swap in swaps if not swap.rows]
    message = f"No test row holds {', '.join(absent)}: swapping these terms says nothing."
    return [Notice(code="absent-terms", message=message, count=len(absent))] if absent else []


def _swapped(pair: Pair, rows: Sequence[Example]) -> Swap:
    found = []
    for position, row in enumerate(rows):
        messages = tuple((role, swap(content, pair)) for role, content in row.messages)
        text = plain_text(messages) if messages else swap(row.text, pair)
        text_pair = None if row.text_pair is None else swap(row.text_pair, pair)
        if (text, text_pair) != (row.text, row.text_pair):
            changed = dataclasses.replace(row, id=f"{row.id} {'/'.join(pair)}", text=text, text_pair=text_pair)
            found.append((position, dataclasses.replace(changed, messages=messages)))
    return Swap(terms=pair, positions=tuple(k for k, _ in found), rows=tuple(row for _, row in found))


def swap(text: str, pair: Pair) -> str:
    """The text with each of the two terms, where it is a whole word, exchanged for the other.

    A term in small letters is found in any case and keeps it: "He" becomes "She", "HE" "SHE". One with capitals is
    found as it is written only: `US` is not "us".
    """
    long, short = sorted(pair, key=len, reverse=True)  # "New York" is looked for before "York"
    patterns = [re.escape(term) if term != term.lower() else f"(?i:{re.escape(term)})" for term in (long, short)]

    def exchange(match: re.Match[str]) -> str:
        found, term, partner = match[0], *((long, short) if match[1] is not None else (short, long))
        if found == term or not found[:1].isupper():
            return partner
        return partner.upper() if found.isupper() and len(found) > 1 else partner[:1].upper() + partner[1:]

    return re.sub(rf"(?<!\w)(?:({patterns[0]})|({patterns[1]}))(?!\w)", exchange, text)
