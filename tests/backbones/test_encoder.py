"""One batch of any mixture gives each row what it gets alone; and no part of an adapter is silently ignored."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Calibration, Verbalizer
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.encoder import Encoder
from tunewright.errors import AdapterError

GetEncoder = Callable[[str], Encoder]
GetFolder = Callable[[str], Path]

TEXTS = [
    "soup",
    "the train was late and my luggage is in the airport",
    "a piano",
    "we had bread with cheese and some good old apple cake for dinner near the bridge",
    "violin melody!",
    "map of the road",
]
ALONE = 1e-5
"""fp32: largest difference of a logit from the same row alone. Logits are of the order of 1."""

ALONE_BF16 = 0.1
"""bf16 has 8 bits of mantissa: 2**-8 relative after each of about twenty roundings."""


def adapters(base: Encoder, found: list[Encoding]) -> dict[str, Adapter]:
    ids = sorted({i for e in found for i in e.ids})
    every_other = ids[::2]
    made = {
        "prompt of 5": tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=10)),
        "prompt of 20": tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 20, seed=20)),
        "lora of rank 3": tiny.adapter(base, lora=tiny.lora(base, 3, seed=100), head=tiny.head(base, 3)),
        "lora of rank 1": tiny.adapter(base, lora=tiny.lora(base, 1, seed=200)),
        "weights": tiny.adapter(base, weights=tiny.weights(base, 300, every_other)),
        "head": tiny.adapter(base, head=tiny.head(base, 5)),
        "prompt and lora": tiny.adapter(
            base, soft_prompt=tiny.soft_prompt(base, 3, seed=30), lora=tiny.lora(base, 2, seed=400)
        ),
    }
    if base.prefix_shape is not None:
        made["prefix of 6"] = tiny.adapter(base, prefix=tiny.prefix(base, 6, seed=40))
        made["prefix of 2"] = tiny.adapter(base, prefix=tiny.prefix(base, 2, seed=50))
    return made


def mixed(base: Encoder) -> list[Row]:
    """Every text under every adapter, so that neighbours differ in length and in adapter."""
    found = tiny.encodings(base, TEXTS)
    made = list(adapters(base, found).values())
    return [Row(encoding=found[(k + j) % len(found)], adapter=a) for j in range(2) for k, a in enumerate(made)]


def test_threads_take_turns(tiny_encoder: GetEncoder) -> None:
    """All change the same layers: each has its own answers meanwhile, and nothing is left behind."""
    base = tiny_encoder("bert")
    found = tiny.encodings(base, TEXTS)
    rows = [tiny.rows(a, found) for name, a in adapters(base, found).items() if "lora" in name or name == "head"]

    def ask(k: int) -> Tensor:
        with torch.no_grad():
            return torch.stack(base.logits(rows[k % len(rows)]))

    alone = [ask(k) for k in range(len(rows))]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(40)))
    for k, logits in enumerate([*together, *map(ask, range(len(rows)))]):
        torch.testing.assert_close(logits, alone[k % len(rows)], atol=ALONE, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_mixed_batch_equals_rows_alone(kind: str, tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder(kind)
    rows = mixed(base)
    together = torch.stack(base.logits(rows))
    alone = torch.cat([torch.stack(base.logits([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=ALONE, rtol=0)
    assert together.argmax(-1).tolist() == alone.argmax(-1).tolist()
    assert len({tuple(row.round(decimals=3).tolist()) for row in alone}) == len(rows), (
        "rows that do not tell mixing apart"
    )


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_order_and_neighbours_do_not_matter(kind: str, tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder(kind)
    rows = mixed(base)
    together = torch.stack(base.logits(rows))
    backwards = torch.stack(base.logits(rows[::-1])).flip(0)
    halves = torch.stack([*base.logits(rows[::2]), *base.logits(rows[1::2])])
    torch.testing.assert_close(together, backwards, atol=ALONE, rtol=0)
    torch.testing.assert_close(torch.cat([together[::2], together[1::2]]), halves, atol=ALONE, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2"])
def test_mixed_batch_in_bf16(kind: str, tiny_folder: GetFolder) -> None:
    base = tiny.encoder(tiny_folder(kind), dtype=torch.bfloat16)
    rows = mixed(base)
    together = torch.stack(base.logits(rows))
    alone = torch.cat([torch.stack(base.logits([row])) for row in rows])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, atol=ALONE_BF16, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_no_part_is_ignored(kind: str, tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder(kind)
    found = tiny.encodings(base, TEXTS)
    bare = base.features(tiny.rows(tiny.adapter(base), found))
    for name, adapter in adapters(base, found).items():
        if name != "head":
            changed = (base.features(tiny.rows(adapter, found)) - bare).abs().amax(-1)
            assert (changed > 1e-3).all(), name


def test_who_carries_a_prefix(tiny_encoder: GetEncoder) -> None:
    shapes = {kind: tiny_encoder(kind).prefix_shape for kind in tiny.KINDS}
    assert shapes == dict.fromkeys(tiny.WITH_PREFIX, (3, 4, 8)) | dict.fromkeys(tiny.WITHOUT_PREFIX)


@pytest.mark.parametrize("kind", tiny.WITHOUT_PREFIX)
def test_a_prefix_is_refused(kind: str, tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder(kind)
    prefix = tiny.prefix(tiny_encoder("bert"), 3, seed=0)
    with pytest.raises(AdapterError, match="cannot carry a prefix"):
        base.check(tiny.adapter(base, prefix=prefix))


def test_another_base_is_refused(tiny_encoder: GetEncoder) -> None:
    mine, other = tiny_encoder("bert"), tiny_encoder("electra")
    mine.check(tiny.adapter(mine))
    with pytest.raises(AdapterError) as error:
        mine.check(tiny.adapter(other))
    message = str(error.value)
    assert mine.identity.sha256[:12] in message
    assert other.identity.sha256[:12] in message
    same_weights = replace(tiny.adapter(mine), base=replace(mine.identity, tokenizer_sha256="0" * 64))
    with pytest.raises(AdapterError, match="tokenizer 000000000000"):
        mine.check(same_weights)


def test_name_is_no_identity(tiny_encoder: GetEncoder) -> None:
    mine = tiny_encoder("bert")
    identity = mine.identity
    moved = BaseIdentity(
        name="moved", kind=identity.kind, sha256=identity.sha256, tokenizer_sha256=identity.tokenizer_sha256
    )
    mine.check(replace(tiny.adapter(mine), base=moved))


@pytest.mark.parametrize("part", ["prefix", "soft_prompt"])
def test_long_texts_in_sliding_windows(part: str, tiny_encoder: GetEncoder) -> None:
    """A prefix is seen from every position, however far; a soft prompt only through the layers that see everything."""
    base = tiny_encoder("modernbert")
    text = " ".join(["bread and soup"] * 14)
    (encoding,) = base.encode([replace(tiny.examples(1)[0], text=text)], 50)
    assert len(encoding.ids) == 50 > 2 * tiny.WINDOW
    made = tiny.prefix(base, 4, seed=7) if part == "prefix" else tiny.soft_prompt(base, 4, seed=7)
    adapter = tiny.adapter(base, **{part: made})
    bare, _ = base.hidden_states(tiny.rows(tiny.adapter(base), [encoding]))
    hidden, layout = base.hidden_states(tiny.rows(adapter, [encoding]))
    first = int(layout.first_text_B[0])
    changed = (hidden[0, first : first + 50] - bare[0, :50]).abs().amax(-1)
    assert (changed > 1e-3).all()
    short = tiny.encodings(base, ["soup"])[0]
    rows = [Row(encoding=short, adapter=tiny.adapter(base)), *tiny.rows(adapter, [encoding, short])]
    alone = torch.stack([base.logits([row])[0] for row in rows])
    torch.testing.assert_close(torch.stack(base.logits(rows)), alone, atol=ALONE, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_lora_is_a_change_of_weights(kind: str, tiny_encoder: GetEncoder, tiny_folder: GetFolder) -> None:
    """Against transformers with W + (alpha / r) B A written into its layers, shared ones of DeBERTa too."""
    base = tiny_encoder(kind)
    lora = tiny.lora(base, 3, seed=100, alpha=6.0)
    found = tiny.encodings(base, TEXTS)
    model = transformers.AutoModel.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    with torch.no_grad():
        for name in lora.down:
            model.get_submodule(name).weight += 2.0 * lora.up[name] @ lora.down[name]
    expected = mean_pooled(model, found)
    actual = base.features(tiny.rows(tiny.adapter(base, lora=lora), found))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_are_weights(kind: str, tiny_encoder: GetEncoder, tiny_folder: GetFolder) -> None:
    """Against transformers with the same values loaded; word embeddings that are not held are the base's."""
    base = tiny_encoder(kind)
    found = tiny.encodings(base, TEXTS)
    weights = tiny.weights(base, 300, sorted({i for e in found for i in e.ids})[::2])
    model = transformers.AutoModel.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, value in weights.values.items():
            parameter = model.get_parameter(name)
            if name == weights.vocabulary:
                parameter[weights.vocabulary_ids_V] = value
            else:
                parameter.copy_(value)
    expected = mean_pooled(model, found)
    actual = base.features(tiny.rows(tiny.adapter(base, weights=weights), found))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def mean_pooled(model: torch.nn.Module, found: list[Encoding]) -> Tensor:
    """Features by transformers alone, one row at a time."""
    pooled = []
    for encoding in found:
        inputs = {"input_ids": torch.tensor([encoding.ids]), "attention_mask": torch.ones(1, len(encoding.ids)).long()}
        if any(encoding.type_ids):
            inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
        with torch.no_grad():
            pooled.append(model(**inputs).last_hidden_state[0].mean(0))
    return torch.stack(pooled)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_gradients_of_a_row_do_not_depend_on_neighbours(kind: str, tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder(kind)
    found = tiny.encodings(base, TEXTS)
    made = list(adapters(base, found).values())
    live = [
        a.with_tensors({k: t.clone().requires_grad_() for k, t in a.tensors().items() if t.is_floating_point()})
        for a in made
    ]

    def gradients(rows: list[Row]) -> list[dict[str, Tensor]]:
        torch.stack(base.logits(rows)).square().sum().backward()
        return [{n: t.grad.clone() for n, t in a.tensors().items() if t.grad is not None} for a in live]

    rows = [Row(encoding=found[k % len(found)], adapter=a) for k, a in enumerate(live)]
    together = gradients(rows)
    for adapter in live:
        for tensor in adapter.tensors().values():
            tensor.grad = None
    for row in rows:
        torch.stack(base.logits([row])).square().sum().backward()
    for adapter, mine in zip(live, together, strict=True):
        for name, gradient in mine.items():
            torch.testing.assert_close(adapter.tensors()[name].grad, gradient, atol=1e-4, rtol=1e-4)
    assert all(t.grad is None for t in base.masters().values())


def test_cls_pooling(tmp_path: Path) -> None:
    """The first token of the text, not of the soft prompt."""
    tiny.build("bert", tmp_path)
    tiny.set_pooling(tmp_path, "cls")
    base = tiny.encoder(tmp_path)
    found = tiny.encodings(base, TEXTS)
    model = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for k, encoding in enumerate(found):
        expected = model(input_ids=torch.tensor([encoding.ids])).last_hidden_state[0, 0]
        actual = base.features(tiny.rows(tiny.adapter(base), found))[k]
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 4, seed=3))
    hidden, _ = base.hidden_states(tiny.rows(adapter, found[:1]))
    torch.testing.assert_close(base.features(tiny.rows(adapter, found[:1]))[0], hidden[0, 4], atol=1e-6, rtol=0)


