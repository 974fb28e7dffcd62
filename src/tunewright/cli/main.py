"""The `tunewright` command. A user's mistake is one line and exit code 2; nothing heavy is imported to show help."""

import errno
import sys

import typer
from rich.console import Console

from tunewright.cli import compare, evaluate, methods, predict, report
from tunewright.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, TunewrightError

app = typer.Typer(
    name="tunewright",
    help="Should I write a better prompt, learn a soft prompt, or fine-tune? Measured on your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (compare, predict, evaluate, report, methods):
    module.register(app)


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
        Console(stderr=True).print("tunewright: stopped. What was finished is kept; go on with --resume.")
        sys.exit(EXIT_INTERRUPTED)
