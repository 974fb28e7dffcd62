"""`tunewright export`: an adapter in a form that others read, and what is left behind."""

from pathlib import Path
from typing import Annotated

import typer

from tunewright.errors import ConfigError, unknown


def export(
    adapter: Annotated[Path, typer.Argument(help="adapter folder, or a run's: what it recommends")],
    to: Annotated[str, typer.Option(help="peft, vllm, merged or text", metavar="FORM")],
    out: Annotated[Path, typer.Option(help="folder to make; for vllm and text a file")],
    text: Annotated[str | None, typer.Option(help="what vLLM is asked, after the soft prompt")] = None,
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
) -> None:
    """Write an adapter for PEFT, vLLM, any server of checkpoints, or as text."""
    from tunewright.cli.rows import check_adapter
    from tunewright.runs.comparison import FILE_NAME

    if not (adapter / FILE_NAME).exists():
        check_adapter(adapter)
    from tunewright.adapters import folder
    from tunewright.releases.export import READERS
    from tunewright.releases.export import export as write  # torch
    from tunewright.runs.shipped import recommended

    found = next((target for target in READERS if target == to), None)
    if found is None:
        raise ConfigError(unknown("form", to, READERS))
    done = write(folder.load(recommended(adapter)), found, out, model=model, text=text)
    print(f"{done.path}: {', '.join(done.kept)}. For {READERS[found]}.")
    if done.lost:
        print(f"left behind, so answers differ: {', '.join(done.lost)}")
