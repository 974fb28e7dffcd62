"""Text token by token against transformers' `generate`; rows that join, leave and draw hear nothing of each other."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests import tiny
from tests.backbones.test_scoring import adapters, alone, live, logits_alone, mixed, whole_model
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, SoftPrompt
from tunewright.backbones.base import Request, Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.generation import Generating, draw
from tunewright.backbones.stepwise import Emitted
from tunewright.backbones.written import Written

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]

LONG = Decoding(max_new_tokens=12)
every_kind = pytest.mark.parametrize("kind", tiny.DECODERS)


def by_transformers(model: Any, base: Decoder, row: Row, count: int) -> list[int]:
    """By `generate`; before a deep prefix, which it does not take, by the likeliest token of whole forwards."""
    if row.adapter.prefix is not None:
        ids: list[int] = []
        while len(ids) < count and not (ids and ids[-1] in base.end_ids):
            ids.append(int(logits_alone(model, base, row, ids)[-1].argmax()))
        return ids
    fixed = base.fixed_ids("" if row.adapter.template is None else row.adapter.template.fixed)
    embeds = model.get_input_embeddings()(torch.tensor([[*fixed, *row.encoding.ids]]))
    if row.adapter.soft_prompt is not None:
        embeds = torch.cat([row.adapter.soft_prompt.vectors_PD[None], embeds], 1)
    found = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(base.end_ids),
        pad_token_id=0,
    )
    return [int(i) for i in found[0]]


@every_kind
def test_greedy_equals_transformers(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Token for token, three rows at a time of a mixture of prefixes; log-probabilities too."""
    base, model = tiny_decoder(kind), whole_model(tiny_folder(kind))
    rows = mixed(base, adapters(base))[:9]
    found = base.generate(rows, decoding=LONG, most_rows=4)
    for row, generation in zip(rows, found, strict=True):
        assert list(generation.ids) == by_transformers(model, base, row, 12)
        expected = alone(model, base, row, generation.ids)
        torch.testing.assert_close(torch.tensor(generation.log_probs), expected, atol=1e-5, rtol=1e-5)
        ended = generation.ids[-1] in base.end_ids
        assert generation.finish_reason == ("stop" if ended else "length")
        text = base.tokenizer.decode(list(generation.ids[: len(generation.ids) - ended]), skip_special_tokens=True)
        assert generation.text == text


def bodies(base: Decoder) -> list[Adapter]:
    """LoRAs, weights of their own, prompts under them."""
    return [
        *adapters(base)[:4],
        tiny.adapter(base, lora=tiny.lora(base, 3, seed=100), soft_prompt=tiny.soft_prompt(base, 2, seed=3)),
        tiny.adapter(base, lora=tiny.lora(base, 1, seed=200)),
        tiny.adapter(base, weights=tiny.weights(base, 300, list(range(5, 200)))),
        tiny.adapter(base, weights=tiny.weights(base, 500, [7]), soft_prompt=tiny.soft_prompt(base, 2, seed=3)),
    ]


def requests(base: Decoder) -> list[Request]:
    """All bodies; every second row draws, from a seed of its own; lengths and temperatures differ."""
    rows = mixed(base, bodies(base))
    warm = Decoding(max_new_tokens=9, temperature=0.8, top_p=0.9)
    return [
        Request(
            id=k,
            row=row,
            decoding=replace(LONG, max_new_tokens=4 + k) if k % 2 else warm,
            generator=torch.Generator().manual_seed(k),
        )
        for k, row in enumerate(rows)
    ]


def run(running: Generating, found: list[Emitted], steps: int = 1000) -> None:
    while len(running) and steps:
        found += running.step()
        steps -= 1
    found += running.step()


def ids_of(found: Sequence[Emitted], key: int) -> list[int]:
    return [emitted.token for emitted in found if emitted.id == key]


