"""Masked language models: everything an encoder does, and answers in the place of a mask in any company."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from tests import tiny
from tests.parity.test_masked import ROW, SPLIT, TEXTS, WORDS, asking
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template
from tunewright.backbones.base import Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.masked import Masked
from tunewright.errors import AdapterError, ConfigError

GetMasked = Callable[[str], Masked]
GetFolder = Callable[[str], Path]


def test_opens_as_what_its_configuration_says(tiny_folder: GetFolder, tiny_masked: GetMasked, tmp_path: Path) -> None:
    """The same weights without the head are an encoder with the same features, and another base."""
    folder = tiny_folder("masked-bert")
    whole = tiny.backbone(folder)
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    bare = tiny.backbone(tmp_path)
    assert (type(whole), type(bare)) == (Masked, Encoder)
    assert (whole.answers_prompts, whole.writes, bare.answers_prompts) == (True, False, False)
    assert whole.identity.sha256 != bare.identity.sha256
    ours, its = (b.features(tiny.rows(tiny.adapter(b), tiny.encodings(b, TEXTS))) for b in (whole, bare))
    assert torch.equal(ours, its)
    with pytest.raises(AdapterError, match=r"does not answer prompts and cannot carry a template. Use a decoder, or a"):
        bare.check(replace(asking(tiny_masked("masked-bert"), WORDS), base=bare.identity))


def test_without_its_head_it_is_an_encoder(tiny_folder: GetFolder, tmp_path: Path) -> None:
    """The configuration promises a head that the files lack: it is not made up."""
    folder = tiny_folder("masked-bert")
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"BertModel"', '"BertForMaskedLM"'), encoding="utf-8")
    base = tiny.masked(tmp_path)
    assert (load_checkpoint(str(tmp_path)).head, base.identity.kind, base.answers_prompts) == (None, "masked", False)


@pytest.mark.parametrize("kind", ["masked-roberta", "masked-electra"])
def test_mixed_with_everything(kind: str, tiny_masked: GetMasked) -> None:
    """Rows under templates with every part, and rows with heads alone: together as one by one."""
    base = tiny_masked(kind)
    words = asking(base, SPLIT)
    width = base.feature_width(words)
    head = replace(tiny.head(base, 4), weight_CD=tiny.normal(4, 3, width))
    made = [
        words,
        asking(base, WORDS[:3], row="so {text}, [MASK]", fixed="soup food\n"),
        replace(words, soft_prompt=tiny.soft_prompt(base, 3, seed=1)),
        replace(words, prefix=tiny.prefix(base, 4, seed=2)),
        replace(words, lora=tiny.lora(base, 2, seed=9), soft_prompt=tiny.soft_prompt(base, 5, seed=2)),
        replace(words, weights=tiny.weights(base, 300, [3, 9, 40])),
        replace(words, verbalizer=None, head=head),
        replace(words, head=head),
        tiny.adapter(base),
        tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 2, seed=4)),
    ]
    for adapter in made:
        base.check(adapter)
    rows = [Row(encoding=base.encode_for(tiny.as_examples([t]), a)[0], adapter=a) for t in TEXTS for a in made]
    together, each = torch.stack(base.logits(rows)), torch.stack([base.logits([row])[0] for row in rows])
    torch.testing.assert_close(together, each, atol=1e-5, rtol=1e-5)
    assert (torch.pdist(together) > 1e-4).all()


def test_word_embeddings_of_an_adapter_are_its_words(tiny_masked: GetMasked) -> None:
    """The head shares them with the base, and so with an adapter's own weights."""
    base = tiny_masked("masked-bert")
    adapter = asking(base, WORDS, row="it was {text} and my [MASK]")
    ids = [ids[0] for ids in base.phrase_ids(adapter)]
    weights = tiny.weights(base, 300, [ids[0]])
    others = {name: base.masters()[name] for name in weights.values if name != weights.vocabulary}
    moved = replace(weights, values={**weights.values, **others})
    before, after = (
        torch.stack(base.logits(tiny.rows(a, base.encode_for(tiny.as_examples(["soup"]), a))))[0]
        for a in (adapter, replace(adapter, weights=moved))
    )
    changed = (before - before[1]) - (after - after[1])
    assert changed[0].abs() > 1e-3
    assert changed[1:].abs().max() < 1e-5