def test_phrases_are_cut_for_each_adapter(tiny_folder: GetFolder) -> None:
    """Two adapters with the same long phrases and limits of their own: neither hears of the other's."""
    phrases = tuple((f"it is about {word} with some good old {word}",) for word in ("food", "travel", "music"))
    base = tiny.encoder(tiny_folder("bert"))
    long = tiny.adapter(base, verbalizer=Verbalizer(phrases=phrases, scale=20.0))
    short = replace(long, max_tokens=6)
    (encoding,) = tiny.encodings(base, ["soup"])
    alone = [tiny.encoder(tiny_folder("bert")).logits(tiny.rows(a, [encoding]))[0] for a in (short, long)]
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    for adapter, expected in zip((short, long), alone, strict=True):
        torch.testing.assert_close(base.logits(tiny.rows(adapter, [encoding]))[0], expected, atol=ALONE, rtol=0)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_virtual_tokens_are_not_pooled(kind: str, tiny_encoder: GetEncoder) -> None:
    """The mean is over the text's positions: after the soft prompt, before the padding."""
    base = tiny_encoder(kind)
    found = tiny.encodings(base, TEXTS)
    rows = tiny.rows(tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=3)), found)
    hidden, _ = base.hidden_states(rows)
    expected = torch.stack([h[5 : 5 + len(e.ids)].mean(0) for h, e in zip(hidden, found, strict=True)])
    torch.testing.assert_close(base.features(rows), expected, atol=1e-5, rtol=0)


