"""Passages of documents before a row: how folders are read and refused, and which passages are shown."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bm25s
import pytest
import torch

from tests import tiny
from tests.methods.test_prompting import material, read, train_and_held_out
from tunewright.adapters import folder
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.data.documents import PASSAGE_WORDS, check_apart, passages_sha256, read_documents, to_passages
from tunewright.errors import ConfigError, DataError
from tunewright.methods import retrieve
from tunewright.prompts.tf_idf import words
from tunewright.runtime import generator
from tunewright.types import Dataset, Example, Params, Splits

GetDecoder = Callable[[str], Decoder]
PASSAGES = tuple(tiny.WORDS[k] for k in range(20, 30))


@pytest.mark.parametrize("by", ["nearest", "bm25"])
def test_the_nearest_passage_stands_before_the_row(by: str, tiny_decoder: GetDecoder, tmp_path: Path) -> None:
    """By brute force, or by the library; the same after a way over the disk."""
    base = tiny_decoder("llama")
    made = replace(material(base, tiny.task()), documents=PASSAGES)
    params: Params = {"template": "yours", "passages": 1, "by": by, "calibration": "none"}
    adapter = retrieve.place(made, params, generator("x"))
    rows = train_and_held_out()[1][:6]
    library = bm25s.BM25()
    library.index([words(text) for text in PASSAGES], show_progress=False)
    store = FeatureStore(base)
    pool = store(base.encode([Example(id=p, text=p) for p in PASSAGES], base.max_tokens))
    for row, seen in zip(rows, read(base, adapter, rows), strict=True):
        (vector,) = store(base.encode([row], base.max_tokens))
        near = [float(torch.cosine_similarity(vector, each, dim=0)) for each in pool]
        scores = near if by == "nearest" else [float(s) for s in library.get_scores(words(row.text))]
        best = max(range(len(PASSAGES)), key=lambda k: scores[k])
        assert seen.strip() == f"{PASSAGES[best]}\n\n{row.text} was"
    folder.save(adapter, tmp_path / "a")
    loaded = folder.load(tmp_path / "a")
    found = [predict(a, base.encode_for(rows, a), store) for a in (adapter, loaded)]
    assert torch.equal(*found)
    bare = replace(adapter, retriever=None)
    assert (predict(bare, base.encode_for(rows, bare), store) - found[0]).abs().amax(1).min() > 1e-4


def test_passages() -> None:
    """Short paragraphs together, long ones in parts; no word is lost."""
    assert to_passages("a b\n\nc\n \nd e") == ["a b c d e"]
    long = " ".join(map(str, range(250)))
    parts = to_passages(f"first\n\n{long}")
    assert [len(part.split()) for part in parts] == [1, PASSAGE_WORDS, PASSAGE_WORDS, 50]
    assert " ".join(parts).split() == ["first", *long.split()]
    assert to_passages(" \n\n ") == []


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("one two", encoding="utf-8")
    (tmp_path / "deep" / "b.md").write_text("trois \u00e9t\u00e9", encoding="utf-8")
    (tmp_path / "deep" / "c.md").write_text("one two", encoding="utf-8")
    (tmp_path / ".hidden").write_bytes(b"\xff\x00")
    assert read_documents(str(tmp_path)).passages == ("one two", "trois \u00e9t\u00e9")
    assert passages_sha256(("a", "b")) != passages_sha256(("ab",))


@pytest.mark.parametrize(
    ("content", "words_"),
    [(None, "has no words"), (b" \n ", "has no words"), (b"\xff\xfe\x00", "cannot read"), (b"a\x00b", "is binary")],
)
def test_bad_folders(content: bytes | None, words_: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(ConfigError, match=words_):
        read_documents(str(tmp_path))


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ConfigError, match="must name a folder"):
            read_documents(str(path))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_documents_with_rows_that_judge_are_refused(split: str) -> None:
    held = Example(id=f"{split}:1", text="We had some Good, old bread today!")
    splits = {"train": (), "dev": (), "test": ()} | {split: (held,)}
    dataset = Dataset(task=tiny.task(), splits=Splits(**splits), sha256="")
    passages = ("bread", "Once: we had some good old bread   today (food)")
    with pytest.raises(DataError, match=f"1 {split} row \\({split}:1\\)"):
        check_apart(passages, dataset)
    check_apart(("we had some good old breads today", "bread"), dataset)


SYSTEM, BREAD = ("system", "Answer questions of customers in one line."), "We had some good old bread."
LEAKS = [
    ({"text": "Where is it?"}, "FAQ\n where is it \nno", True),
    ({"text": "Where is it?", "label": "card_lost"}, 'text,label\n"where is it",card_lost\n', True),
    ({"text": "Where is it?", "label": "card_lost"}, "lost\tWhere is it\t3", True),
    ({"text": "Where is it?", "references": ("Here", "Over there")}, "over there: where is it", True),
    ({"text": "Where is it?", "label": "card_lost"}, "we know where is it\nwhere is it now\n", False),
    ({"text": "?"}, "what? !\n", False),
    ({"text": "short", "text_pair": "We had some good, old bread!"}, "and WE had some good old bread once", True),
    ({"text": "short", "text_pair": "old bread"}, "once\nold bread.\n", True),
    ({"text": "short", "text_pair": "We had some good, old bread!"}, "we had some good old breads in short", False),
    (
        {"text": "x", "messages": (SYSTEM, ("user", "We had some good, old bread!"))},
        "so we had some good old bread",
        True,
    ),
    ({"text": "x", "messages": (SYSTEM, ("user", "Where is it?"))}, "FAQ\n where is it \nno", True),
    ({"text": "x", "messages": (SYSTEM, ("user", "Where is it?"), ("assistant", "Here."))}, "where is it\n", False),
    ({"text": "x", "messages": (SYSTEM, ("user", "It?"), ("assistant", "We had some good old bread."))}, BREAD, True),
    ({"text": "x", "messages": (SYSTEM, ("user", "It?"))}, "Answer questions of customers in one line.", False),
]


@pytest.mark.parametrize(("columns", "document", "is_refused"), LEAKS)
def test_pairs_and_short_texts_are_looked_for_too(columns: dict[str, Any], document: str, is_refused: bool) -> None:
    """Short ones as a line, a cell or beside their answer: in running text they may stand by chance."""
    splits = Splits(train=(), dev=(), test=(Example(id="test:7", **columns),))
    dataset = Dataset(task=tiny.task(), splits=splits, sha256="")
    with pytest.raises(DataError, match=r"1 test row \(test:7\)") if is_refused else contextlib.nullcontext():
        check_apart(["nothing", document], dataset)


@pytest.mark.parametrize("num_words", [30, 3 * PASSAGE_WORDS])
def test_rows_across_passages_are_refused(num_words: int, tmp_path: Path) -> None:
    """A row that ends in the next passage, and one longer than any."""
    text = " ".join(f"w{k}" for k in range(num_words))
    (tmp_path / "a.txt").write_text(f"{'before ' * (PASSAGE_WORDS - 10)}{text} after", encoding="utf-8")
    documents = read_documents(str(tmp_path))
    assert not any(text in passage for passage in documents.passages)
    held = Example(id="test:1", text=text.replace(" ", ", "))
    dataset = Dataset(task=tiny.task(), splits=Splits(train=(), dev=(), test=(held,)), sha256="")
    with pytest.raises(DataError, match="1 test row"):
        check_apart(documents.texts, dataset)
