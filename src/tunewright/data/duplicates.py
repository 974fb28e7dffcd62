"""Rows that say the same: exact after normalisation, or nearly.

Two texts are near duplicates when the Jaccard similarity of their sets of four-character shingles is at least
`SIMILARITY`. Candidates come from MinHash signatures in bands (Broder 1997, "On the resemblance and containment of
documents"; banding as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4); every candidate
is then checked on the shingles themselves, so a pair is never grouped by chance. A pair exactly at the threshold is
missed with probability (1 - 0.8^4)^16 = 2e-4.

Shapes: S shingles of one row, H hash functions.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tunewright.data.chats import plain_text
from tunewright.errors import counted
from tunewright.types import Example, Notice

SIMILARITY = 0.8
"""Jaccard similarity from which two texts are twins."""

SHORTEST = 20
"""Normalised texts below this many characters are twins only when equal: one letter may change their meaning."""

SHINGLE = 4
BANDS = 16
ROWS_PER_BAND = 4

WINDOW = 50
"""Members of one bucket are compared with this many before them: linear where thousands follow one template."""

SEARCHED = 100_000
"""Most rows among which near duplicates across given splits are looked for; 13,000 of 12 words took 6 s."""

SHOWN = 20
"""Row ids named in a notice."""

Hashes = NDArray[np.uint64]

# ASCII and Latin-1 punctuation, general and CJK punctuation. Marks of Indic scripts and emoji carry meaning and stay.
_SEPARATORS = re.compile(r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\u2000-\u206f\u3000-\u303f\s]+")
_DIGITS = re.compile(r"\d+")
_CONSTANTS = np.random.default_rng(0).integers(1, 2**63, (2, BANDS * ROWS_PER_BAND), dtype=np.uint64) * 2 + 1
_POWERS = tuple(np.uint64(pow(0x9E3779B97F4A7C15, power, 2**64)) for power in range(1, SHINGLE + 1))


def normalise(text: str) -> str:
    """NFKC, case folded, punctuation and white space as single spaces; a text of punctuation alone stays."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _SEPARATORS.sub(" ", folded).strip()
    return plain or folded.strip()


def _key(example: Example) -> tuple[str, ...]:
    """Texts, each compared with its like: a system message apart, as rows that share it may share nothing else."""
    begin, rest = example.messages[:1], example.messages[1:]
    is_parted = bool(rest) and begin[0][0] == "system"
    parts = (plain_text(rest) if is_parted else example.text, example.text_pair, *example.choices)
    return tuple(normalise(part) for part in (*parts, begin[0][1] if is_parted else None) if part is not None)


def twin_groups(examples: Sequence[Example]) -> tuple[int, ...]:
    """The group of each row: rows of one group are linked by a chain of exact or near duplicates.

    A pair of texts is a twin of another when both texts are. Numbers do not tell texts of `SHORTEST` characters or more
    apart: "order 123 is late, again" is "order 456 is late, again".

    Returns:
        For each row, the position of the first row of its group.
    """
    parents = list(exact_groups(examples))
    shingles = _Shingles([_key(example) for example in examples])
    for bucket in _buckets(shingles, sorted(set(parents))):
        for position, row in enumerate(bucket):
            for other in bucket[max(0, position - WINDOW) : position]:
                if _root(parents, row) != _root(parents, other) and shingles.are_twins(row, other):
                    low, high = sorted((_root(parents, row), _root(parents, other)))
                    parents[high] = low
    return tuple(_root(parents, row) for row in range(len(parents)))


def exact_groups(examples: Sequence[Example]) -> tuple[int, ...]:
    """As `twin_groups`, of exact duplicates alone: the same but for case, punctuation and spaces."""
    first: dict[tuple[str, ...], int] = {}
    return tuple(first.setdefault(_key(example), row) for row, example in enumerate(examples))


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


class _Shingles:
    """Hashed shingles of rows, made anew at each call: keeping them would take gigabytes for long texts."""

    def __init__(self, keys: Sequence[tuple[str, ...]]) -> None:
        self._keys = keys
        self._num_rows = Counter(part for key in keys for part in key)

    def of_part(self, row: int, part: int) -> Hashes:
        """Distinct shingles of one of the row's texts; of a short text, its whole."""
        text = self._keys[row][part]
        if len(text) >= SHORTEST:
            return np.unique(_mix(_windows(_DIGITS.sub("0", text).ljust(SHINGLE)) + np.uint64(part)))
        whole = np.array([hash_text(text)], dtype=np.uint64)
        return _mix(whole + np.uint64(part))

    def signature(self, row: int) -> Hashes:
        """MinHash of the row's shingles, without those of texts that fill buckets alone, where others are left."""
        every = range(len(self._keys[row]))
        telling = [part for part in every if self._num_rows[self._keys[row][part]] <= WINDOW]
        hashes_S = np.concatenate([self.of_part(row, part) for part in telling or every])
        masks_H, factors_H = _CONSTANTS
        values_SH: Hashes = ((hashes_S[:, None] ^ masks_H) * factors_H) >> np.uint64(32)
        minima_H: Hashes = values_SH.min(axis=0)
        return minima_H

    def are_twins(self, row: int, other: int) -> bool:
        """Whether each text of one row is similar enough to the same text of the other."""
        if len(self._keys[row]) != len(self._keys[other]):
            return False
        parts = range(len(self._keys[row]))
        return all(jaccard(self.of_part(row, part), self.of_part(other, part)) >= SIMILARITY for part in parts)


