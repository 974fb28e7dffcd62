"""Writes the reference pages that are made from the code.

Usage: python docs/generate.py [--check]      --check writes nothing and fails when a page is stale.
"""

import argparse
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from tunewright.cli.main import app
from tunewright.config import RunConfig
from tunewright.methods.table import METHODS
from tunewright.types import FAMILIES

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made from the code by docs/generate.py; `make fix` writes it again. -->\n"
TYPES = {str: "text", int: "whole number", float: "number", bool: "yes or no", tuple: "names, comma separated"}


def cell(content: object) -> str:
    """Text on one line, with what Markdown would read as a column or a tag escaped."""
    return " ".join(str(content).split()).replace("|", "\\|").replace("<", "&lt;")


def row(cells: Iterable[object]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(cell, cells))} |\n"


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table, or nothing where there are no rows."""
    lines = [row(cells) for cells in rows]
    return "".join([row(head), row("---" for _ in head), *lines, "\n"]) if lines else ""


def shown(default: object) -> str:
    """A default as a user would write it."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return f"`{','.join(map(str, default))}`"
    return f"`{default}`"


def kind(annotation: Any) -> str:
    """A setting's type in words; whether None is allowed shows in its default."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (item for item in typing.get_args(annotation) if item is not types.NoneType)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    return TYPES[typing.get_origin(annotation) or annotation]


def settings() -> str:
    """The page of every setting of a run."""
    hints = typing.get_type_hints(RunConfig)
    rows = (
        (f"`{name}`", kind(hints[name]), shown(field.default), field.description)
        for name, field in RunConfig.model_fields.items()
    )
    intro = "A run has one set of settings, whether they come from the command line (`--text-pair`), a YAML file\n"
    intro += "(`text_pair:`) or a Python call (`text_pair=`). The command line goes before the file.\n\n"
    return "# Settings\n\n" + intro + table(("name", "type", "default", "meaning"), rows)


def methods() -> str:
    """The page of every method, by family."""
    sections = ["# Methods\n\nEvery family gets the same tuning budget.\n\n"]
    for family in FAMILIES:
        entries = [entry for entry in METHODS.values() if entry.family == family]
        rows = ((f"`{entry.name}`", entry.summary, entry.trains, entry.serves) for entry in entries)
        sections.append(f"## {family.capitalize()}\n\n" + table(("method", "what it does", "trains", "to serve"), rows))
    return "".join(sections)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and all below it, with their full names."""
    yield name, command
    for verb, child in sorted(getattr(command, "commands", {}).items()):
        yield from commands(child, f"{name} {verb}")


def placeholder(argument: Any) -> str:
    """What an argument is called in the help."""
    return str(argument.name if argument.metavar is None else argument.metavar).upper()


def usage(name: str, command: Any) -> str:
    """One command: what it does, its arguments, its options."""
    visible = [item for item in command.params if not getattr(item, "hidden", False) and item.name != "help"]
    arguments = [item for item in visible if item.param_type_name == "argument"]
    options = [item for item in visible if item.param_type_name == "option"]
    words = [name, *map(placeholder, arguments)]
    line = " ".join([*words, "[OPTIONS]"] if options else words)
    text = f"## {name}\n\n{(command.help or '').strip()}\n\n```text\n{line}\n```\n\n"
    text += table(("argument", "meaning"), ((f"`{placeholder(item)}`", item.help or "") for item in arguments))
    flags = (
        (", ".join(f"`{flag}`" for flag in [*item.opts, *item.secondary_opts]), item.help or "") for item in options
    )
    return text + table(("option", "meaning"), flags)


def cli() -> str:
    """The page of the command line."""
    pages = [usage(name, command) for name, command in commands(typer.main.get_command(app), "tunewright")]
    return "# Command line\n\n" + "".join(pages)


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli, "methods.md": methods, "settings.md": settings}


def main() -> int:
    """Writes or compares every page; the number of stale pages is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    check = parser.parse_args().check
    stale = 0
    for name, page in PAGES.items():
        path = FOLDER / name
        text = NOTE + "\n" + page().rstrip() + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"{stale} of {len(PAGES)} pages in docs/reference are stale. Run `make fix`.", file=sys.stderr)
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main())
