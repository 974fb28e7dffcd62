"""No dev or test row reaches a method: neither what it may look at nor what it places holds a word of one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.commands import write_table
from tunewright.backbones.decoder import Decoder
from tunewright.config import load_config
from tunewright.data.documents import check_apart
from tunewright.data.load import load_dataset
from tunewright.errors import DataError
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Material
from tunewright.methods.table import METHODS
from tunewright.prompts.template import Prompt
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Dataset, Example, Params

PROMPTING = [
    name
    for name, method in METHODS.items()
    if (method.family == "no training" or name in ("instruction-prompt", "combine")) and "classify" in method.kinds
]
LABELS = list(tiny.GROUPS)


def word(number: int) -> str:
    """A word that one row alone has."""
    return f"q{chr(97 + number // 26)}{chr(97 + number % 26)}q"


def dataset(folder: Path, seed: int, num_rows: int) -> Dataset:
    """Rows that the product splits itself; each has a word of its own."""
    rng = np.random.default_rng(seed)
    rows = [(f"{word(k)} {rng.choice(tiny.WORDS)}", LABELS[k % 3]) for k in range(num_rows)]
    path = write_table(folder / "rows.csv", ("text", "label"), rows)
    return load_dataset(load_config(None, {"data": str(path), "seed": seed}))


def held_out(data: Dataset) -> list[str]:
    """The own words of dev and test rows."""
    return [row.text.split()[0] for row in (*data.splits.dev, *data.splits.test)]


def material(base: Decoder, data: Dataset) -> Material:
    splits, prompt = data.splits, Prompt(fixed="", row="{text} was")
    shop = prepare(data.task, base, splits.train, splits.dev, METRICS["accuracy"], base.max_tokens, prompt=prompt)
    return replace(shop.material, documents=("the old soup", "one train"))


def reachable(value: object) -> Iterator[Example]:
    """Examples that can be reached from a record."""
    if isinstance(value, Example):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from reachable(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield from reachable(list(value.items()))
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from reachable(each)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_that_is_placed_says_a_held_out_word(
    data: st.DataObject, tiny_decoder: Callable[[str], Decoder], tmp_path: Path
) -> None:
    """Any prompting method, at any point of its space, on any split."""
    base = tiny_decoder("llama")
    seed, num_rows = data.draw(st.integers(0, 999)), data.draw(st.integers(36, 90))
    rows = dataset(tmp_path, seed, num_rows)
    made, words = material(base, rows), held_out(rows)
    assert len(words) + len(rows.splits.train) == num_rows
    assert {row.id for row in reachable(made)} == {row.id for row in rows.splits.train}
    method = METHODS[data.draw(st.sampled_from(PROMPTING))]
    params = {
        name: data.draw(st.sampled_from(each.options)) if isinstance(each, Choice) else each.default
        for name, each in method.space(made).items()
    }
    adapter = method.place(made, params, generator("leaks", seed))
    said = str({name: part.settings() for name, part in adapter.parts().items()})
    assert not [own for own in words if own in said]


def test_a_leak_would_be_seen(tiny_decoder: Callable[[str], Decoder], tmp_path: Path) -> None:
    """With dev rows among the training rows, both ways of looking find them."""
    rows = dataset(tmp_path, 1, 60)
    leaking = replace(rows, splits=replace(rows.splits, train=(*rows.splits.train, *rows.splits.dev)))
    made = material(tiny_decoder("llama"), leaking)
    assert {row.id for row in rows.splits.dev} <= {row.id for row in reachable(made)}
    params: Params = {"template": "yours", "shots": 2, "choice": "bm25", "calibration": "none"}
    adapter = METHODS["few-shot"].place(made, params, generator("x"))
    assert adapter.retriever is not None
    assert all(word in str(adapter.retriever.settings()) for word in held_out(rows)[: len(rows.splits.dev)])


def test_documents_that_hold_a_row_are_refused(tmp_path: Path) -> None:
    rows = dataset(tmp_path, 2, 40)
    long = replace(rows.splits.test[0], text="a good old cake was near one bridge today")
    judged = replace(rows, splits=replace(rows.splits, test=(long,)))
    with pytest.raises(DataError, match="1 test row"):
        check_apart(("we had some", "today: A good, old cake was near one bridge today."), judged)
