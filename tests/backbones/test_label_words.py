"""Labels by how likely their words are: against transformers, in training, and what cannot be asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from tests import tiny
from tests.backbones.test_scoring import alone, live, whole_model
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Template, Verbalizer
from tunewright.backbones.base import Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, answer, predict
from tunewright.errors import AdapterError, ConfigError, ModelError
from tunewright.runtime import generator
from tunewright.training.loop import Settings, train
from tunewright.training.loss import cross_entropy
from tunewright.training.objective import Exam, Rows
from tunewright.types import Example

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]

TEMPLATE = Template(fixed="we had one\n", row="it: {text}\nwas")
LONG = Verbalizer(phrases=(("good bread", "soup"), ("a train",), ("song and drum", "choir")), scale=2.0)
SHORT = Verbalizer(phrases=(("the", "we"), ("my",), ("old",)), scale=1.0)


def asking(base: Decoder, verbalizer: Verbalizer, **parts: object) -> Adapter:
    """Answers by words alone."""
    found = tiny.adapter(base, template=TEMPLATE, verbalizer=verbalizer, **parts)  # type: ignore[arg-type]
    return replace(found, head=None)


def rows_of(base: Decoder, adapter: Adapter, texts: list[str]) -> list[Row]:
    return tiny.rows(adapter, base.encode_for(tiny.as_examples(texts), adapter))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom"])
@pytest.mark.parametrize("verbalizer", [LONG, SHORT], ids=["phrases", "tokens"])
def test_logits_are_mean_log_probabilities(
    kind: str, verbalizer: Verbalizer, tiny_decoder: GetDecoder, tiny_folder: GetFolder
) -> None:
    """Of several phrases their mean; what is the same for all labels of a row does not count."""
    base, model = tiny_decoder(kind), whole_model(tiny_folder(kind))
    adapter = asking(base, verbalizer, soft_prompt=tiny.soft_prompt(base, 3, seed=1))
    rows = rows_of(base, adapter, ["soup", "a train was near the road", "violin!"])
    sizes = {len(ids) for ids in base.phrase_ids(adapter)}
    assert (sizes == {1}) == (verbalizer is SHORT)
    means = torch.tensor(
        [
            [
                sum(alone(model, base, row, base.encode_answer(p)).mean().item() for p in group) / len(group)
                for group in verbalizer.phrases
            ]
            for row in rows
        ]
    )
    found = torch.stack(base.logits(rows))
    expected = verbalizer.scale * means
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=3e-5, rtol=1e-5)


def test_mixed_with_heads(tiny_decoder: GetDecoder) -> None:
    """Rows that score words, rows with heads and rows with both, in one batch and alone."""
    base = tiny_decoder("qwen3")
    made = [
        asking(base, LONG),
        asking(base, SHORT, lora=tiny.lora(base, 2, seed=9)),
        tiny.adapter(base),
        replace(asking(base, LONG), head=tiny.head(base, 4)),
        asking(base, LONG, weights=tiny.weights(base, 300, [3, 9])),
    ]
    texts = ["soup", "a train was near the road"]
    rows = [Row(encoding=base.encode_for(tiny.as_examples([t]), a)[0], adapter=a) for t in texts for a in made]
    together, each = torch.stack(base.logits(rows)), torch.stack([base.logits([row])[0] for row in rows])
    torch.testing.assert_close(together, each, atol=1e-5, rtol=1e-5)
    assert (torch.pdist(together) > 1e-3).all()


@pytest.mark.parametrize("verbalizer", [LONG, SHORT], ids=["phrases", "tokens"])
def test_training_teaches_words(verbalizer: Verbalizer, tiny_decoder: GetDecoder) -> None:
    """The loop that trains heads trains a soft prompt under a verbalizer, through a fixed text."""
    base = tiny_decoder("llama")
    adapter = asking(base, verbalizer, soft_prompt=tiny.soft_prompt(base, 5, seed=1))
    examples = tiny.examples(12)
    labels_N = torch.tensor([tiny.task().labels.index(str(e.label)) for e in examples])
    rows = Rows(encodings=base.encode_for(examples, adapter), labels_N=labels_N)
    exam = Exam(rows=rows, score=lambda logits, labels: -float(cross_entropy(logits, labels).total))
    store = FeatureStore(base)
    before = float(cross_entropy(predict(adapter, rows.encodings, store), labels_N).total)
    trained = train(
        adapter,
        lambda _: {"soft_prompt.vectors": 1.0},
        Settings(lr=0.05, epochs=6, batch_size=4),
        rows,
        exam,
        store=store,
        rng=generator("words"),
        observe=lambda *_: None,
    )
    after = float(cross_entropy(predict(trained.adapter, rows.encodings, store), labels_N).total)
    assert after < before - 1
    found = answer(trained.adapter, examples, store)
    logits_NC = predict(trained.adapter, rows.encodings, store)
    assert [p.label for p in found] == [adapter.labels[k] for k in logits_NC.argmax(-1).tolist()]


def test_gradients_of_phrases_and_of_answers_agree(tiny_decoder: GetDecoder) -> None:
    """The tree of candidates against each candidate as an answer of its own."""
    base = tiny_decoder("gemma3_text")
    adapter = live(asking(base, LONG, soft_prompt=tiny.soft_prompt(base, 3, seed=1)))
    rows = rows_of(base, adapter, ["soup", "a train was near the road"])
    candidates = base.phrase_ids(adapter)
    weights_BC = tiny.normal(5, len(rows), len(candidates))
    (vectors,) = adapter.tensors().values()
    (ours,) = torch.autograd.grad((base.scores(rows, candidates) * weights_BC).sum(), [vectors])
    apart = base.answer_log_probs([row for row in rows for _ in candidates], candidates * len(rows))
    means_BC = torch.stack([each.mean() for each in apart]).view_as(weights_BC)
    (theirs,) = torch.autograd.grad((means_BC * weights_BC).sum(), [vectors])
    torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def test_texts_are_cut_and_templates_are_not(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("llama")
    adapter = asking(base, LONG)
    (whole, short) = base.encode_for(tiny.as_examples(["bread " * 100, "bread"]), adapter)
    fixed, phrase = len(base.fixed_ids(TEMPLATE.fixed)), max(map(len, base.phrase_ids(adapter)))
    assert base.max_tokens - fixed - phrase - 1 <= len(whole.ids) <= base.max_tokens - fixed - phrase
    assert str(base.tokenizer.decode(list(whole.ids))).endswith("\nwas")
    assert base.tokenizer.decode(list(short.ids)) == " it: bread\nwas"
    assert (whole.num_cut > 50, short.num_cut) == (True, 0)
    pair = Example(id="1", text="bread " * 100, text_pair="old soup")
    (cut,) = base.encode_for([pair], replace(adapter, template=Template(fixed="", row="{text_pair}: {text} or")))
    text = base.tokenizer.decode(list(cut.ids), skip_special_tokens=True)
    assert (text[:10], text[-3:]) == (" old soup:", " or")
    (emoji,) = base.encode_for(tiny.as_examples(["\u266b" * 60]), adapter)
    assert emoji.num_cut > 0


def test_both_texts_of_a_pair_are_cut(tiny_decoder: GetDecoder) -> None:
    """Where both are too long, each keeps half of the room, to a token."""
    base = tiny_decoder("llama")
    template = Template(fixed="", row="{text} was {text_pair} or")
    pair = Example(id="1", text="bread " * 70, text_pair="bread " * 60)
    (cut,) = base.encode_for([pair], replace(asking(base, LONG), template=template))
    first, _, second = str(base.tokenizer.decode(list(cut.ids), skip_special_tokens=True)).partition(" was ")
    assert first.count("bread") + second.count("bread") > base.max_tokens // 2
    assert abs(first.count("bread") - second.count("bread")) <= 1


def test_template_longer_than_the_context(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("llama")
    long = replace(asking(base, LONG), template=replace(TEMPLATE, fixed="we had bread and soup\n" * 12))
    with pytest.raises(ConfigError, match=r"the template leaves no room for a text: \d+ tokens before the row.*of 64"):
        base.encode_for(tiny.as_examples(["soup"]), long)
    writer = replace(tiny.adapter(base), decoding=Decoding(max_new_tokens=64))
    with pytest.raises(ConfigError, match=r"64 of the answer"):
        base.encode_for(tiny.as_examples(["soup"]), writer)


def test_labels_with_the_same_words(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("llama")
    twice = replace(LONG, phrases=(("soup",), ("bread", "soup"), ("song",)))
    said = r"labels 'food' and 'travel' have the same words: 'soup'. Rename .*\(--descriptions"
    with pytest.raises(ConfigError, match=said):
        base.phrase_ids(asking(base, twice))


def test_template_on_an_encoder(tiny_encoder: Callable[[str], object], tiny_decoder: GetDecoder) -> None:
    encoder = tiny_encoder("bert")
    adapter = replace(asking(tiny_decoder("llama"), LONG), base=encoder.identity)  # type: ignore[attr-defined]
    with pytest.raises(AdapterError, match="does not answer prompts and cannot carry a template"):
        encoder.check(adapter)  # type: ignore[attr-defined]


def test_a_base_without_a_head_cannot_write(tiny_folder: GetFolder, tmp_path: Path) -> None:
    """It was saved without: its weights are not made up, and features are what they were."""
    folder = tiny_folder("llama")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    checkpoint = load_checkpoint(str(tmp_path))
    base, whole = Decoder(checkpoint, dtype=torch.float32, device=torch.device("cpu")), tiny.decoder(folder)
    assert (checkpoint.head, base.writes, whole.writes) == (None, False, True)
    found = tiny.encodings(base, ["soup"])
    ours, its = (b.features(tiny.rows(tiny.adapter(b), found)) for b in (base, whole))
    assert torch.equal(ours, its)
    with pytest.raises(ModelError, match=r"has no language model's head \(lm_head\)"):
        base.answer_log_probs(tiny.rows(tiny.adapter(base), found), [(5, 6)])
