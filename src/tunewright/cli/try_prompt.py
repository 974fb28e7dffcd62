"""`tunewright try`: what a model sees of a prompt and what it answers, to write prompts by hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.config import RunConfig, load_config
from tunewright.errors import ConfigError, counted

if TYPE_CHECKING:
    from tunewright.serve.preview import Preview, ShownRow

_MOST_LABELS = 5
"""Labels whose scores are shown."""

SETTINGS = ("task", "text", "text_pair", "label", "choices", "input", "target", "max_tokens")
"""Of a run, that have flags here too."""


def try_prompt(
    template: Annotated[
        str, typer.Argument(help="the prompt, with {text} or any {COLUMN} in it; or a text file that holds it")
    ],
    data: Annotated[str, typer.Argument(help=RunConfig.model_fields["data"].description, metavar="DATA")],
    rows: Annotated[int, typer.Option(help="training rows to show", metavar="N")] = 5,
    model: Annotated[str | None, typer.Option(help="the decoder: name, folder or openai:MODEL@URL")] = None,
    **given: Any,
) -> None:
    """Ask a decoder with a prompt: what it sees of some training rows, and what it answers."""
    config = load_config(None, {"data": data, "model": model, **given})
    if rows < 1:
        raise ConfigError(f"`rows` must be at least 1. Got {rows}.")
    from tunewright.prompts.template import read_source

    source = read_source(template) if "{" not in template and Path(template).is_file() else template
    from tunewright.serve.preview import preview  # torch

    print("\n".join(lines(preview(source, config, rows))))


def lines(found: "Preview") -> Iterator[str]:
    """The page, line by line."""
    where = f"context of {found.max_tokens:,} tokens" if found.is_here else "which answers elsewhere"
    yield f"model   {found.model}, {where}"
    size = f"{counted(len(found.fixed), 'token')}, the same for every row; they run once"
    yield f"fixed   {size if found.is_here else 'the same for every row'}"
    if found.fixed:
        yield f"        {_marked(found.fixed)}"
    for row in found.rows:
        yield ""
        yield from _row_lines(row, billed=not found.is_here)


def _row_lines(row: "ShownRow", *, billed: bool) -> Iterator[str]:
    cut = f"; {counted(row.num_cut, 'token')} of the text did not fit" if row.num_cut else ""
    yield f"{row.id}   {counted(row.num_tokens, 'token')}{', billed with the fixed part' if billed else ''}{cut}"
    yield f"        {_marked(row.tokens)}"
    yield f"answer  {row.answer!r}, in the data {row.wanted!r}"
    if row.scores:
        most = ", ".join(f"{label} {score:.2f}" for label, score in row.scores[:_MOST_LABELS])
        yield f"        {'log-probability' if billed else 'mean log-probability per token'}: {most}"


def _marked(tokens: Sequence[str]) -> str:
    r"""Tokens between bars, line breaks as `\n`."""
    return f"|{'|'.join(token.replace(chr(10), chr(92) + 'n') for token in tokens)}|"
