"""What is remembered of answers is bounded, in rows and in characters."""

from tunewright.serve.ask import Label, Usage
from tunewright.serve.memory import Memory
from tunewright.types import Example

USAGE = Usage(text_tokens=1, prefix_tokens=0, num_cut=0)
FOOD = Label(label="food", labels=("food",), probabilities=(1.0,), usage=USAGE)


def remembered(count: int, text: str, *, keeps_texts: bool) -> list[int]:
    """Numbers of the rows that are still known after so many."""
    memory = Memory(keeps_texts=keeps_texts)
    for k in range(count):
        memory.note([f"row-{k}"], [Example(id="0", text=text)], [FOOD])
    return [k for k in range(count) if memory.find(f"row-{k}") is not None]


def test_the_latest_rows() -> None:
    assert remembered(10_003, "soup", keeps_texts=False) == list(range(3, 10_003))


def test_long_texts_push_others_out() -> None:
    """100 000 characters, the longest that a text may be."""
    text = "x" * 100_000
    found = remembered(400, text, keeps_texts=True)
    assert found == list(range(400 - len(found), 400))
    assert 2**24 < len(found) * 100_004 <= 2**25
    assert len(remembered(400, text, keeps_texts=False)) == 400