def hash_text(text: str) -> int:
    """A 64-bit polynomial hash of a short text, the same in every process."""
    value = len(text)
    for character in text:
        value = (value * 0x100000001B3 + ord(character)) % 2**64
    return value


def _windows(text: str) -> Hashes:
    """A polynomial hash of each run of `SHINGLE` characters."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    width = len(codes) - SHINGLE + 1
    total = np.zeros(width, dtype=np.uint64)
    for offset, power in enumerate(_POWERS):
        total += codes[offset : offset + width] * power
    return total


def _mix(values: Hashes) -> Hashes:
    """Spreads close values over all 64 bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def jaccard(one: Hashes, other: Hashes) -> float:
    """Size of the intersection over size of the union of two sets of distinct hashes."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def _buckets(shingles: _Shingles, rows: Sequence[int]) -> Iterator[list[int]]:
    """Rows that agree on a whole band of their signatures."""
    buckets: dict[tuple[int, bytes], list[int]] = {}
    for row in rows:
        bands = shingles.signature(row).reshape(BANDS, ROWS_PER_BAND)
        for band, values in enumerate(bands):
            buckets.setdefault((band, values.tobytes()), []).append(row)
    return (bucket for bucket in buckets.values() if len(bucket) > 1)


def twin_notices(examples: Sequence[Example], groups: Sequence[int]) -> list[Notice]:
    """How many rows have a twin and are therefore kept on one side of the split."""
    sizes = np.bincount(np.asarray(groups), minlength=len(groups))
    ids = [example.id for example, group in zip(examples, groups, strict=True) if sizes[group] > 1]
    if not ids:
        return []
    many = int((sizes > 1).sum())
    message = f"{len(ids)} rows are exact or near duplicates, in {counted(many, 'group')}; each was kept in one split."
    return [Notice(code="near-duplicates", message=message, count=len(ids), ids=tuple(ids[:SHOWN]))]


def shared_rows(given: Mapping[str, Sequence[Example]]) -> list[Notice]:
    """Rows of a given split that already stand in an earlier one, but for case, punctuation and spaces."""
    seen: dict[tuple[str, ...], Example] = {}
    pairs: list[tuple[Example, Example]] = []
    for examples in given.values():
        pairs += [(example, seen[key]) for example in examples if (key := _key(example)) in seen]
        seen |= {_key(example): example for example in examples}
    said = counted(len(pairs), "row stands", "rows stand")
    return _said_of(pairs, "duplicates-across-splits", f"{said} in two of the given splits", "=")


def _said_of(pairs: Sequence[tuple[Example, Example]], code: str, said: str, sign: str) -> list[Notice]:
    """What is said of rows that have a like in an earlier split; nothing where there are none."""
    if not pairs:
        return []
    one, other = pairs[0]
    message = f"{said} (first: {one.id} {sign} {other.id}); scores on them flatter. They were kept."
    ids = tuple(example.id for example, _ in pairs[:SHOWN])
    return [Notice(code=code, message=message, count=len(pairs), ids=ids)]


def nearly_shared_rows(given: Mapping[str, Sequence[Example]]) -> list[Notice]:
    """Rows of a given split in a group of twins with a row of an earlier one; those of `shared_rows` are left out.

    Not looked for among more than `SEARCHED` rows, which is said.
    """
    num_rows = sum(map(len, given.values()))
    if len(given) < 2:
        return []
    if num_rows > SEARCHED:
        message = f"{num_rows} rows in the given splits: too many to look for near duplicates across them."
        return [Notice(code="near-duplicates-not-searched", message=message, count=num_rows)]
    groups = iter(twin_groups([example for examples in given.values() for example in examples]))
    seen: dict[int, Example] = {}
    exact: set[tuple[str, ...]] = set()
    pairs: list[tuple[Example, Example]] = []
    for examples in given.values():
        grouped = list(zip(examples, islice(groups, len(examples)), strict=True))
        pairs += [(example, seen[group]) for example, group in grouped if group in seen and _key(example) not in exact]
        seen = {group: example for example, group in reversed(grouped)} | seen
        exact |= {_key(example) for example in examples}
    said = counted(len(pairs), "row is a near duplicate", "rows are near duplicates")
    return _said_of(pairs, "near-duplicates-across-splits", f"{said} of rows of another given split", "and")


def conflicting_labels(examples: Sequence[Example]) -> list[Notice]:
    """Rows with the text of another row, but for case, punctuation and spaces, and a different label.

    Several targets of one input are no conflict: each is right.
    """
    labels: dict[tuple[str, ...], set[str | None]] = {}
    keys = [_key(example) for example in examples]
    for key, example in zip(keys, examples, strict=True):
        labels.setdefault(key, set()).add(example.label)
    ids = [example.id for key, example in zip(keys, examples, strict=True) if len(labels[key]) > 1]
    if not ids:
        return []
    message = f"{len(ids)} rows have the text of another row but another label; no method can get all of them right."
    return [Notice(code="conflicting-labels", message=message, count=len(ids), ids=tuple(ids[:SHOWN]))]
