"""`tunewright inspect`: what is in an adapter, for a person or a program to read."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import ConfigError

if TYPE_CHECKING:
    from tunewright.releases.inspection import Inspection

_LONGEST = 300
"""Characters of a setting that are shown; `--json` has all."""
_MOST_PLACES = 12


def inspect(
    adapter: Annotated[Path, typer.Argument(help="adapter folder, ours or PEFT's")],
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
    top: Annotated[int, typer.Option(help="words shown for each vector of a soft prompt")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Show what is in an adapter: parts, base, scores, nearest words."""
    from tunewright.cli.rows import check_adapter

    if top < 1:
        raise ConfigError(f"`top` must be at least 1. Got {top}.")
    check_adapter(adapter)
    from tunewright.releases.inspection import read_adapter  # torch

    found = read_adapter(adapter, model=model, top=top)
    print(json.dumps(asdict(found), ensure_ascii=False, indent=1) if as_json else "\n".join(lines(found)))


def lines(found: "Inspection") -> Iterator[str]:
    """The page, line by line."""
    base = found.base
    if base is None:
        yield "base       not told by PEFT's folder; read on the model you gave"
    else:
        yield f"base       {base.name} ({base.kind})"
        yield f"           weights {base.sha256[:12]}, tokenizer {base.tokenizer_sha256[:12]}"
    yield f"adapter    {found.sha256[:12]}, {found.bytes:,} bytes, inputs of at most {found.max_tokens} tokens"
    if found.labels:
        yield f"labels     {', '.join(found.labels)}"
    for key, value in found.about.items():
        yield f"{key:<10} {_short(value)}"
    for part in found.parts:
        yield ""
        yield f"{part.name}: {part.bytes:,} bytes"
        for key, shape in list(part.shapes.items())[:_MOST_PLACES]:
            yield f"  {key} {list(shape)}"
        yield from _more(len(part.shapes))
        for key, value in part.settings.items():
            yield f"  {key}: {_short(value)}"
    yield from _prompt_lines(found)
    if found.norms:
        yield ""
        yield "norms of what it adds, the largest first:"
        for each in sorted(found.norms, key=lambda n: -n.norm)[:_MOST_PLACES]:
            yield f"  {each.place:<44} {each.norm:.4g}"
        yield from _more(len(found.norms))


def _prompt_lines(found: "Inspection") -> Iterator[str]:
    reading = found.soft_prompt
    if reading is None:
        return
    low, median, high = reading.vocabulary_norms
    yield ""
    yield f"soft prompt as nearest words; norms of the vocabulary: {median:.3g}, 90% in {low:.3g} to {high:.3g}"
    for k, vector in enumerate(reading.vectors, 1):
        for how, near in (("cosine", vector.by_cosine), ("dot", vector.by_dot)):
            words = "  ".join(f"{n.word!r} {n.similarity:.3g}" for n in near)
            head = f"{k:4}  norm {vector.norm:<8.3g}" if how == "cosine" else " " * 19
            yield f"{head} {how:<6}  {words}"


def _more(count: int) -> Iterator[str]:
    if count > _MOST_PLACES:
        yield f"  and {count - _MOST_PLACES} more (--json shows all)"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters; --json shows all)"
