"""Texts as the answer of tiny decoders: the loss is transformers', every method learns to write, and laws hold."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.inference import FeatureStore, answer, answer_losses, writer
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Method
from tunewright.methods.table import METHODS
from tunewright.prompts.template import Prompt
from tunewright.runtime import generator
from tunewright.training.batching import epoch_batches
from tunewright.training.objective import TextExam, Writing, objective
from tunewright.tuning.attempt import Outcome, Workshop, attempt, prepare
from tunewright.types import Example, Params, Task

GetDecoder = Callable[[str], Decoder]

TASK = Task(name="echo", labels=(), descriptions={}, metric="rouge-l", kind="generate")
PAIRS = {"bread": "apple salt", "cheese": "cake", "rice": "dinner rice", "soup": "salt"}
"""Four rows to learn by heart."""
DOCUMENTS = ("apple cake", "salt")

WRITING = {name: method for name, method in METHODS.items() if "generate" in method.kinds}
TRAINED = [name for name, method in WRITING.items() if method.family != "no training"]


def rows(count: int) -> list[Example]:
    pairs = list(PAIRS.items())
    return [
        Example(id=f"t:{k}", text=text, target=target, references=(target,))
        for k, (text, target) in enumerate(pairs[k % len(pairs)] for k in range(count))
    ]


def workshop(base: Decoder, num_train: int = 16) -> Workshop:
    prompt = Prompt(fixed="", row="{text} so")
    shop = prepare(TASK, base, rows(num_train), rows(4), METRICS["rouge-l"], base.max_tokens, prompt=prompt)
    return replace(shop, material=replace(shop.material, documents=DOCUMENTS))


def last(method: Method, shop: Workshop) -> Params:
    """The last option of each choice: the short ones."""
    space = method.space(shop.material).items()
    return {name: each.options[-1] if isinstance(each, Choice) else each.default for name, each in space}


def fit(method: Method, shop: Workshop, **params: float) -> Outcome:
    return attempt(method, {**last(method, shop), **params}, shop, generator("writing"), lambda *_: None)


@pytest.fixture(scope="module")
def base(tiny_decoder: GetDecoder) -> Decoder:
    return tiny_decoder("llama")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_loss_is_transformers(kind: str, tiny_decoder: GetDecoder, tiny_folder: Callable[[str], Path]) -> None:
    """Summed over the tokens of the targets alone, each given its input and what stands before it."""
    base, shop = tiny_decoder(kind), workshop(tiny_decoder(kind))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    adapter = METHODS["zero-shot"].place(shop.material, {"template": "input-output"}, generator("x"))
    assert adapter.template is not None
    examples = rows(3)
    encodings = base.encode_for(examples, adapter)
    answers = [base.encode_answer(str(e.target), after=adapter.template.row, ends=True) for e in examples]
    found = answer_losses(adapter, encodings, answers, shop.material.store)
    for example, encoding, ids, loss in zip(examples, encodings, answers, found, strict=True):
        text = base.token_ids(f"Input: {example.text}\nOutput:")
        assert list(encoding.ids)[-len(text) :] == text
        labels = torch.tensor([[*[-100] * len(encoding.ids), *ids]])
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([[*encoding.ids, *ids]]), labels=labels).loss
        assert loss == pytest.approx(float(mean) * len(ids), rel=1e-4)
        assert ids[-1] in base.end_ids


def test_a_step_is_divided_by_its_tokens(base: Decoder) -> None:
    shop = workshop(base)
    adapter = METHODS["full"].place(shop.material, {}, generator("x"))
    assert isinstance(shop.exam, TextExam)
    dropout = Dropout(share=0.0, generator=torch.Generator())
    aim = objective(adapter, shop.material.rows, shop.exam, shop.material.store, dropout, balanced=False)
    assert isinstance(aim, Writing)
    answers = shop.material.rows.answers
    assert aim.count([0, 3]) == len(answers[0]) + len(answers[3])
    assert aim.lengths[0] == len(shop.material.rows.encodings[0].ids) + len(answers[0])
    whole = float(aim.loss([0, 1, 2]))
    assert whole == pytest.approx(sum(float(aim.loss([k])) for k in range(3)), rel=1e-5)


@pytest.mark.parametrize(("name", "lr", "least"), [("full", 5e-3, 0.95), ("lora", 1e-2, 0.5), ("prefix", 0.3, 0.0)])
def test_rows_are_learned_by_heart(name: str, lr: float, least: float, base: Decoder) -> None:
    """A random decoder comes to write the targets and to stop where they end; a prefix alone makes them likelier."""
    outcome = fit(METHODS[name], workshop(base, 64), lr=lr, epochs=25, patience=25)
    scores, best = outcome.trained.scores, outcome.trained.best
    assert best is not None
    assert best.value >= least
    assert min(score.loss for score in scores) < 0.8 * scores[0].loss
    if name == "full":
        given = answer(outcome.trained.adapter, rows(4), FeatureStore(base))
        assert [each.text for each in given] == list(PAIRS.values())


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_what_it_says(name: str, base: Decoder) -> None:
    shop = workshop(base)
    outcome = fit(METHODS[name], shop, epochs=2)
    start = METHODS[name].place(shop.material, last(METHODS[name], shop), generator("writing"))
    adapter, begun = outcome.trained.adapter, start.tensors()
    assert adapter.head is None
    assert adapter.decoding is not None
    changed = {
        n.split(".")[0] for n, tensor in adapter.tensors().items() if not torch.equal(tensor, begun.get(n, -tensor))
    }
    parts = {
        "full": {"weights"}, "gradual-unfreezing": {"weights"}, "p-tuning": {"soft_prompt"},
        "soft-prompt": {"soft_prompt"}, "instruction-prompt": {"soft_prompt"}, "combine": {"lora", "soft_prompt"},
    }  # fmt: skip
    assert changed == parts.get(name, {name})
    assert outcome.trainable > 0
    assert outcome.trained.num_tokens > 0
    assert all(torch.isfinite(tensor).all() for tensor in adapter.tensors().values())
    losses = [score.loss for score in outcome.trained.scores]
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("name", WRITING)
def test_saved_loaded_and_answered_alone(name: str, base: Decoder, tmp_path: Path) -> None:
    """The same texts from disk, in any order, one row at a time."""
    adapter = fit(METHODS[name], workshop(base), epochs=2).trained.adapter
    store = FeatureStore(base)
    together = [each.text for each in answer(adapter, rows(4), store)]
    folder.save(adapter, tmp_path / "a")
    loaded = folder.load(tmp_path / "a")
    base.check(loaded)
    assert [each.text for each in answer(loaded, rows(4), store)] == together
    assert [answer(loaded, [row], store)[0].text for row in rows(4)] == together
    assert [each.text for each in answer(loaded, rows(4)[::-1], store)] == together[::-1]


def test_demonstrations_are_training_rows_that_fit(base: Decoder) -> None:
    shop = workshop(base)
    adapter = METHODS["few-shot"].place(
        shop.material, {"shots": 16, "template": "plain", "choice": "random"}, generator("x")
    )
    assert adapter.template is not None
    shown = [part.split("\n") for part in adapter.template.fixed.strip().split("\n\n")]
    assert 1 <= len(shown) <= 4
    assert len({text for text, _ in shown}) == len(shown)
    assert all(PAIRS[text] == target for text, target in shown)
    assert len(base.token_ids(adapter.template.fixed)) < 0.6 * base.max_tokens  # half, counted one by one
    base.encode_for(rows(4), adapter)


def test_decoding_follows_the_targets(base: Decoder) -> None:
    """As many tokens as nearly all training targets have, and a line ends where they have one."""
    shop = workshop(base)
    decoding = _written(shop).decoding
    assert decoding is not None
    assert decoding.max_new_tokens == max(map(len, shop.material.rows.answers))
    assert (decoding.temperature, decoding.stop) == (0.0, ("\n",))
    lines = [replace(row, target="a\nb") for row in rows(4)]
    two = prepare(TASK, base, lines, lines, METRICS["rouge-l"], base.max_tokens)
    found = _written(two).decoding
    assert found is not None
    assert found.stop == ()


def _written(shop: Workshop) -> Adapter:
    return METHODS["zero-shot"].place(shop.material, {"template": "plain"}, generator("x"))


def test_an_encoder_writes_nothing(tiny_encoder: Callable[[str], Encoder]) -> None:
    encoder = tiny_encoder("bert")
    reasons = {name: method.refusal(encoder, TASK) for name, method in METHODS.items()}
    assert {name for name, reason in reasons.items() if reason is None} == {"copy-input", "nearest-target"}
    assert "writes no text; give a decoder with --model" in str(reasons["lora"])
    assert reasons["linear-probe"] == "it chooses labels, not texts"
    with pytest.raises(AssertionError):
        writer(encoder)


def test_rows_of_adapters_that_write_share_a_pass(base: Decoder) -> None:
    """Different templates, prompts and updates in one batch write what each writes alone."""
    shop = workshop(base)
    adapters = [fit(METHODS[name], shop, epochs=1).trained.adapter for name in ("soft-prompt", "lora", "few-shot")]
    examples = rows(3)
    mixed = [Row(encoding=base.encode_for([e], a)[0], adapter=a) for e, a in zip(examples, adapters, strict=True)]
    found = [each.text.strip() for each in base.generate(mixed)]
    store = FeatureStore(base)
    assert found == [answer(a, [e], store)[0].text for a, e in zip(adapters, examples, strict=True)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_full_against_a_plain_loop(kind: str, tiny_decoder: GetDecoder, tiny_folder: Callable[[str], Path]) -> None:
    """Six steps leave the weights that transformers' own forward and torch's own AdamW leave on the same batches.

    A head of its own stands still, and so do rows of the embeddings that no training text has, tied or not.
    """
    base = tiny_decoder(kind)
    shop = workshop(base, 12)
    params = {"lr": 1e-3, "epochs": 2, "batch_size": 4, "weight_decay": 0.1}
    trained = attempt(METHODS["full"], params, shop, generator("plain"), lambda *_: None).trained
    assert trained.best is not None
    assert trained.adapter.weights is not None
    found, ids_V = trained.adapter.weights.values, trained.adapter.weights.vocabulary_ids_V
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    table = model.get_input_embeddings().weight
    is_seen_V = torch.zeros(len(table), 1).index_fill(0, ids_V, 1.0)
    table.register_hook(lambda gradient: gradient * is_seen_V)
    mine = {n: p for n, p in model.named_parameters() if not n.startswith("lm_head")}
    is_decayed = {n: p.ndim == 2 and not re.search("embed|wte|wpe", n) for n, p in mine.items()}
    groups = [{"params": [p for n, p in mine.items() if is_decayed[n] == d], "weight_decay": 0.1 * d} for d in (1, 0)]
    oracle, examples = torch.optim.AdamW(groups), rows(12)
    answers = [base.encode_answer(str(e.target), after="\n", ends=True) for e in examples]
    asked = [e.ids for e in base.encode_for(examples, trained.adapter)]
    assert {i for ids in (*asked, *answers) for i in ids} <= set(ids_V.tolist()), "the words around a row train too"
    rng = generator("plain")
    rng.integers(2**63)  # the seed of dropout
    lengths = [len(ids) + len(answer) for ids, answer in zip(asked, answers, strict=True)]
    for step, batch in enumerate(b for _ in range(trained.best.epoch) for b in epoch_batches(lengths, 4, rng)):
        for group in oracle.param_groups:
            group["lr"] = 1e-3 * min(1.0, (6 - step) / 5)
        sums = [_loss(model, asked[k], answers[k]) for k in batch]
        oracle.zero_grad()
        (torch.stack(sums).sum() / sum(len(answers[k]) for k in batch)).backward()
        torch.nn.utils.clip_grad_norm_(mine.values(), 1.0)
        oracle.step()
    assert len(found) == len(mine)
    for name, parameter in mine.items():
        own = re.sub("^(transformer|model)[.]", "", name)
        expected = parameter.detach()[ids_V] if own == base.vocabulary_name else parameter.detach()
        begun = base.masters()[own]
        assert not torch.equal(found[own], begun[ids_V] if own == base.vocabulary_name else begun), name
        # A key's bias has no gradient but rounding, of which Adam takes the sign.
        if not name.endswith("c_attn.bias"):
            theirs = expected.T if re.search("c_[a-z]+.weight", name) else expected  # GPT-2 keeps its maps transposed
            torch.testing.assert_close(found[own], theirs, atol=5e-5, rtol=1e-3, msg=name)


def _loss(model: transformers.PreTrainedModel, ids: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    labels = torch.tensor([[*[-100] * len(ids), *answer]])
    mean: torch.Tensor = model(input_ids=torch.tensor([[*ids, *answer]]), labels=labels).loss
    return mean * len(answer)
