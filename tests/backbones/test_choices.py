"""Rows with candidates of their own: scores are those of each pair alone, by transformers' own forward."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Candidates, Head, Template
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.inference import FeatureStore, answer, readings
from tunewright.errors import ConfigError
from tunewright.types import Example

GetBackbone = Callable[[str], Backbone]
GetFolder = Callable[[str], Path]
EXACT = 1e-5
"""fp32: largest difference of a score."""

ROWS = (
    Example(id="r:1", text="the train was late", choices=("we had dinner near the airport", "a piano")),
    Example(id="r:2", text="soup", text_pair="today", choices=("bread with cheese", "some good salt and rice")),
    Example(id="r:3", text="my luggage", choices=("it was new", "one very old violin for the concert")),
)
PROMPTED = ("gpt2", "llama", "t5", "masked-bert")


def paired(base: Backbone, **parts: Any) -> Adapter:
    """A head of one row, behind some body."""
    head = Head(weight_CD=tiny.normal(3, 1, base.width, scale=0.3), bias_C=tiny.normal(4, 1))
    return replace(tiny.adapter(base, head=head, candidates=Candidates(), **parts), labels=("1", "2"))


def asked(base: Backbone) -> Adapter:
    """Candidates as answers to a prompt; a masked model's stand where its mask is."""
    row = "it: {text} was [MASK]." if base.fills_masks else "it: {text}\nwas"
    adapter = tiny.adapter(base, template=Template(fixed="", row=row), candidates=Candidates())
    return replace(adapter, head=None, labels=("1", "2"))


def logits(base: Backbone, adapter: Adapter, examples: tuple[Example, ...] = ROWS) -> Tensor:
    with torch.no_grad():
        return torch.stack(base.logits([Row(encoding=e, adapter=adapter) for e in base.encode_for(examples, adapter)]))


def whole_text(row: Example) -> str:
    return row.text if row.text_pair is None else f"{row.text}\n{row.text_pair}"