def test_rows_join_all_or_none(tiny_decoder: GetDecoder) -> None:
    """A row that cannot be run takes those back that joined before it: asked again, they are there once."""
    base = tiny_decoder("llama")
    first, *_, last = requests(base)[1:8:2]
    assert base.pass_of(first.row) != base.pass_of(last.row)
    broken = replace(last, row=replace(last.row, encoding=replace(last.row.encoding, ids=(10**6,))))
    running, found, apart = Generating(base), list[Emitted](), list[Emitted]()
    with pytest.raises(IndexError):
        running.add([first, broken])
    assert len(running) == 0
    running.add([first])
    run(running, found)
    alone = Generating(base)
    alone.add([first])
    run(alone, apart)
    assert [(e.token, e.text) for e in found] == [(e.token, e.text) for e in apart]


def test_ids_are_of_one_row(tiny_decoder: GetDecoder) -> None:
    """Twice in one call, or once more while the first is being answered: refused, and nothing has changed."""
    base = tiny_decoder("llama")
    first, second = requests(base)[:2]
    running, found = Generating(base), list[Emitted]()
    for again in ([first, first], [second, first, second]):
        with pytest.raises(ValueError, match="an id of its own"):
            running.add(again)
        assert len(running) == 0
    running.add([first])
    with pytest.raises(ValueError, match="an id of its own"):
        running.add([second, first])
    assert len(running) == 1
    run(running, found)
    assert {emitted.id for emitted in found} == {first.id}
    running.add([first])
    assert len(running) == 1


@every_kind
def test_rows_that_join_and_leave(kind: str, tiny_decoder: GetDecoder) -> None:
    """Each row gets the tokens that it gets alone, whoever comes and goes, drawn ones too."""
    base = tiny_decoder(kind)
    apart: list[Emitted] = []
    for request in requests(base):
        running = Generating(base)
        running.add([request])
        run(running, apart)
    together = list[Emitted]()
    running, made = Generating(base), requests(base)
    running.add(made[:5])
    together += running.step()
    together += running.step()
    running.add(made[5:12])
    running.remove([3, 6])
    together += running.step()
    running.add(made[12:])
    together += running.step()
    running.remove([14])
    run(running, together)
    for request in made:
        mine, its = ids_of(together, int(str(request.id))), ids_of(apart, int(str(request.id)))
        gone = request.id in (3, 6, 14)
        assert mine == (its[: len(mine)] if gone else its), request.id
        assert len(mine) < 5 or not gone
    assert len({tuple(ids_of(apart, k)) for k in range(len(made))}) > 10


def first_step(running: Generating, row: Row) -> float:
    """Log-probability of the second token of a row that joins: the first step is of its text alone."""
    running.add([Request(id="new", row=row, decoding=LONG)])
    running.step()
    (found,) = (emitted.log_prob for emitted in running.step() if emitted.id == "new")
    return found


def test_prefixes_are_held_as_long_as_they_are_known_by_address(tiny_folder: GetFolder) -> None:
    """Else a prefix made later could get the address of one that was dropped, and be taken for it."""
    checkpoint = load_checkpoint(str(tiny_folder("llama")))
    base = Decoder(checkpoint, dtype=torch.float32, device=torch.device("cpu"), prefix_bytes=1)
    prompts = [tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 3, seed=seed)) for seed in (1, 2)]
    stays, goes = (mixed(base, [each])[0] for each in prompts)
    running = Generating(base)
    running.add([Request(id=key, row=row, decoding=LONG) for key, row in (("stays", stays), ("goes", goes))])
    running.step()
    running.step()
    (lane,) = running._lanes.values()
    held = [weakref.ref(writer.kept[0]) for writer in lane.writers if writer.kept is not None]
    base.features([stays])  # drops the other from what the base keeps
    running.remove(["goes"])
    assert [ref() is not None for ref in held] == [True, True]
    running.step()
    assert [ref() is not None for ref in held] == [True, False]


