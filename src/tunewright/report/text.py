"""Text that comes from the user's data, made fit to be shown."""

import re
import unicodedata
from collections.abc import Iterable

from markupsafe import Markup

SHORT = 160
"""Characters of a row's text that are shown before the reader asks for all."""

WHOLE = 4000
"""Characters of a row's text that are in the page at all."""

LABEL = 60
"""Characters of a label or a candidate's name."""


def clean(text: str) -> str:
    """Without control and unpaired surrogate characters, which neither HTML nor UTF-8 can carry; white space kept."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs"))


def line(text: str, limit: int = LABEL) -> str:
    """On one line, cut to `limit` characters with an ellipsis."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "\u2026"


def markdown(text: object) -> str:
    """On one line, with nothing that Markdown or HTML would obey; a number without its element."""
    bare = Markup(text).striptags() if isinstance(text, Markup) else line(str(text), 2000)
    return re.sub(r"([\\`*_\[\]<>#|~@&])", r"\\\1", bare)


def distinct(texts: Iterable[str], limit: int = LABEL) -> list[str]:
    """One line each, and no two the same: those that cutting made equal get a number."""
    seen: set[str] = set()
    shown: list[str] = []
    for text in texts:
        name = short = line(text, limit)
        number = 2
        while name in seen:
            name, number = f"{short} ({number})", number + 1
        seen.add(name)
        shown.append(name)
    return shown