def test_an_encoders_scores_are_those_of_pairs(tiny_backbone: GetBackbone, tiny_folder: GetFolder) -> None:
    """Mean of transformers' last hidden states over each pair, times the head."""
    base, folder = tiny_backbone("bert"), tiny_folder("bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    adapter = paired(base)
    assert adapter.head is not None
    expected = []
    for row in ROWS:
        for choice in row.choices:
            batch = tokenizer(whole_text(row), choice, return_tensors="pt", return_token_type_ids=True)
            with torch.no_grad():
                hidden_LD = model(**batch).last_hidden_state[0]
            expected.append(float(adapter.head.weight_CD[0] @ hidden_LD.mean(0) + adapter.head.bias_C[0]))
    found_NC = logits(base, adapter)
    torch.testing.assert_close(found_NC, torch.tensor(expected).view(3, 2), atol=EXACT, rtol=0)
    assert ((found_NC[:, 0] - found_NC[:, 1]).abs() > 1e-3).all()


def naive(kind: str, base: Backbone, folder: Path, row: Example, choice: str) -> float:
    """Mean log-probability of a candidate's tokens, one pass of the whole model for it alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    adapter = asked(base)
    assert adapter.template is not None
    said = adapter.template.show(row)
    ids = list(base.encode_answer(choice, after=adapter.template.row))
    with torch.no_grad():
        if base.fills_masks:
            masks = str(tokenizer.mask_token) * len(ids)
            batch = tokenizer(said.replace("[MASK]", masks), return_tensors="pt", return_token_type_ids=False)
            model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
            at = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
            logits_TV = model(**batch).logits[0, at]
        elif kind == "t5":
            model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
            batch = tokenizer(said, return_tensors="pt")
            return -float(model(input_ids=batch["input_ids"], labels=torch.tensor([ids])).loss)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
            before = tokenizer(said, return_tensors="pt")["input_ids"]
            whole = torch.cat([before, torch.tensor([ids])], 1)
            logits_TV = model(input_ids=whole).logits[0, before.shape[1] - 1 : -1]
    log_probs_TV = logits_TV.log_softmax(-1)
    return sum(float(log_probs_TV[t, i]) for t, i in enumerate(ids)) / len(ids)


@pytest.mark.parametrize("kind", PROMPTED)
def test_prompted_scores_are_those_of_answers(kind: str, tiny_backbone: GetBackbone, tiny_folder: GetFolder) -> None:
    base, folder = tiny_backbone(kind), tiny_folder(kind)
    expected = [[naive(kind, base, folder, row, choice) for choice in row.choices] for row in ROWS]
    torch.testing.assert_close(logits(base, asked(base)), torch.tensor(expected), atol=EXACT, rtol=0)
    assert all(abs(first - second) > 1e-3 for first, second in expected)


@pytest.mark.parametrize("kind", ["bert", *PROMPTED])
def test_the_order_of_candidates_is_that_of_scores(kind: str, tiny_backbone: GetBackbone) -> None:
    base = tiny_backbone(kind)
    turned = tuple(replace(row, choices=row.choices[::-1]) for row in ROWS)
    for adapter in [paired(base), *([asked(base)] if base.answers_prompts else [])]:
        torch.testing.assert_close(logits(base, adapter, turned), logits(base, adapter).flip(1), atol=EXACT, rtol=0)


@pytest.mark.parametrize("kind", ["bert", *PROMPTED])
def test_a_mixed_batch_is_row_by_row(kind: str, tiny_backbone: GetBackbone) -> None:
    """Pairs, candidates as answers and plain rows of other adapters run together as alone."""
    base = tiny_backbone(kind)
    adapters = [
        paired(base),
        paired(base, soft_prompt=tiny.soft_prompt(base, 3, seed=5)),
        paired(base, lora=tiny.lora(base, 2, seed=6)),
        *([asked(base)] if base.answers_prompts else []),
    ]
    rows = [Row(encoding=e, adapter=a) for a in adapters for e in base.encode_for(ROWS, a)]
    rows += tiny.rows(tiny.adapter(base), tiny.encodings(base, ["soup", "the old bridge near it"]))
    with torch.no_grad():
        together, alone = base.logits(rows), [base.logits([row])[0] for row in rows]
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)
    for adapter in adapters:
        assert (logits(base, adapter) - logits(base, adapters[0])).abs().max() > 1e-3 or adapter is adapters[0]


def test_many_rows_answer_as_one(tiny_backbone: GetBackbone) -> None:
    """Readings and probabilities through the store; features of the bare base are those of each pair."""
    base = tiny_backbone("bert")
    store, adapter = FeatureStore(base), paired(base)
    encodings = base.encode(ROWS, base.max_tokens)
    found_NE = readings(adapter, encodings, store)
    assert found_NE.shape == (3, 2 * base.width) == (3, base.reading_width(adapter))
    with torch.no_grad():
        alone = [base.features(tiny.rows(adapter, list(each.members))).flatten() for each in encodings]
    torch.testing.assert_close(found_NE, torch.stack(alone), atol=EXACT, rtol=0)
    expected_NC = logits(base, adapter).softmax(-1)
    predictions = answer(adapter, ROWS, store)
    torch.testing.assert_close(torch.tensor([p.probabilities for p in predictions]), expected_NC, atol=EXACT, rtol=0)
    assert [p.label for p in predictions] == [str(1 + int(k)) for k in expected_NC.argmax(-1)]


def test_long_candidates_are_cut_and_counted(tiny_backbone: GetBackbone) -> None:
    """To a quarter of the context, whoever the neighbours are."""
    base = tiny_backbone("gpt2")
    long = Example(id="r:4", text="soup", choices=("bread " * 60, "a piano"))
    (found,) = base.encode_for([long], asked(base))
    whole = len(base.encode_answer(long.choices[0], after="was"))
    assert len(found.choices[0]) == base.max_tokens // 4 < whole
    assert found.num_cut == whole - base.max_tokens // 4
    short, _ = base.encode_for([ROWS[0], long], asked(base))
    assert short == base.encode_for([ROWS[0]], asked(base))[0]


def test_a_candidate_without_tokens_is_refused(tiny_backbone: GetBackbone) -> None:
    base = tiny_backbone("t5")
    with pytest.raises(ConfigError, match=r"has no token for candidate ' ' of row r:5"):
        base.encode_for([Example(id="r:5", text="soup", choices=(" ", "a piano"))], asked(base))