def test_what_a_row_leaves_behind(tiny_decoder: GetDecoder) -> None:
    """A row whose adapter gave no numbers has left: the shorter one that takes its place hears nothing of it."""
    base = tiny_decoder("llama")
    plain = tiny.adapter(base)
    encodings = base.encode(tiny.as_examples(["bread and soup " * 8, "old soup"]), 40)
    long, short = (Row(encoding=e, adapter=plain) for e in encodings)
    nan = torch.full((2, base.word_embeddings.shape[1]), float("nan"))
    broken = Row(encoding=encodings[0], adapter=tiny.adapter(base, soft_prompt=SoftPrompt(vectors_PD=nan)))
    expected = first_step(Generating(base), short)
    for order in (("long", "broken"), ("broken", "long")):
        running = Generating(base)
        rows = {"long": long, "broken": broken}
        running.add([Request(id=key, row=rows[key], decoding=LONG) for key in order])
        running.step()
        running.remove(["broken"])
        assert first_step(running, short) == pytest.approx(expected, abs=1e-5)


def test_seed_decides(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("llama")
    (row,) = mixed(base, adapters(base))[:1]
    warm = Decoding(max_new_tokens=10, temperature=1.5)

    def drawn(seed: int) -> tuple[int, ...]:
        return base.generate([row], [torch.Generator().manual_seed(seed)], decoding=warm)[0].ids

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) == 5


def test_draws_follow_the_probabilities() -> None:
    """Chi-square against softmax(logits / T), cut where the likeliest have the share `top_p`."""
    logits_V = torch.tensor([2.0, -1.0, 0.5, 1.5, -3.0])
    decoding = Decoding(temperature=0.7, top_p=0.9)
    generator = torch.Generator().manual_seed(3)
    counts = np.bincount([draw(logits_V, decoding, generator) for _ in range(4000)], minlength=5)
    shares = np.exp(logits_V.double().numpy() / 0.7)
    shares /= shares.sum()
    kept = [0, 3]  # 0.617, 0.302: together 0.919
    assert shares[kept].sum() == pytest.approx(0.919, abs=0.001)
    assert set(np.flatnonzero(counts)) == set(kept)
    expected = 4000 * shares[kept] / shares[kept].sum()
    assert stats.chisquare(counts[kept], expected).pvalue > 0.01


def test_stop_texts(tiny_decoder: GetDecoder) -> None:
    """The answer ends before the stop text, and nothing of it is told early."""
    base = tiny_decoder("gpt2")
    (row,) = mixed(base, adapters(base))[:1]
    (whole,) = base.generate([row], decoding=replace(LONG, max_new_tokens=30))
    stop = whole.text[6:9]
    (cut,) = base.generate([row], decoding=replace(LONG, max_new_tokens=30, stop=("never", stop)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert len(cut.ids) < len(whole.ids)


def test_written_holds_back(tiny_decoder: GetDecoder) -> None:
    tokenizer = tiny_decoder("gpt2").tokenizer
    ids = tokenizer(" old soup \u266b new", add_special_tokens=False)["input_ids"]
    written = Written(tokenizer, [], ["p \u266bx", "new"])
    pieces = [written.add(token, last=k == len(ids) - 1)[0] for k, token in enumerate(ids)]
    assert "".join(pieces) == " old soup \u266b "
    assert not any("\ufffd" in piece for piece in pieces)
    told = "".join(pieces[: ids.index(tokenizer(" soup", add_special_tokens=False)["input_ids"][-1]) + 1])
    assert told in (" old sou", " old soup")


def test_end_of_the_context(tiny_decoder: GetDecoder) -> None:
    """An answer ends where the base has no more positions."""
    base = tiny_decoder("llama")
    encoding = base.encode(tiny.as_examples(["bread " * 100]), 60)[0]
    (found,) = base.generate([Row(encoding=encoding, adapter=tiny.adapter(base))], decoding=replace(LONG, stop=()))
    assert (len(found.ids), found.finish_reason) in ((4, "length"), (len(found.ids), "stop"))


def test_gradients_do_not_matter(tiny_decoder: GetDecoder) -> None:
    """Adapters that train write as those that do not."""
    base = tiny_decoder("qwen3")
    rows = mixed(base, adapters(base))
    moving = [replace(row, adapter=live(row.adapter)) for row in rows]
    found, other = base.generate(rows, decoding=LONG), base.generate(moving, decoding=LONG)
    assert [generation.ids for generation in found] == [generation.ids for generation in other]
