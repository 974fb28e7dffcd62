"""Encoder-decoders: mixed adapters, padding and prefixes; what is trained is what is run."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Template, Verbalizer
from tunewright.backbones.base import Row
from tunewright.backbones.recomputed import recomputing
from tunewright.backbones.seq2seq import Seq2Seq
from tunewright.errors import AdapterError, ConfigError

GetSeq2Seq = Callable[[str], Seq2Seq]
TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!", "it was new"]
WORDS = Verbalizer(phrases=(("food",), ("going places",), ("music", "the song")), scale=1.0)
EXACT = 1e-5
"""fp32: largest difference of a number from the same row alone."""


@pytest.fixture(scope="module", params=["t5", "bart"])
def base(request: pytest.FixtureRequest, tiny_seq2seq: GetSeq2Seq) -> Seq2Seq:
    return tiny_seq2seq(str(request.param))


def mixture(base: Seq2Seq) -> dict[str, Adapter]:
    """One adapter of each body, with a head and with words, and one of all parts."""
    ids = [i for e in tiny.encodings(base, TEXTS) for i in e.ids]
    asking = {"template": Template(fixed="old and new\n", row="it: {text}\nwas"), "verbalizer": WORDS}
    bodies = {
        "bare": {},
        "short": {"soft_prompt": tiny.soft_prompt(base, 2, seed=1)},
        "long": {"soft_prompt": tiny.soft_prompt(base, 7, seed=2)},
        "prefix": {"prefix": tiny.prefix(base, 4, seed=3)},
        "lora": {"lora": tiny.lora(base, 2, seed=4)},
        "weights": {"weights": tiny.weights(base, 5, ids)},
    }
    found = {f"{name}-head": tiny.adapter(base, **parts) for name, parts in bodies.items()}  # type: ignore[arg-type]
    found |= {
        f"{name}-words": replace(tiny.adapter(base, **parts, **asking), head=None)  # type: ignore[arg-type]
        for name, parts in bodies.items()
    }
    return found | {"every": replace(tiny.every_part(base), weights=None)}


def rows_of(base: Seq2Seq, adapters: dict[str, Adapter]) -> list[Row]:
    examples = tiny.as_examples(TEXTS)
    return [Row(encoding=e, adapter=a) for a in adapters.values() for e in base.encode_for(examples, a)]


def test_a_mixed_batch_is_row_by_row(base: Seq2Seq) -> None:
    """Logits and losses; every body changes them."""
    adapters = mixture(base)
    rows = rows_of(base, adapters)
    answers = [base.encode_answer(("food", "the old bridge near it")[k % 2]) for k in range(len(rows))]
    with torch.no_grad():
        together, alone = torch.stack(base.logits(rows)), torch.cat([torch.stack(base.logits([r])) for r in rows])
        losses = base.answer_log_probs(rows, answers)
        losses_alone = [base.answer_log_probs([r], [a])[0] for r, a in zip(rows, answers, strict=True)]
    torch.testing.assert_close(together, alone, atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(torch.cat(losses), torch.cat(losses_alone), atol=EXACT, rtol=EXACT)
    by_adapter = dict(zip(adapters, together.split(len(TEXTS)), strict=True))
    for end in ("head", "words"):
        bare_BC = by_adapter[f"bare-{end}"]
        others = [
            values_BC for name, values_BC in by_adapter.items() if name.endswith(end) and values_BC is not bare_BC
        ]
        assert len(others) == 5
        assert all(((values_BC - bare_BC).abs().amax(1) > 1e-3).all() for values_BC in others)


def test_mixed_texts_are_row_by_row(base: Seq2Seq) -> None:
    """Greedy and drawn, with stop texts, few at a time and all at once."""
    warm = Decoding(max_new_tokens=9, temperature=0.9, top_p=0.9, stop=("the", "a"))
    rows = [
        replace(row, adapter=replace(row.adapter, decoding=warm if k % 2 else Decoding(max_new_tokens=3 + k % 5)))
        for k, row in enumerate(rows_of(base, mixture(base)))
    ]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(k) for k in range(len(rows))]

    alone = [base.generate([row], [draws])[0] for row, draws in zip(rows, generators(), strict=True)]
    for most_rows in (4, 32):
        found = base.generate(rows, generators(), most_rows=most_rows)
        assert [(g.ids, g.text, g.finish_reason) for g in found] == [(g.ids, g.text, g.finish_reason) for g in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=EXACT, rel=EXACT)
    assert {g.finish_reason for g in alone} == {"stop", "length"}
    assert len({g.ids for g in alone}) > len(alone) / 2


def test_label_words_are_answers_under_the_template(base: Seq2Seq) -> None:
    """The mean log-probability per token of each phrase, its end counted; of several phrases their mean."""
    adapter = mixture(base)["bare-words"]
    rows = rows_of(base, {"bare": adapter})
    with torch.no_grad():
        logits_BC = torch.stack(base.logits(rows))
        expected = [torch.tensor([mean_loss(base, row, group) for group in WORDS.phrases]) for row in rows]
    torch.testing.assert_close(logits_BC, torch.stack(expected), atol=EXACT, rtol=EXACT)


def mean_loss(base: Seq2Seq, row: Row, phrases: tuple[str, ...]) -> float:
    found = [base.answer_log_probs([row], [base.encode_answer(phrase)])[0].mean() for phrase in phrases]
    return float(torch.stack(found).mean())


def test_a_template_travels_with_its_row(base: Seq2Seq) -> None:
    """Its words, then the row's, between the tokens that the tokenizer puts around every text."""
    adapter = mixture(base)["bare-words"]
    (framed,) = base.encode_for(tiny.as_examples(["soup"]), adapter)
    (whole,) = base.encode(tiny.as_examples(["old and new\nit: soup\nwas"]), base.max_tokens)
    assert framed.ids == whole.ids
    (cut,) = base.encode_for(tiny.as_examples(["soup " * 200]), adapter)
    assert len(cut.ids) == base.max_tokens
    assert cut.num_cut > 100
    assert (cut.ids[:6], cut.ids[-2:]) == (whole.ids[:6], whole.ids[-2:])


