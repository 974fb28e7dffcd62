"""Words in the place of a mask, against transformers' fill-mask pipeline and its own ForMaskedLM."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.backbones.masked import Masked

GetMasked = Callable[[str], Masked]
GetFolder = Callable[[str], Path]

ROW = "it was {text} and my [MASK] with the train"
TEXTS = ["soup", "old song, very good!", "a road near the hotel for one"]
WORDS = ("the", "we", "old", "very")
"""One token each, in every tokenizer."""
SPLIT = ("bread", "soup and cake", "the")


def asking(base: Masked, words: tuple[str, ...], row: str = ROW, fixed: str = "") -> Adapter:
    """Answers by one word for each label."""
    verbalizer = Verbalizer(phrases=tuple((word,) for word in words), scale=1.0)
    labels = tuple(f"label {word}" for word in words)
    template = Template(fixed=fixed, row=row)
    return Adapter(
        base=base.identity, labels=labels, max_tokens=base.max_tokens, template=template, verbalizer=verbalizer
    )


def scores(base: Masked, adapter: Adapter) -> torch.Tensor:
    rows = tiny.rows(adapter, base.encode_for(tiny.as_examples(TEXTS), adapter))
    return base.scores(rows, base.phrase_ids(adapter))


@pytest.mark.parametrize("kind", tiny.MASKED)
def test_fill_mask(kind: str, tiny_masked: GetMasked, tiny_folder: GetFolder) -> None:
    """Probabilities of words of one token; the space of byte pairs is found by the tokenizer itself."""
    base, folder = tiny_masked(kind), str(tiny_folder(kind))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
    adapter = asking(base, WORDS)
    found_BC = scores(base, adapter).exp()
    is_wordpiece = kind.removeprefix("masked-") in tiny.WORDPIECE
    names = [word if is_wordpiece else f"\u0120{word}" for word in WORDS]
    for text, found_C in zip(TEXTS, found_BC.tolist(), strict=True):
        filled = fill(ROW.replace("{text}", text).replace("[MASK]", str(tokenizer.mask_token)), targets=names)
        said = {str(each["token_str"]).strip(): each["score"] for each in filled}
        assert found_C == pytest.approx([said[word] for word in WORDS], abs=1e-5)
    assert (torch.pdist(found_BC) > 1e-4).all()


@pytest.mark.parametrize("fixed", ["", "soup food\n"])
@pytest.mark.parametrize("kind", ["masked-bert", "masked-roberta", "masked-xlm-roberta", "masked-electra"])
def test_words_of_several_tokens(kind: str, fixed: str, tiny_masked: GetMasked, tiny_folder: GetFolder) -> None:
    """As many masks as tokens, one input at a time by the model's own forward; the mean of the log-probabilities."""
    base, folder = tiny_masked(kind), str(tiny_folder(kind))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    adapter = asking(base, SPLIT, fixed=fixed)
    sizes = set()
    for text, found_C in zip(TEXTS, scores(base, adapter), strict=True):
        for word, found in zip(SPLIT, found_C, strict=True):
            first = len(tokenizer("a", add_special_tokens=False)["input_ids"])
            ids = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][first:]
            sizes.add(len(ids))
            whole = (fixed + ROW).replace("{text}", text).replace("[MASK]", str(tokenizer.mask_token) * len(ids))
            batch = tokenizer(whole, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                log_probs = model(**batch).logits[0].log_softmax(-1)
            at = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
            expected = sum(float(log_probs[a, i]) for a, i in zip(at, ids, strict=True)) / len(ids)
            assert float(found) == pytest.approx(expected, abs=1e-5)
    assert len(sizes) > 1


def test_logits_are_scores(tiny_masked: GetMasked) -> None:
    """Of an adapter: of several words their mean, times the scale."""
    base = tiny_masked("masked-bert")
    adapter = asking(base, SPLIT)
    found_BC = scores(base, adapter)
    verbalizer = Verbalizer(phrases=((SPLIT[0], SPLIT[1]), (SPLIT[2],)), scale=2.0)
    paired = replace(adapter, labels=("a", "b"), verbalizer=verbalizer)
    logits = torch.stack(base.logits(tiny.rows(paired, base.encode_for(tiny.as_examples(TEXTS), paired))))
    expected = 2 * torch.stack([found_BC[:, :2].mean(1), found_BC[:, 2]], 1)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
