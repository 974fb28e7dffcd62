"""What real adapters of every method cost: their order, what is billed once, and how long a request takes."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.evaluation.cost import Prices
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.tuning.attempt import Workshop, prepare
from tunewright.tuning.price import extra_tokens, latency, model

EPOCHS = 5


@pytest.fixture(scope="module")
def workshop(tiny_encoder: Callable[[str], Encoder]) -> Workshop:
    rows = tiny.examples(60)
    return prepare(tiny.task(), tiny_encoder("bert"), rows[:40], rows[40:], METRICS["accuracy"], 32)


def place(name: str, workshop: Workshop) -> Adapter:
    """A method's start with the defaults of its space."""
    material, method = workshop.material, METHODS[name]
    params = {key: value.default for key, value in method.space(material).items()}
    return method.place(material, params, generator(0, name))


def num_tokens(adapter: Adapter, workshop: Workshop) -> int:
    """Of a training of some epochs, virtual ones included."""
    return EPOCHS * sum(len(e.ids) + adapter.prefix_tokens for e in workshop.material.rows.encodings)


@pytest.fixture(scope="module")
def real_shape(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A random base of the shape of the embedded one, and texts of some 30 tokens."""
    folder = Path(shutil.copytree(tiny_folder("bert"), tmp_path_factory.mktemp("shape") / "base"))
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = transformers.AutoConfig.from_pretrained(folder, **shape)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    rows = [dataclasses.replace(row, text=f"{row.text} " * 4) for row in tiny.examples(36)]
    return prepare(tiny.task(), tiny.encoder(folder), rows[:30], rows[30:], METRICS["accuracy"], 60)


def test_the_order_of_the_methods(real_shape: Workshop) -> None:
    """As documented: the base alone, what adds to each token, what adds tokens, a base of one's own."""
    found = {}
    base = real_shape.material.backbone
    for name in (name for name, method in METHODS.items() if method.refuses(base) is None):
        adapter = place(name, real_shape)
        trained = 0 if METHODS[name].family == "no training" else num_tokens(adapter, real_shape)
        found[name] = model(adapter, real_shape, num_tokens=trained).price(Prices())
    order = ["majority", "zero-shot", "linear-probe", "few-shot", "prefix", "lora", "soft-prompt", "full"]
    assert sorted(order, key=lambda name: found[name]) == order, found
    assert len({found[name] for name in order}) == len(order)
    assert found["gradual-unfreezing"] == pytest.approx(found["full"], rel=0.05)
    pool = place("few-shot", real_shape).demonstrations
    assert pool is not None
    large = dataclasses.replace(pool, vectors_ND=pool.vectors_ND.repeat(100, 1), texts=pool.texts * 100)
    dear = dataclasses.replace(place("few-shot", real_shape), demonstrations=large)
    assert model(dear, real_shape, num_tokens=0).price(Prices()) > found["prefix"], "3,000 rows in the pool"


def test_features_of_the_bare_base_are_billed_once(workshop: Workshop) -> None:
    """By hand: a probe pays one pass of the base, and its head by the row; more epochs cost the head alone."""
    adapter = place("linear-probe", workshop)
    assert adapter.head is not None
    encodings = workshop.material.rows.encodings
    row_tokens = sum(len(e.ids) for e in encodings)
    head = adapter.head.weight_CD.numel() + adapter.head.bias_C.numel()
    computing = workshop.material.backbone.num_computing
    found = model(adapter, workshop, num_tokens=row_tokens * EPOCHS, num_tuning_tokens=row_tokens * 100)
    assert found.training_flops == pytest.approx(2 * computing * row_tokens + 6 * head * len(encodings) * EPOCHS)
    assert found.tuning_flops == pytest.approx(6 * head * len(encodings) * 100)


@pytest.mark.parametrize(("name", "flops_per_parameter"), [("lora", 4), ("soft-prompt", 4), ("prefix", 4), ("full", 6)])
def test_what_changes_the_base_is_billed_by_the_token(name: str, flops_per_parameter: int, workshop: Workshop) -> None:
    adapter = place(name, workshop)
    parts = [part for part in (adapter.lora, adapter.prefix, adapter.head) if part is not None]
    own = sum(tensor.numel() for part in parts for tensor in part.tensors().values())
    parameters = workshop.material.backbone.num_computing + own
    found = model(adapter, workshop, num_tokens=700, num_tuning_tokens=9_000)
    assert found.training_flops == pytest.approx(flops_per_parameter * parameters * 700, rel=1e-12)
    assert found.tuning_flops == pytest.approx(flops_per_parameter * parameters * 9_000, rel=1e-12)


def test_ownership_is_all_of_it(workshop: Workshop) -> None:
    prices = Prices(usd_per_petaflop=3.0, usd_per_gigabyte_month=4.0, requests_per_month=1_000, months=5)
    found = model(place("lora", workshop), workshop, num_tokens=700, num_tuning_tokens=9_000)
    operations = found.tuning_flops + found.training_flops + found.serving_flops * 1_000 * 5
    expected = operations / 1e15 * 3.0 + found.held_bytes / 1e9 * 4.0 * 5
    assert found.ownership(prices) == pytest.approx(expected, rel=1e-12)
    assert found.ownership(prices) > found.price(prices) * 1_000 * 5 / 1000


def test_requests_are_timed_one_by_one_and_in_batches(workshop: Workshop) -> None:
    found = latency(place("lora", workshop), workshop.dev_examples, workshop)
    assert tuple(each.batch for each in found) == (1, 32)
    for each in found:
        assert 0 < each.p50_ms <= each.p95_ms


def test_timing_is_bounded(workshop: Workshop) -> None:
    assert latency(place("lora", workshop), workshop.dev_examples, workshop, allowed_s=0.0) == ()


def test_what_stands_before_each_text_of_a_decoder_runs_once(tiny_decoder: Callable[[str], Decoder]) -> None:
    """A request of a soft prompt, an instruction or a deep prefix of as many positions costs the same: only the words
    around the row run. Its keys and values are held."""
    base, rows = tiny_decoder("llama"), tiny.examples(30)
    shop = prepare(tiny.task(), base, rows[:20], rows[20:], METRICS["accuracy"], 64)
    plain = tiny.adapter(base, head=tiny.head(base, 1))
    template = Template(fixed="good bread: food\nold song: music\n\n", row="the {text} was")
    asking = dataclasses.replace(plain, template=template)
    fixed, around = len(base.token_ids(template.fixed)), len(base.token_ids("the  was"))
    prompted = dataclasses.replace(plain, soft_prompt=tiny.soft_prompt(base, fixed, seed=1))
    prefixed = dataclasses.replace(plain, prefix=tiny.prefix(base, fixed, seed=1))
    adapters = (plain, asking, prompted, prefixed)
    assert [extra_tokens(each, base) for each in adapters] == [0, fixed + around, fixed, 0]
    bare, asked, *others = (model(each, shop, num_tokens=0) for each in adapters)
    tokens = sum(len(e.ids) for e in shop.material.rows.encodings) / 20
    assert others[0].serving_flops == others[1].serving_flops > bare.serving_flops
    assert asked.serving_flops == pytest.approx(others[0].serving_flops * (tokens + around) / tokens)
    own_bytes = [each.num_bytes() for each in adapters]
    kept_bytes = [found.held_bytes - own for found, own in zip((bare, asked, *others), own_bytes, strict=True)]
    assert kept_bytes == [0, *[fixed * 2 * base.num_layers * base.prefix_shape[1] * base.prefix_shape[2] * 4] * 2, 0]


@pytest.mark.parametrize("words", [("new bread", "old song", "old bus"), ("food", "music", "travel")])
def test_labels_words_are_billed_as_they_run(words: tuple[str, ...], tiny_decoder: Callable[[str], Decoder]) -> None:
    """What a candidate's words add to a request, against torch's count of it; attention to tokens is not modelled."""
    base, rows = tiny_decoder("llama"), tuple(tiny.examples(12))
    shop = prepare(tiny.task(), base, rows, rows, METRICS["accuracy"], 64)
    template = Template(fixed="", row="{text}:")
    phrases = Verbalizer(phrases=tuple((each,) for each in words), scale=1.0)
    scored = dataclasses.replace(tiny.adapter(base, template=template, verbalizer=phrases), head=None)
    headed = tiny.adapter(base, template=template)
    counts = []
    for adapter in (scored, headed):
        inputs = [Row(encoding=e, adapter=adapter) for e in base.encode_for(rows, adapter)]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            base.readings(inputs)
        counts.append(counter.get_flop_counts()["Global"][torch.ops.aten.mm] / len(rows))
    modelled = [model(each, shop, num_tokens=0).serving_flops for each in (scored, headed)]
    assert counts[0] > 1.3 * counts[1]
    assert modelled[0] - modelled[1] == pytest.approx(counts[0] - counts[1], rel=0.02)


def test_each_stack_is_billed_for_what_runs_through_it(tiny_backbone: Callable[[str], Backbone]) -> None:
    """By hand, of T5: a head reads the encoder alone; words make the decoder run over their tree, and the encoder's
    tokens through the decoder's keys and values of it."""
    base, rows = tiny_backbone("t5"), tiny.examples(20)
    shop = prepare(tiny.task(), base, rows, rows[:5], METRICS["accuracy"], 64)
    read = sum(len(e.ids) for e in shop.material.rows.encodings) / 20
    width, inner, hidden, vocabulary = 32, 40, 48, len(base.word_embeddings)
    encoder = 3 * (4 * width * inner + 2 * width * hidden + 2 * width)
    crossing, decoder = 2 * 2 * width * inner, 2 * (8 * width * inner + 2 * width * hidden + 3 * width)
    probe = place("linear-probe", shop)
    assert model(probe, shop, num_tokens=0).serving_flops == pytest.approx(2 * (encoder + 3 * width + 3) * read)
    lora = place("lora", shop)
    factors = 8 * 3 * (4 * (width + inner) + 2 * (width + hidden))
    assert model(lora, shop, num_tokens=0).serving_flops == pytest.approx(
        2 * (encoder + factors + 3 * width + 3) * read
    )
    asked = dataclasses.replace(place("zero-shot", shop), calibration=None)
    words = [base.encode_answer(label) for label in tiny.GROUPS]
    states = 1 + len({ids[:k] for ids in words for k in range(1, len(ids))})
    read += extra_tokens(asked, base)
    expected = (encoder + crossing) * read + (decoder - crossing) * states + states * vocabulary * width
    assert model(asked, shop, num_tokens=0).serving_flops == pytest.approx(2 * expected)
