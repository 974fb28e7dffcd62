"""Prompts: words before all rows, and words around each, after which the answer begins.

A prompt is written as one text. Its lines before the one with the first place for a row's own words are the same for
all rows, and stand apart: they run once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tunewright.data.labels import in_words
from tunewright.errors import ConfigError, DataError, unknown
from tunewright.types import Example, Task, TaskKind

MASK = "[MASK]"
"""Where a masked language model is to put the answer; whatever its own tokenizer calls it."""

_ROLES = ("text", "text_pair")
_BRACES = re.compile(r"\{([^{}\n]+)\}")
_NAME = re.compile(r"[^\W\d]\w*")
"""What in braces is meant as a place even where nothing has that name; of the rest, such as JSON, only what has."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What is asked of a model that writes."""

    fixed: str
    """Instruction and fixed demonstrations: the same for all rows."""
    row: str
    """What a row becomes, with `{text}`, for pairs `{text_pair}`, or columns; ends where the answer begins."""
    columns: tuple[str, ...] = ()
    """Further columns of the data that have a place, as `{name}`."""

    @property
    def places(self) -> tuple[str, ...]:
        """Names that stand in braces for something of a row."""
        return tuple(dict.fromkeys((*_ROLES, *self.columns)))

    def fill(self, words: Mapping[str, str], answer: str = MASK) -> str:
        """A row as text; a second text for which there is no place of its own follows the first on a line.

        Args:
            words: By the name of their place; empty where there are none, as in what a prompt says by itself.
            answer: In the place of the mask, if there is one.
        """
        values = {MASK: answer, **{f"{{{name}}}": words.get(name, "") for name in self.places}}
        if "text_pair" in words and "{text_pair}" not in self.row:
            values["{text}"] = f"{values['{text}']}\n{words['text_pair']}"
        return re.sub("|".join(map(re.escape, values)), lambda place: values[place[0]], self.row)

    def words(self, example: Example) -> dict[str, str]:
        """What it shows of a row, by the name of its place.

        Raises:
            DataError: The row comes without a column that has a place.
        """
        missing = [f"`{name}`" for name in self.columns if name not in example.fields]
        if missing:
            raise DataError(
                f"row {example.id} comes without {', '.join(missing)}, which the template shows. "
                "Give Example(..., fields={column: text})."
            )
        both = {"text": example.text, **({} if example.text_pair is None else {"text_pair": example.text_pair})}
        own = both if "{text}" in self.row else {name: both[name] for name in both if f"{{{name}}}" in self.row}
        return {**own, **{name: example.fields[name] for name in self.columns}}

    def show(self, example: Example, answer: str = MASK) -> str:
        """A row as text.

        Raises:
            DataError: As in `words`.
        """
        return self.fill(self.words(example), answer)


PLAIN = Prompt(fixed="", row="{text}\n")
"""For methods that learn what to do."""

PROMPTS: Mapping[TaskKind, Mapping[str, str]] = {
    "classify": {
        "label": "{text}\nLabel:",
        "listed": "Each text has one of these labels: {labels}.\n\nText: {text}\nLabel:",
        "question": "Text: {text}\nQuestion: What is it about? {labels}?\nAnswer:",
        "opinion": "{text}\nIt was",
        "topic": "{text}\nThis is about",
    },
    "choose": {"continuation": "{text}", "answer": "{text}\nAnswer:", "question-answer": "Question: {text}\nAnswer:"},
    "generate": {
        "input-output": "Input: {text}\nOutput:",
        "instruction": "Write the right output for each input.\n\nInput: {text}\nOutput:",
        "question-answer": "Question: {text}\nAnswer:",
        "plain": PLAIN.row,
    },
}
"""Kind of task -> name -> prompt. `{labels}` stands for the labels' names."""


INSTRUCTIONS: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": (
        "Choose the label that fits each text.",
        "Read each text and answer with one of these words: {labels}.",
        "What follows are texts, each with its label.",
    ),
    "generate": (
        "Answer each input as it should be.",
        "Write what belongs to each input, in the same form every time.",
        "What follows are inputs, each with its right output.",
    ),
}
"""Kind of task -> sentences for prompts that have none."""


def sources(kind: TaskKind) -> Mapping[str, str]:
    """The prompts for a kind of task, as they are written."""
    return PROMPTS.get(kind, PROMPTS["classify"])


def built_in(task: Task) -> dict[str, Prompt]:
    """The prompts that come along for this kind of task, by name."""
    return {name: parse(source, task) for name, source in sources(task.kind).items()}


