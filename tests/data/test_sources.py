"""A file, a folder, or a name; files given for dev and test override."""

import re
from pathlib import Path

import datasets
import pytest

from tunewright.config import RunConfig
from tunewright.data.sources import Source, hub_source, read_source
from tunewright.errors import DataError


def write(path: Path, text: str = "x") -> str:
    separator = "\t" if path.suffix == ".tsv" else ","
    path.write_text(f"text{separator}label\n{text}{separator}a\n")
    return str(path)


def texts(source: Source) -> dict[str, str | None]:
    return {split: table.rows[0]["text"] for split, table in source.tables.items()}


def test_single_file(tmp_path: Path) -> None:
    source = read_source(RunConfig(data=write(tmp_path / "tickets.csv")))
    assert (source.name, texts(source), source.prefix("train")) == ("tickets", {"train": "x"}, "tickets")


@pytest.mark.parametrize("dev", ["dev", "valid", "validation", "val", "VAL"])
def test_folder(tmp_path: Path, dev: str) -> None:
    write(tmp_path / "test.tsv", "3")
    write(tmp_path / f"{dev}.tsv", "2")
    write(tmp_path / "train.tsv", "1")
    (tmp_path / "README.md").write_text("about")
    source = read_source(RunConfig(data=str(tmp_path)))
    assert list(texts(source).items()) == [("train", "1"), ("dev", "2"), ("test", "3")]
    assert source.name == tmp_path.name
    assert source.prefix("dev") == "dev"


def test_given_files_override(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.csv", "1")
    write(folder / "test.csv", "3")
    dev, test = write(tmp_path / "d.tsv", "new dev"), write(tmp_path / "t.csv", "new test")
    source = read_source(RunConfig(data=str(folder), dev=dev, test=test))
    assert texts(source) == {"train": "1", "dev": "new dev", "test": "new test"}
    assert source.prefix("train") == "train"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["test.csv", "tickets.csv"],
            r"no train file in .*: got test\.csv, tickets\.csv\. Allowed: train",
        ),
        ([], r"no train file in .*: got no \.csv, \.tsv, \.jsonl, \.parquet file"),
        (["train.csv", "test.tsv"], r"several formats in .*: train\.csv, test\.tsv\."),
        (["train.csv", "train.tsv"], r"several formats in"),
        (["train.csv", "dev.csv", "val.csv"], r"two dev files in .*: dev\.csv, val\.csv\. Allowed: one"),
    ],
)
def test_bad_folder(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_source(RunConfig(data=str(tmp_path)))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_missing_file_asks_no_hub(tmp_path: Path) -> None:
    write(tmp_path / "tickets.csv")
    with pytest.raises(DataError, match=r"^no such file: .*tickts\.csv\. Did you mean .*tickets\.csv"):
        read_source(RunConfig(data=str(tmp_path / "tickts.csv")))


def test_name_that_is_neither_file_nor_dataset() -> None:
    expected = (
        r"^'no-such-owner/no-such-name' is neither a file nor a dataset that can be loaded \(.+\)\. "
        r"no such file: no-such-owner/no-such-name\."
    )
    with pytest.raises(DataError) as caught:
        read_source(RunConfig(data="no-such-owner/no-such-name"))
    assert re.search(expected, str(caught.value))
    assert "\n" not in str(caught.value)


def test_dataset_of_the_hub() -> None:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    labels = {"train": [1, 0], "validation": [0], "test": [-1, -1]}
    splits = {
        name: datasets.Dataset.from_dict({"sentence": ["x"] * len(values), "label": values}, features=features)
        for name, values in labels.items()
    }
    source = hub_source("owner/yesno:en", splits)
    assert source.name == "yesno"
    assert {name: [row["label"] for row in table.rows] for name, table in source.tables.items()} == {
        "train": ["yes", "no"],
        "dev": ["no"],
    }
    [notice] = source.notices
    assert (notice.code, notice.count) == ("unlabelled-split", 2)
    with pytest.raises(DataError, match=r"no train split in dataset owner/yesno: got validation, test"):
        hub_source("owner/yesno", {name: splits[name] for name in ("validation", "test")})
