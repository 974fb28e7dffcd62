"""Files that are never half-written, and JSON lines that survive a kill.

A whole file is written under another name and renamed. A JSON line is one `write`; a torn last one is not read.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunewright.errors import RunError

_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one line for the user.

    Raises:
        RunError: No space, no right to write, or a path that cannot be.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"disk full while writing {path}. What was finished is kept; free space and use --resume."
            ) from None
        if error.errno in _UNWRITABLE:
            raise RunError(f"cannot write {path}: {os.strerror(error.errno)}. Choose another --out.") from None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or nothing: under a temporary name, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file or nothing."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes a whole JSON file or nothing; refuses NaN."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        RunError: Missing, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"no {path.name} in {path.parent}. Is that a finished run folder?") from None
    except NotADirectoryError:
        raise RunError(f"{path.parent} is a file. Allowed: a finished run folder, such as runs/NAME.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not valid JSON: {error}. Repeat the run or restore the file.") from None


def dump_lines(records: Iterable[Any]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def append_line(path: Path, record: Any) -> None:
    """Adds one JSON line, on disk before it returns."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        with path.open("ab") as file:
            file.write(dump_lines([record]).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """All whole JSON lines of a file; empty where there is no file. A torn last line is left out.

    Raises:
        RunError: A whole line is not UTF-8 or not JSON; with its number.
    """
    if not path.exists():
        return []
    # At "\n" alone: texts are written as they are, and `str.splitlines` would cut them at U+0085 or U+2028.
    *whole, _ = path.read_bytes().split(b"\n")
    return [_record(line, number, path) for number, line in enumerate(whole, 1) if line.strip()]


def _record(line: bytes, number: int, path: Path) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path}, line {number} is not valid JSON: {error}. Repeat the run or restore the file."
        ) from None


def _drop_torn_line(path: Path) -> None:
    """Cuts what a kill left after the last newline."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() == 0 or (file.seek(-1, os.SEEK_END) and file.read(1) == b"\n"):
            return
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears complete or not at all: filled under another name, then renamed.

    An existing folder of that name is replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
