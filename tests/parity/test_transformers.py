"""Plain features against transformers' own AutoModel and a mean over the tokens that are not padding."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests import tiny
from tunewright.backbones.encoder import Encoder
from tunewright.types import Example

TEXTS = ["soup", "the train was late and my luggage is in the airport, oh no!", "a piano for dinner", "map " * 30]
PAIRS = ["bread and cheese", "a hotel", "choir melody and rhythm of the drum", "x"]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_features(
    kind: str, *, paired: bool, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path]
) -> None:
    base = tiny_encoder(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder(kind))
    model = transformers.AutoModel.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    pairs = PAIRS if paired else None
    batch = tokenizer(
        TEXTS, pairs, padding=True, truncation=True, max_length=64, return_token_type_ids=True, return_tensors="pt"
    )
    if kind in ("modernbert", "distilbert", "mpnet"):
        del batch["token_type_ids"]
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    examples = [Example(id=t, text=t, text_pair=p if paired else None) for t, p in zip(TEXTS, PAIRS, strict=True)]
    actual = base.features(tiny.rows(tiny.adapter(base), base.encode(examples, 64)))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (torch.pdist(actual) > 0.1).all(), "rows that do not tell a shuffle apart"
