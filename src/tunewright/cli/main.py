"""The `tunewright` command. A user's mistake is one line and exit code 2; nothing heavy is imported to show help."""

import errno
import sys
from typing import Annotated, NoReturn

import typer

from tunewright import __version__
from tunewright.cli import (
    check,
    compare,
    evaluate,
    export,
    inspect,
    judge,
    key,
    methods,
    predict,
    registry,
    report,
    serve,
    try_prompt,
)
from tunewright.cli.options import with_settings
from tunewright.config import RunConfig
from tunewright.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, TunewrightError

app = typer.Typer(
    name="tunewright",
    help="Should I write a better prompt, learn a soft prompt, or fine-tune? Measured on your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tunewright {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = (
        False
    ),
) -> None:
    """What may stand before a verb."""


VERBS = (
    with_settings(compare.compare, RunConfig.model_fields), predict.predict, evaluate.evaluate, inspect.inspect,
    report.report, judge.judge, check.check, methods.methods, serve.serve, key.key, export.export,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)
app.command("try")(with_settings(try_prompt.try_prompt, try_prompt.SETTINGS))
app.add_typer(registry.registry, name="registry", help="Tasks, their versions, which one is live, and why.")


def main() -> None:
    """Entry point of the console script."""
    try:
        app(standalone_mode=True)
    except TunewrightError as error:
        for line in str(error).splitlines():
            print(f"tunewright: {line}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("tunewright: disk full. What was finished is kept; free space and use --resume.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _stop()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            _stop()
        raise


def _stop() -> NoReturn:
    print("tunewright: stopped. What was finished is kept; go on with --resume and the same --out.", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
