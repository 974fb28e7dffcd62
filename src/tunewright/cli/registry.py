"""`tunewright registry`: tasks, their versions, which one is live, and on which comparison."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import ConfigError, RegistryError, counted
from tunewright.releases.entries import DEFAULT_STATE

if TYPE_CHECKING:
    from tunewright.releases.state import State
    from tunewright.types import Estimate

registry = typer.Typer(no_args_is_help=True)

StateOption = Annotated[str, typer.Option("--state", help="SQLite file, or URL of a PostgreSQL")]
TaskArgument = Annotated[str, typer.Argument(help="name of the task")]
VersionArgument = Annotated[int, typer.Argument(help="number of the version")]


@registry.command("list")
def list_tasks(
    task: Annotated[str | None, typer.Argument(help="one task, with its history")] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """List the tasks, or the versions of one and what was live when."""
    with _opened(state) as opened:
        if task is None:
            _print_tasks(opened)
        else:
            _print_versions(opened, task)


@registry.command("add")
def add(
    task: TaskArgument,
    folder: Annotated[Path, typer.Argument(help="adapter folder, or a run's: what it recommends")],
    run: Annotated[
        Path | None, typer.Option(help="run folder it comes from; found by itself where the adapter lies in it")
    ] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Add an adapter as a new version of a task; it is not live yet."""
    from tunewright.runs.shipped import recommended

    with _opened(state, may_be_new=True) as opened:
        added = opened.add(task, recommended(folder), run)
    print(f"added: {added.name} ({added.quality}). Make it live: tunewright registry promote {task} {added.version}")


@registry.command("promote")
def promote(
    task: TaskArgument,
    version: VersionArgument,
    margin: Annotated[
        float | None,
        typer.Option(help="points it may lose against the live version; its run's own when absent", min=0, max=100),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="whatever the rows say; the history tells")] = False,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make a version live, if the test rows show that it loses less than the margin against the one that is."""
    from tunewright.releases import promotion

    with _opened(state) as opened:
        done = promotion.promote(opened, task, version, margin=margin, force=force)
    before = "" if done.previous is None else f" in place of {task}@{done.previous}"
    print(f"{'forced' if done.forced else 'promoted'}: {task}@{version} is live{before}: {done.reason}")


@registry.command("rollback")
def rollback(
    task: TaskArgument,
    reason: Annotated[str, typer.Option(help="a few words for the history")] = "",
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make the version live again that was so before the present one."""
    with _opened(state) as opened:
        done = opened.rollback(task, reason=reason)
    print(f"rolled back: {task}@{done.version} is live in place of {task}@{done.previous}")


@registry.command("remove")
def remove(
    task: TaskArgument,
    version: Annotated[int | None, typer.Argument(help="number of the version; the whole task when absent")] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Forget a version that is not live, or a whole task; folders, history and feedback stay."""
    with _opened(state) as opened:
        opened.remove(task, version)
    print(f"removed: {task}" if version is None else f"removed: {task}@{version}")


@registry.command("shadow")
def shadow(
    task: TaskArgument,
    version: Annotated[
        int | None, typer.Argument(help="version that is to answer silently; what was found so far when absent")
    ] = None,
    share: Annotated[float, typer.Option(help="of the requests, above 0 and at most 1")] = 0.1,
    off: Annotated[bool, typer.Option("--off", help="end it")] = False,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Let a version answer silently beside the live one, and see how the two compare; look as often as you like."""
    if off and version is not None:
        raise ConfigError("`--off` ends the shadow of the task. Leave VERSION out.")
    with _opened(state) as opened:
        if off:
            opened.set_shadow(task, None)
            print(f"shadow of {task} ended")
        elif version is not None:
            opened.set_shadow(task, version, share)
            print(f"{task}@{version} answers silently on {share:.0%} of the requests")
        else:
            _print_shadow(opened, task)


@registry.command("feedback")
def feedback(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="csv, tsv or jsonl file to write, with `text` and `label` or `target`")],
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Write what was confirmed or corrected as labelled rows: the next data."""
    from tunewright.cli.rows import check_output, write_rows
    from tunewright.releases.harvest import harvest

    check_output(str(out))
    with _opened(state) as opened:
        found = harvest(opened, task)
    if not found.rows:
        raise RegistryError(f"nothing to write: {found.summary}.")
    write_rows(found.rows, out)
    print(f"{out}: {found.summary}")


@contextlib.contextmanager
def _opened(where: str, *, may_be_new: bool = False) -> Iterator["State"]:
    """The registry; a mistyped path does not make an empty one.

    Raises:
        RegistryError: No such file.
        StateError: It cannot be used.
    """
    from tunewright.releases.state import State  # sqlalchemy

    if not may_be_new and "://" not in where and not Path(where).exists():
        raise RegistryError(f"no registry in {where}. Add a version with `tunewright registry add`, or give --state.")
    state = State.open(where)
    try:
        yield state
    finally:
        state.close()


def _print_tasks(state: "State") -> None:
    rows = [
        (
            entry.name,
            "-" if entry.live is None else f"{entry.live.version} of {entry.num_versions}",
            "-" if entry.live is None else entry.live.quality,
            "-" if entry.shadow is None else f"{entry.shadow.version} on {entry.shadow_share:.0%}",
        )
        for entry in state.tasks()
    ]
    _print_table(("task", "live", "test", "shadow"), rows)


def _print_versions(state: "State", task: str) -> None:
    live = state.live(task)
    rows = [
        (
            f"{found.version}{' live' if live is not None and live.version == found.version else ''}",
            found.quality,
            _minute(found.added_at),
            found.added_by,
            found.adapter_sha256[:12],
            found.folder,
        )
        for found in state.versions(task)
    ]
    _print_table(("version", "test", "added, UTC", "by", "sha256", "folder"), rows)
    for each in state.promotions(task):
        forced = ", forced" if each.forced else ""
        reason = f": {each.reason}" if each.reason else ""
        print(f"{_minute(each.at)} {each.who}: {each.action} {task}@{each.version}{forced}{reason}")


def _print_shadow(state: "State", task: str) -> None:
    from tunewright.releases.shadow import watch

    found = watch(state, task)
    print(f"same answer: {_interval(found.agreement)} of {counted(found.agreement.n, 'request')}")
    if found.difference is None:
        print("right more often: no feedback on these requests yet")
        return
    asked = f"{counted(found.difference.n, 'request')} with feedback"
    print(f"right more often than live: {_interval(found.difference)} on {asked}")
    if found.num_unclear:
        print(f"of them {found.num_unclear} whose right answer nobody said count as wrong for both")


def _interval(found: "Estimate") -> str:
    """In points of 100, valid at every moment."""
    return f"{100 * found.value:.1f}% (95%, valid at every look: {100 * found.low:.1f} to {100 * found.high:.1f})"


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, none cut: a folder may be longer than the terminal is wide."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for cells in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
