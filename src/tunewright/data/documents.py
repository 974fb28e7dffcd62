"""A folder of documents as passages to answer from; refused where they hold what is judged."""

import hashlib
import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from tunewright.data.duplicates import normalise
from tunewright.errors import ConfigError, DataError, counted
from tunewright.types import Dataset, Example

PASSAGE_WORDS = 100
"""Of a passage, at most (Karpukhin et al. 2020, section 4.1)."""

MOST_PASSAGES = 20_000
MOST_BYTES = 64 * 2**20
"""Of all documents: they are kept in every adapter that answers from them."""

_WHOLE_WORDS = 6
"""A row's text of so many words that stands in a document was not met there by chance; a shorter one may be."""


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Of a folder, as it was when it was read."""

    texts: tuple[str, ...]
    """Whole files."""
    passages: tuple[str, ...]
    """What is answered from."""


def read_documents(folder: str) -> Documents:
    """Every file of a folder and of those below it, whole and cut into passages; hidden files are left out.

    Args:
        folder: With UTF-8 text.

    Raises:
        ConfigError: No such folder, nothing in it, a file that is not text, or more than is kept in an adapter.
    """
    path, allowed = Path(folder), "Allowed: a folder with files of UTF-8 text."
    if not path.is_dir():
        raise ConfigError(f"`documents` must name a folder. Got {folder!r}. {allowed}")
    shown = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
    files = sorted(file for file in shown if file.is_file())
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        raise ConfigError(f"`documents` may have {MOST_BYTES >> 20} MiB. Got more in {folder!r}. Choose fewer files.")
    texts = tuple(_read(file, allowed) for file in files)
    passages = tuple(dict.fromkeys(p for text in texts for p in to_passages(text)))
    if not passages:
        raise ConfigError(f"`documents` has no words: {folder!r} holds {counted(len(files), 'file')}. {allowed}")
    if len(passages) > MOST_PASSAGES:
        raise ConfigError(
            f"`documents` may have {MOST_PASSAGES:,} passages. Got {len(passages):,}. Choose fewer files."
        )
    return Documents(texts=texts, passages=passages)


def _read(file: Path, allowed: str) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the document {file}: {error}. {allowed} Remove the file.") from None
    if "\0" in text:
        raise ConfigError(f"the document {file} is binary. {allowed} Remove the file.")
    return text


def to_passages(text: str) -> list[str]:
    """Paragraphs; short ones that follow each other together, long ones in parts."""
    found, words = list[str](), list[str]()
    for paragraph in re.split(r"\n\s*\n", text):
        new = paragraph.split()
        if words and len(words) + len(new) > PASSAGE_WORDS:
            found.append(" ".join(words))
            words = []
        words += new
        while len(words) > PASSAGE_WORDS:
            found.append(" ".join(words[:PASSAGE_WORDS]))
            words = words[PASSAGE_WORDS:]
    return [*found, " ".join(words)] if words else found


def passages_sha256(passages: Sequence[str]) -> str:
    """A resumed run must have those it began with."""
    return hashlib.sha256(json.dumps(list(passages)).encode()).hexdigest()


def check_apart(texts: Sequence[str], dataset: Dataset) -> None:
    """Refuses documents in which rows stand that methods must not see.

    Args:
        texts: Whole files: a row may be longer than a passage, or end in the next one.
        dataset: With the rows.

    Raises:
        DataError: A dev or test row's text, or its pair, stands in a file, whatever its case and punctuation: of six
            words or more anywhere, a shorter one as a line or cell of its own, or as a line with the row's answer. Of a
            conversation also what a user or an assistant says, where it is so long or all that is said.
    """
    whole = "\n".join(f" {normalise(text)} " for text in texts)
    lines = {line for text in texts for line in text.splitlines()}
    parts = {normalise(part) for line in lines for part in (line, *line.split("\t"))}
    for split, rows in (("dev", dataset.splits.dev), ("test", dataset.splits.test)):
        found = [row.id for row in rows if _stands_in(row, whole, parts)]
        if found:
            raise DataError(
                f"the documents hold {counted(len(found), f'{split} row')} ({', '.join(found[:3])}): answers would be "
                "looked up. Take the rows' texts out of the folder of --documents."
            )


def _stands_in(row: Example, whole: str, parts: Set[str]) -> bool:
    answers = [normalise(answer) for answer in (row.label, *row.references, *row.choices) if answer is not None]

    def is_there(text: str) -> bool:
        if len(text.split()) >= _WHOLE_WORDS:
            return f" {text} " in whole
        beside = [said for answer in answers for said in (f"{text} {answer}", f"{answer} {text}")]
        return any(said in parts for said in (text, *beside) if said)

    said = [normalise(content) for role, content in row.messages if role != "system"]
    said = [text for text in said if len(said) == 1 or len(text.split()) >= _WHOLE_WORDS]
    texts = [normalise(text) for text in (row.text, row.text_pair) if text is not None]
    return any(map(is_there, (*texts, *said)))
