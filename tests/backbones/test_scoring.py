"""Answers against transformers' own causal language models, one row at a time: log-probabilities, scores, gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]

TEXTS = ["soup", "a train was near the road", "a piano", "violin!"]
ANSWERS = ["good bread", "old", "a very new cake", "good bread and salt"]
TEMPLATE = Template(fixed="we had some old map and one\n", row="it: {text}\nwas")
EXACT = 1e-5
"""fp32: largest difference of a log-probability, which are of the order of 5."""

every_kind = pytest.mark.parametrize("kind", tiny.DECODERS)


def whole_model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def alone(model: Any, base: Decoder, row: Row, answer: Sequence[int]) -> Tensor:
    """Log-probability of each token of an answer, one row at a time."""
    logits_TV = logits_alone(model, base, row, answer)[-len(answer) - 1 : -1]
    found: Tensor = logits_TV.log_softmax(-1)[range(len(answer)), list(answer)]
    return found


def logits_alone(model: Any, base: Decoder, row: Row, answer: Sequence[int]) -> Tensor:
    """Of all positions, by transformers' own forward, embeddings, cache and head: [T, V]."""
    adapter, inputs = row.adapter, dict[str, Any]()
    fixed = base.fixed_ids("" if adapter.template is None else adapter.template.fixed)
    embeds = model.get_input_embeddings()(torch.tensor([[*fixed, *row.encoding.ids, *answer]]))
    if adapter.soft_prompt is not None:
        embeds = torch.cat([adapter.soft_prompt.vectors_PD[None], embeds], 1)
    if adapter.prefix is not None:
        cache = transformers.DynamicCache(config=model.config)
        for layer, (keys, values) in enumerate(zip(adapter.prefix.keys_LHPd, adapter.prefix.values_LHPd, strict=True)):
            cache.update(keys[None], values[None], layer)
        inputs["past_key_values"] = cache
    logits_TV: Tensor = model(inputs_embeds=embeds, use_cache=True, **inputs).logits[0]
    return logits_TV


def adapters(base: Decoder) -> list[Adapter]:
    """Fixed text alone, after a soft prompt, after a deep prefix, after both; others' prefixes, and none."""
    soft, deep = tiny.soft_prompt(base, 3, seed=10), tiny.prefix(base, 4, seed=40)
    return [
        tiny.adapter(base, template=TEMPLATE),
        tiny.adapter(base, template=TEMPLATE, soft_prompt=soft),
        tiny.adapter(base, template=TEMPLATE, prefix=deep),
        tiny.adapter(base, template=Template(fixed="a map\n", row="{text}"), prefix=deep, soft_prompt=soft),
        tiny.adapter(base, template=Template(fixed="", row="{text} is")),
        tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=20)),
        tiny.adapter(base),
    ]


def mixed(base: Decoder, made: Sequence[Adapter]) -> list[Row]:
    """Every adapter with two texts."""
    examples = tiny.as_examples(TEXTS)
    return [
        Row(encoding=base.encode_for([examples[(k + j) % len(examples)]], a)[0], adapter=a)
        for j in range(2)
        for k, a in enumerate(made)
    ]


def answers(base: Decoder, count: int) -> list[tuple[int, ...]]:
    return [base.encode_answer(ANSWERS[k % len(ANSWERS)], ends=k % 3 == 0) for k in range(count)]


def live(adapter: Adapter) -> Adapter:
    """With tensors that gather gradients."""
    tensors = {k: t.clone().requires_grad_() for k, t in adapter.tensors().items() if t.is_floating_point()}
    return adapter.with_tensors(tensors)


@every_kind
@pytest.mark.parametrize("trains", [False, True])
def test_answers_equal_transformers_alone(
    kind: str, *, trains: bool, tiny_decoder: GetDecoder, tiny_folder: GetFolder
) -> None:
    base, model = tiny_decoder(kind), whole_model(tiny_folder(kind))
    rows = mixed(base, [live(a) if trains else a for a in adapters(base)])
    given = answers(base, len(rows))
    found = base.answer_log_probs(rows, given)
    for row, answer, log_probs in zip(rows, given, found, strict=True):
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs, alone(model, base, row, answer), atol=EXACT, rtol=EXACT)


@every_kind
def test_gradients_equal_transformers_alone(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Of soft prompts before a fixed text, and of deep prefixes; within 1e-5 of the largest."""
    base, model = tiny_decoder(kind), whole_model(tiny_folder(kind))
    made = [live(a) for a in adapters(base)]
    rows = mixed(base, made)
    given = answers(base, len(rows))
    tensors = [t for a in made for name, t in a.tensors().items() if not name.startswith("head")]
    weights = [tiny.normal(3 + k, len(answer)) for k, answer in enumerate(given)]

    def gradients(found: Sequence[Tensor]) -> list[Tensor]:
        loss = sum((w * each).sum() for w, each in zip(weights, found, strict=True))
        return list(torch.autograd.grad(loss, tensors))  # type: ignore[arg-type]

    ours = gradients(base.answer_log_probs(rows, given))
    theirs = gradients([alone(model, base, row, answer) for row, answer in zip(rows, given, strict=True)])
    assert len(ours) == 7
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5 * float(its.abs().max()), rtol=0)


@every_kind
def test_scores_equal_transformers_alone(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Candidates that share beginnings, end early, are one token, and a tree that branches late."""
    base, model = tiny_decoder(kind), whole_model(tiny_folder(kind))
    rows = mixed(base, adapters(base))
    words = ["good bread", "good", "good bread and salt", "old map", "good bread and soup", "very"]
    candidates = [base.encode_answer(word) for word in words]
    assert min(map(len, candidates)) == 1
    assert max(map(len, candidates)) > 4
    found = base.scores(rows, candidates)
    expected = torch.stack([torch.stack([alone(model, base, row, c).mean() for c in candidates]) for row in rows])
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)
    # Windows are so narrow that some rows do not hear of their prefix.
    assert (torch.pdist(expected) > 1e-2).float().mean() > 0.95, "rows that do not tell mixing apart"
    each = torch.cat([base.scores([row], candidates) for row in rows])
    torch.testing.assert_close(found, each, atol=EXACT, rtol=EXACT)
