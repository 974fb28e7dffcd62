"""The page at `/`: tasks and versions, figures, and a playground. A pure function of what it is told."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunewright.releases.entries import Promotion, Version
from tunewright.serve.metrics import NO_FIGURES, Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskView:
    """A task as the page shows it."""

    name: str
    live: int
    shadow: int | None = None
    shadow_share: float = 0.0
    versions: tuple[Version, ...] = ()
    """Oldest first; empty where the task comes from a folder."""
    history: tuple[Promotion, ...] = ()
    """The latest changes of what is live, the last one first."""
    figures: Figures = NO_FIGURES

    @property
    def numbers(self) -> list[int]:
        """Versions that can be asked, the live one first."""
        return [self.live, *(each.version for each in reversed(self.versions) if each.version != self.live)]

    @property
    def quality(self) -> str:
        """Of the live version."""
        return next((each.quality for each in self.versions if each.version == self.live), "from a folder")


def render(tasks: Sequence[TaskView], *, num_tasks: int, waiting_rows: int, keeps_feedback: bool) -> str:
    """The page as HTML; nothing in it is loaded from elsewhere.

    Args:
        tasks: Those that are shown.
        num_tasks: All of them.
        waiting_rows: Rows that wait to be answered.
        keeps_feedback: Whether there is a registry to keep it.
    """
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            tasks=tasks,
            num_tasks=num_tasks,
            waiting_rows=waiting_rows,
            keeps_feedback=keeps_feedback,
            version=metadata.version("tunewright"),
            style=Markup(_text("page.css")),
            script=Markup(_text("page.js")),
        )
    )


def ask_for_key() -> str:
    """The page of one who has not said a key yet: it tells nothing of the server."""
    style, script = Markup(_text("page.css")), Markup(_text("page.js"))
    return _environment().get_template("key.html.j2").render(style=style, script=script)


def policy() -> str:
    """What the page may do: its own script and style, and questions to its own server."""
    digests = (hashlib.sha256(_text(name).encode()).digest() for name in ("page.js", "page.css"))
    script, style = (base64.b64encode(digest).decode() for digest in digests)
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _text(name: str) -> str:
    return files("tunewright.serve").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    loader = PackageLoader("tunewright.serve", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["minute"] = lambda at: at[:16].replace("T", " ")
    return environment