def test_gradients_are_those_of_one_row_at_a_time(base: Seq2Seq) -> None:
    """Of a written answer all parts get theirs, in both stacks; of features those that are run."""
    adapter = mixture(base)["every"]
    writing = gradients(base, adapter, lambda rows: torch.cat(base.answer_log_probs(rows, [(5, 6, 7)] * len(rows))))
    assert {name for name in writing if name.startswith(("soft_prompt", "prefix", "lora"))} == set(writing)
    assert any("decoder" in name for name in writing)
    plain = replace(adapter, template=None, verbalizer=None, retriever=None)
    features = gradients(base, plain, lambda rows: torch.stack(base.logits(rows)))
    run = {name for name in features if name.startswith("lora.")}
    assert run
    assert all(base.is_run(name.removeprefix("lora."), writing=False) for name in run)


def gradients(base: Seq2Seq, adapter: Adapter, run: Callable[[list[Row]], Tensor]) -> dict[str, Tensor]:
    """Of the body's tensors, by name; the same from a batch and from its rows one by one.

    fp32, with LoRAs that count eightfold: within 5e-4 of the largest.
    """
    names = [n for n, t in adapter.tensors().items() if t.is_floating_point() and n.split(".")[0] in BODY]
    found = []
    for together in (True, False):  # and all at once with layers that are computed again on the way back
        live = {n: adapter.tensors()[n].clone().requires_grad_() for n in names}
        rows = rows_of(base, {"live": adapter.with_tensors(live)})
        with recomputing(together):
            for batch in [rows] if together else [[row] for row in rows]:
                run(batch).sum().backward()
        found.append({n: t.grad for n, t in live.items() if t.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=5e-4 * float(gradient.abs().max()), rtol=0)
        assert gradient.abs().max() > 0, name
    return found[0]


BODY = ("soft_prompt", "prefix", "lora")


def test_weights_of_the_base_change_nothing_and_others_do(base: Seq2Seq) -> None:
    """Its own values give its own answers; half of both stacks' parameters, others."""
    values = {name: value.clone() for name, value in base.masters().items()}
    same = replace(tiny.weights(base, 5, [0, 1, 2]), values=values)
    values[base.vocabulary_name] = values[base.vocabulary_name][:3]
    rows = rows_of(base, {"own": tiny.adapter(base, weights=same), "bare": tiny.adapter(base)})
    with torch.no_grad():
        scores_BC = base.scores(rows, [base.encode_answer(text) for text in ("food", "the old song")])
    own_BC, bare_BC = scores_BC.split(len(TEXTS))
    torch.testing.assert_close(own_BC, bare_BC, atol=EXACT, rtol=EXACT)


def test_what_does_not_fit_is_said(base: Seq2Seq) -> None:
    short = tiny.prefix(base, 2, seed=1)
    with pytest.raises(AdapterError, match=r"prefix.keys has shape"):
        base.check(tiny.adapter(base, prefix=replace(short, keys_LHPd=short.keys_LHPd[:1])))
    long = Template(fixed="the " * 90, row="{text}")
    with pytest.raises(ConfigError, match="leaves no room"):
        base.encode_for(tiny.as_examples(["x"]), tiny.adapter(base, template=long))
    same = replace(WORDS, phrases=(("food",), ("food ",), ("song",)))
    with pytest.raises(ConfigError, match="have the same words"):
        base.phrase_ids(tiny.adapter(base, template=Template(fixed="", row="{text}"), verbalizer=same))
