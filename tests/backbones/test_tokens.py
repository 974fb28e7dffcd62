"""Tokens and layout against the tokenizer's own answers and by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from tests import tiny
from tunewright.backbones.base import Encoding
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.tokens import lay_out
from tunewright.types import Example

LONG, SHORT = " ".join(["bread and soup"] * 30), "a piano"


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("pair", [None, SHORT, LONG])
@pytest.mark.parametrize("limit", [16, 64])
def test_against_the_tokenizer(
    kind: str, pair: str | None, limit: int, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path]
) -> None:
    """Whole where it fits, else cut by the tokenizer itself; the count is what is missing."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(kind))
    texts = [SHORT, LONG, "soup"]
    found = tiny_encoder(kind).encode([Example(id=t, text=t, text_pair=pair) for t in texts], limit)
    for text, encoding in zip(texts, found, strict=True):
        whole = tokenizer(text, pair)["input_ids"]
        expected = tokenizer(text, pair, truncation=True, max_length=limit, return_token_type_ids=True)
        assert list(encoding.ids) == expected["input_ids"]
        assert list(encoding.type_ids) == expected["token_type_ids"]
        assert encoding.num_cut == max(0, len(whole) - limit)
        assert len(encoding.ids) <= limit


def test_the_longer_of_a_pair_is_cut_first(tiny_encoder: Callable[[str], Encoder]) -> None:
    base = tiny_encoder("bert")
    (found,) = base.encode([Example(id="1", text=SHORT, text_pair=LONG)], 20)
    (whole,) = base.encode([Example(id="1", text=SHORT)], 20)
    assert found.ids[: len(whole.ids)] == whole.ids
    assert found.type_ids == (0,) * len(whole.ids) + (1,) * (20 - len(whole.ids))


def test_order_of_rows_is_kept(tiny_encoder: Callable[[str], Encoder]) -> None:
    base = tiny_encoder("bert")
    examples = [Example(id=str(k), text=t) for k, t in enumerate([LONG, SHORT, LONG + " salt", "soup"])]
    assert base.encode(examples, 64) == [base.encode([e], 64)[0] for e in examples]
    assert base.encode([], 64) == []


def test_layout() -> None:
    """Two virtual tokens before a text of three, none before a text of ten; padded to an even length."""
    short = Encoding(ids=(2, 7, 3), type_ids=(0, 1, 1))
    long = Encoding(ids=tuple(range(10, 19)), type_ids=(0,) * 9)
    found = lay_out([short, long], [2, 0], pad_id=5)
    assert found.ids_BL.tolist() == [[5, 5, 2, 7, 3, *[5] * 5], [*range(10, 19), 5]]
    assert found.types_BL.tolist() == [[0, 0, 0, 1, 1, *[0] * 5], [0] * 10]
    assert found.mask_BL.tolist() == [[1] * 5 + [0] * 5, [1] * 9 + [0]]
    assert found.text_BL.tolist() == [[0, 0, 1, 1, 1] + [0] * 5, [1] * 9 + [0]]
    assert found.first_text_B.tolist() == [2, 0]
    assert list(zip(found.prompt_rows_N.tolist(), found.prompt_columns_N.tolist(), strict=True)) == [(0, 0), (0, 1)]
