"""Where the rows come from: a file, a folder of files, or a dataset on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.config import RunConfig
from tunewright.data.formats import cell
from tunewright.data.tables import SUFFIXES, Table, check_cells, missing_file, read_table, without_empty_rows
from tunewright.errors import DataError
from tunewright.hub import reachable_or_cached
from tunewright.types import Notice

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val", "development"),
    "test": ("test", "testing"),
}
"""Split -> the file stems, or names on the hub, that mean it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The tables of a task, by split; `train` is always there."""

    name: str
    """The task's: stem of the file, name of the folder or dataset."""
    tables: Mapping[str, Table]
    """In the order train, dev, test."""
    notices: tuple[Notice, ...] = ()

    def prefix(self, split: str) -> str:
        """First part of the row ids: the file's stem where all rows come from one file, else the split."""
        return self.name if len(self.tables) == 1 else split


def read_source(config: RunConfig) -> Source:
    """What `data` names, with the files of `dev` and `test` in place of its own.

    Raises:
        DataError: Neither file, folder nor reachable dataset; or a file that cannot be read.
    """
    path = Path(config.data).expanduser()
    if path.is_dir():
        source = _folder(path)
    elif path.exists() or _looks_like_file(config.data):
        table = read_table(config.data)
        source = Source(name=table.name, tables={"train": table})
    else:
        source = hub_source(config.data, _download(config.data))
    given = {"dev": config.dev, "test": config.test}
    tables = dict(source.tables) | {split: read_table(file) for split, file in given.items() if file is not None}
    return replace(source, tables={split: tables[split] for split in SPLIT_NAMES if split in tables})


def _looks_like_file(data: str) -> bool:
    """A known suffix, or more than the one slash of `owner/name`."""
    path = Path(data)
    return path.suffix.lower() in SUFFIXES or path.is_absolute() or data.startswith((".", "~")) or len(path.parts) > 2


def _folder(path: Path) -> Source:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    found = {split: [f for f in files if f.stem.casefold() in names] for split, names in SPLIT_NAMES.items()}
    if not found["train"]:
        got = ", ".join(file.name for file in files) if files else f"no {', '.join(SUFFIXES)} file"
        raise DataError(
            f"no train file in {path}: got {got}. Allowed: train with dev, valid, validation or val, and test. "
            "Rename a file, or give one file instead of the folder."
        )
    used = [file for split in found.values() for file in split]
    if len({file.suffix.lower() for file in used}) > 1:
        raise DataError(
            f"several formats in {path}: {', '.join(file.name for file in used)}. "
            "The splits must be of one format. Remove some, or give files with --dev and --test."
        )
    for split, twice in found.items():
        if len(twice) > 1:
            got = ", ".join(file.name for file in twice)
            raise DataError(f"two {split} files in {path}: {got}. Allowed: one. Remove one.")
    tables = {split: read_table(str(file[0])) for split, file in found.items() if file}
    return Source(name=path.resolve().name, tables=tables)


def hub_source(data: str, splits: Mapping[str, Any]) -> Source:
    """The tables of a dataset of the hub.

    Args:
        data: Its name, as the user wrote it.
        splits: Split's name there -> `datasets.Dataset`.

    Raises:
        DataError: No train split, or an empty split.
    """
    name = data.partition(":")[0]
    tables: dict[str, Table] = {}
    notices: list[Notice] = []
    for split, names in SPLIT_NAMES.items():
        for found in [found for found in names if found in splits][:1]:
            if _is_unlabelled(splits[found]):
                message = f"Split {found!r} of {data} has no labels and was not used."
                notices.append(Notice(code="unlabelled-split", message=message, count=len(splits[found])))
            else:
                tables[split] = _hub_table(splits[found], name, f"{data}[{found}]")
    if "train" not in tables:
        raise DataError(f"no train split in dataset {data}: got {', '.join(splits)}. Choose a dataset that has one.")
    return Source(name=name.rpartition("/")[2], tables=tables, notices=tuple(notices))


def _download(data: str) -> Mapping[str, Any]:
    """All splits of `name`, or of `name:configuration` where the dataset has several."""
    name, _, configuration = data.partition(":")
    missing = missing_file(data)
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(f"{missing} A dataset of the hub needs the package: pip install datasets.") from None
    with reachable_or_cached() as is_reachable:
        try:
            return dict(datasets.load_dataset(name, configuration or None))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()) if is_reachable else "the hub cannot be reached, and it is not cached"
            raise DataError(
                f"{data!r} is neither a file nor a dataset that can be loaded ({reason}). {missing}"
            ) from None


def _is_unlabelled(rows: Any) -> bool:
    """Benchmarks hide the labels of their test split behind -1."""
    import datasets

    classes = [column for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    return any(set(rows[column]) == {-1} for column in classes)


def _hub_table(rows: Any, name: str, path: str) -> Table:
    """The rows, with class numbers as class names."""
    columns = tuple(rows.column_names)
    if len(rows) == 0:
        raise DataError(f"{path} has no rows. Choose a dataset that has some.")
    values = {column: [_named(value, rows.features[column]) for value in rows[column]] for column in columns}
    cells = tuple({column: values[column][row] for column in columns} for row in range(len(rows)))
    table = Table(name=name.rpartition("/")[2], path=path, columns=columns, rows=cells)
    check_cells(table)
    return without_empty_rows(table)


def _named(value: object, kind: Any) -> str | None:
    import datasets

    if not isinstance(kind, datasets.ClassLabel):
        return cell(value)
    return None if value is None or value == -1 else str(kind.int2str(value))