def test_rows_may_have_different_labels(tiny_encoder: GetEncoder) -> None:
    """Adapters of other tasks, with two and five classes, and one that needs no features."""
    base = tiny_encoder("bert")
    (encoding,) = tiny.encodings(base, ["soup"])
    floor = Calibration(bias_C=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    five = Adapter(base=base.identity, labels=tuple("abcde"), max_tokens=64, calibration=floor)
    three = tiny.adapter(base)
    logits = base.logits([Row(encoding=encoding, adapter=a) for a in (five, three, five)])
    assert [len(row) for row in logits] == [5, 3, 5]
    assert logits[0].tolist() == [1, 2, 3, 4, 5] == logits[2].tolist()
    torch.testing.assert_close(logits[1], base.logits([Row(encoding=encoding, adapter=three)])[0], atol=ALONE, rtol=0)
    assert base.logits([Row(encoding=encoding, adapter=five)])[0].tolist() == [1, 2, 3, 4, 5]


def test_dropout_before_the_head_is_repeatable(tiny_encoder: GetEncoder) -> None:
    base = tiny_encoder("bert")
    adapter = tiny.adapter(base, lora=tiny.lora(base, 2, seed=9))
    rows = tiny.rows(adapter, tiny.encodings(base, TEXTS))
    features = base.features(rows)

    def run(seed: int) -> Tensor:
        return base.answer(adapter, features, Dropout(share=0.3, generator=torch.Generator().manual_seed(seed)))

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2), atol=1e-3)
    without = Dropout(share=0.0, generator=torch.Generator())
    assert torch.equal(base.answer(adapter, features, without), torch.stack(base.logits(rows)))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_longest_inputs_fit(kind: str, tiny_encoder: GetEncoder) -> None:
    """A batch padded past the last position, and prompts that fill up to it."""
    base = tiny_encoder(kind)
    assert base.max_tokens == tiny.MAX_TOKENS
    text = replace(tiny.examples(1)[0], text=" ".join(["bread"] * 100))
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=1))
    full, rest = base.encode([text], base.max_tokens)[0], base.encode([text], base.max_tokens - 7)[0]
    rows = [Row(encoding=full, adapter=tiny.adapter(base)), Row(encoding=rest, adapter=adapter)]
    assert torch.stack(base.logits(rows)).isfinite().all()


@pytest.mark.slow
def test_the_embedded_model() -> None:
    """all-MiniLM-L6-v2 mixed as above, in fp32."""
    base = tiny.encoder(Path("embedded"))
    rows = mixed(base)
    together = torch.stack(base.logits(rows))
    alone = torch.cat([torch.stack(base.logits([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=ALONE, rtol=1e-5)


def test_lora_that_matches_nothing_is_refused(tiny_encoder: GetEncoder) -> None:
    """As a LoRA of a model with another root would be."""
    base = tiny_encoder("bert")
    lora = tiny.lora(base, 2, seed=1)
    moved = replace(lora, down={f"bert.{n}": t for n, t in lora.down.items()})
    base.check(tiny.adapter(base, lora=lora))
    with pytest.raises(AdapterError, match=r"bert\.encoder\.layer\.0.*Allowed: encoder\.layer\.0"):
        base.check(tiny.adapter(base, lora=moved))