def test_a_row_cannot_bring_a_mask(tiny_masked: GetMasked) -> None:
    """Neither a text nor a demonstration has a place for the answer but the template's."""
    for kind in ("masked-bert", "masked-roberta"):
        base = tiny_masked(kind)
        mask = "[MASK]" if kind == "masked-bert" else "<mask>"
        adapter = asking(base, SPLIT, fixed=f"soup {mask} food\n")
        (encoding,) = base.encode_for(tiny.as_examples([f"so {mask} and {mask}"]), adapter)
        before, *after = str(base._checkpoint.tokenizer.decode(list(encoding.ids))).split(mask)
        assert [each.strip()[:14] for each in after] == ["with the train"]
        assert "soup mask food" in before.lower()


def test_texts_are_cut_and_words_fit(tiny_masked: GetMasked) -> None:
    """With as many masks as the longest word has tokens, a row is as long as the base allows."""
    base = tiny_masked("masked-roberta")
    adapter = replace(asking(base, SPLIT, fixed="soup food\n"), soft_prompt=tiny.soft_prompt(base, 3, seed=1))
    masks = max(map(len, base.phrase_ids(adapter)))
    assert masks > 2
    (long, short) = base.encode_for(tiny.as_examples(["bread " * 100, "bread"]), adapter)
    assert 0 <= base.max_tokens - 3 - (masks - 1) - len(long.ids) <= 1
    assert (long.num_cut > 50, short.num_cut) == (True, 0)
    for encoding in (long, short):
        assert (encoding.ids[0], encoding.ids[-1]) == (0, 2)
        text = str(base._checkpoint.tokenizer.decode(list(encoding.ids)))
        assert "soup food" in text
        assert text.endswith("and my<mask> with the train</s>")
    torch.stack(base.logits(tiny.rows(adapter, [long, short])))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{text} was", r"must have one \[MASK\], where the answer stands. Got 0. Write it"),
        ("[MASK] {text} [MASK]", r"must have one \[MASK\].* Got 2."),
        ("so " * 70 + "{text} [MASK]", r"the template leaves no room for a text: 0 tokens before the row, \d+ around"),
        ("so " * 46 + "{text} [MASK]", r"around its text and 14 of the answer, in a context of 64 tokens"),
    ],
)
def test_templates_that_cannot_be_asked(row: str, said: str, tiny_masked: GetMasked) -> None:
    base = tiny_masked("masked-bert")
    words = ("bread", "qwertyuiopasdfg") if "answer, in" in said else WORDS
    with pytest.raises(ConfigError, match=said):
        base.encode_for(tiny.as_examples(["soup"]), asking(base, words, row=row))


def test_the_space_before_a_word(tiny_masked: GetMasked) -> None:
    """As the template has it; a tokenizer that marks no spaces does not care."""
    roberta, bert = tiny_masked("masked-roberta"), tiny_masked("masked-bert")
    tokenizer = roberta._checkpoint.tokenizer
    spaced, bare = (
        tokenizer.convert_ids_to_tokens(list(roberta.encode_answer("the", after=r))) for r in (ROW, "([MASK]")
    )
    assert spaced == ["\u0120the"]
    assert "".join(bare).lstrip("\u0120") == "the"
    assert bert.encode_answer("the", after=ROW) == bert.encode_answer("the", after="([MASK]")


def test_gradients_reach_every_part(tiny_masked: GetMasked) -> None:
    """Through masks and words, against differences of the loss."""
    base = tiny_masked("masked-bert")
    made = asking(base, SPLIT)
    made = replace(made, soft_prompt=tiny.soft_prompt(base, 2, seed=1), prefix=tiny.prefix(base, 2, seed=3))
    rows = base.encode_for(tiny.as_examples(TEXTS), made)

    def loss(adapter: Adapter) -> torch.Tensor:
        return torch.stack(base.logits(tiny.rows(adapter, rows))).log_softmax(-1)[:, 0].sum()

    start = made.tensors()
    live = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    loss(made.with_tensors(live)).backward()
    for seed, (name, tensor) in enumerate(live.items()):
        assert tensor.grad is not None
        step = tiny.normal(seed, *tensor.shape)
        with torch.no_grad():
            up, down = (loss(made.with_tensors({**start, name: start[name] + s * 1e-2 * step})) for s in (1, -1))
        assert float((tensor.grad * step).sum()) == pytest.approx(float(up - down) / 2e-2, rel=0.02, abs=1e-3)


def test_a_template_without_text_around_it(tiny_masked: GetMasked) -> None:
    """A mask may stand before the text too, in a line of its own."""
    base = tiny_masked("masked-bert")
    adapter = replace(asking(base, WORDS), template=Template(fixed="", row="[MASK]\n{text}"))
    (encoding,) = base.encode_for(tiny.as_examples(["soup"]), adapter)
    assert base.words(encoding.ids) == ["[CLS]", "[MASK]", "soup", "[SEP]"]
