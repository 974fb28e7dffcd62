"""Pieces that the records of all protocols share."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tunewright.releases.entries import NAME
from tunewright.types import Example

Text = Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"\S")]
"""Of a row: something, and not a book."""

Choices = Annotated[list[Text], Field(max_length=64)]
"""Candidates of the row's own, where its task chooses among them; the label is the number of one, from 1 on."""

Fields = Annotated[dict[str, Annotated[str, Field(max_length=100_000)]], Field(max_length=32)]
"""Column -> cell, of the columns that a task's template shows."""

TaskName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
"""JSON knows one kind of number: 5.0 is a whole one."""


class Strict(BaseModel):
    """A record whose fields have the types they say, and no others: what is misspelt is told, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def example_of(k: int, text: str, text_pair: str | None = None) -> Example:
    """A row of a request."""
    return Example(id=str(k), text=text, text_pair=text_pair)