def parse(source: str, task: Task, columns: Mapping[str, str] | None = None, further: Sequence[str] = ()) -> Prompt:
    """A prompt from one text.

    Args:
        source: With `{text}`; with `{text_pair}` where there are pairs; with `{labels}` where there are labels.
        task: Whose labels.
        columns: Role -> column of the data: a column's name in braces stands for its role.
        further: Other columns of the data that may have a place.

    Raises:
        ConfigError: No place for anything of a row, a placeholder that stands for nothing or for the answer; every
            fault at once.
    """
    roles = _ROLES if task.paired else _ROLES[:1]
    role_of = {} if columns is None else {column: role for role, column in columns.items()}
    own = {column: role for column, role in role_of.items() if role in roles}
    labels = {"labels": "labels"} if task.names_labels else {}
    known = {**own, **{name: name for name in further}, **{role: role for role in roles}, **labels}
    found = [name for name in dict.fromkeys(_BRACES.findall(source)) if name in known or _NAME.fullmatch(name)]
    faults = _unknown([name for name in found if name not in known], list(known), role_of)
    shown = {known[name] for name in found if name in known} - {"labels"}
    if not shown:
        places = " or ".join(f"{{{name}}}" for name, role in known.items() if role == "text")
        allowed = ", ".join(f"{{{name}}}" for name in known)
        faults.append(f"the template has no place for a row's text. Allowed: {allowed}. Write {places}.")
    if faults:
        raise ConfigError(faults)
    starts = [match.start() for match in _BRACES.finditer(source) if known.get(match[1]) in shown]
    first = min([*starts, *(match.start() for match in re.finditer(re.escape(MASK), source))])
    start = source.rfind("\n", 0, first) + 1
    listed = ", ".join(in_words(label) for label in task.labels)
    in_row = listed.replace("{", "(").replace("}", ")")  # a label's name is no place for a text
    others = tuple(known[name] for name in found if known[name] in shown and known[name] not in roles)
    return Prompt(fixed=_put(source[:start], known, listed), row=_put(source[start:], known, in_row), columns=others)


def _unknown(names: Sequence[str], known: Sequence[str], role_of: Mapping[str, str]) -> list[str]:
    """A line for each placeholder that stands for nothing, or for the answer."""
    allowed = [f"{{{name}}}" for name in known]
    return [
        f"placeholder '{{{name}}}' stands for the answer, which no template may show. Allowed: {', '.join(allowed)}."
        if role_of.get(name) in ("label", "target")
        else unknown("placeholder", f"{{{name}}}", allowed)
        for name in names
    ]


def with_mask(prompt: Prompt) -> Prompt:
    """The prompt with a mask where its answer would begin, unless it has one."""
    return prompt if MASK in prompt.row else replace(prompt, row=f"{prompt.row.rstrip()} {MASK}.")


def premise(prompt: Prompt) -> Prompt:
    """What a prompt says where it says nothing of a row: its words after the last place for one, or else around it."""
    places = "|".join(re.escape(f"{{{name}}}") for name in prompt.places)
    end = max(match.end() for match in re.finditer(places, prompt.row))
    is_whole = bool(prompt.row[end:].strip()) and (MASK in prompt.row) == (MASK in prompt.row[end:])
    words = prompt.row[end:] if is_whole else prompt.fill({})
    return Prompt(fixed="", row=f"{{text}}{words}")


def one_mask(prompt: Prompt, model: str) -> Prompt:
    """The prompt, which has one mask.

    Raises:
        ConfigError: It has none or several.
    """
    count = prompt.row.count(MASK)
    if count != 1:
        raise ConfigError(
            f"a template for the masked model {model!r} must have one {MASK}, where the answer stands. Got {count}. "
            f"Write it, such as `{{text}} It was {MASK}.`"
        )
    return prompt


def until_mask(prompt: Prompt, model: str) -> Prompt:
    """What stands before the mask, for a model that goes on from there; the prompt itself where there is none.

    Raises:
        ConfigError: Words follow the mask, or several masks.
    """
    row, mask, rest = prompt.row.partition(MASK)
    if re.search(r"[\w{]", rest):
        raise ConfigError(
            f"{model!r} goes on where a template ends, so that no words may follow {MASK}. Got {rest.strip()!r}. "
            f"Put {MASK} at the end, or choose a masked model with --model."
        )
    return replace(prompt, row=row.rstrip(" ")) if mask else prompt


def _put(source: str, known: Mapping[str, str], labels: str) -> str:
    """With the labels in it, and every place under the name of its role."""
    return _BRACES.sub(lambda m: labels if known.get(m[1]) == "labels" else f"{{{known.get(m[1], m[1])}}}", source)


def read_source(path: str) -> str:
    """A prompt as it stands in a file, without the line break with which files end.

    Raises:
        ConfigError: No such file, not UTF-8, or empty.
    """
    try:
        source = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template {path}: {error}. Allowed: UTF-8 text with {{text}}.") from None
    if not source.strip():
        raise ConfigError(f"the template {path} is empty. Allowed: UTF-8 text with {{text}}.")
    return source.removesuffix("\n")


def demonstration(filled: str, answer: str) -> str:
    """An answered row, with a blank line after it.

    Args:
        filled: The row as its prompt has it.
        answer: To it.
    """
    return f"{filled}{'' if filled[-1:].isspace() else ' '}{answer}\n\n"


def with_demonstrations(prompt: Prompt, shown: Iterable[str]) -> Prompt:
    """The prompt with demonstrations before the row, the same for all rows."""
    return replace(prompt, fixed=prompt.fixed + "".join(shown))


def draw(groups_N: Sequence[int], rng: np.random.Generator, *, stratified: bool) -> list[int]:
    """Positions of all rows in random order; stratified, each group in turn as long as it has rows.

    Args:
        groups_N: Group of each row, such as the index of its label.
        rng: Draws.
        stratified: Whether the groups take turns.
    """
    order = [int(k) for k in rng.permutation(len(groups_N))]
    if not stratified:
        return order
    turns: dict[int, int] = {}
    turn_of: dict[int, int] = {}
    for k in order:
        turn_of[k] = turns.get(groups_N[k], 0)
        turns[groups_N[k]] = turn_of[k] + 1
    return sorted(order, key=turn_of.__getitem__)
