"""Rows of a packed batch get what transformers gives each alone: mixed prefixes, every architecture, gradients too."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Lora, Prefix, SoftPrompt
from tunewright.backbones import prefixed
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.causal import Pass
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder, _max_positions
from tunewright.types import Example

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]

TEXTS = ["soup", "a train was near the road", "a piano", "we had bread and some good old cake", "violin!", "map of it"]
"""The longer ones are longer than a window, but not so long that nothing of a prefix reaches their ends."""

EXACT = 1e-5
"""fp32: largest difference of a feature, which are of the order of 1."""

every_kind = pytest.mark.parametrize("kind", tiny.DECODERS)


def plain_model(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def alone(model: Any, row: Row) -> Tensor:
    """Last hidden state at the end of one row, by transformers' own forward, embeddings and cache."""
    adapter, inputs = row.adapter, dict[str, Any]()
    embeds = model.get_input_embeddings()(torch.tensor([row.encoding.ids]))
    if adapter.soft_prompt is not None:
        embeds = torch.cat([adapter.soft_prompt.vectors_PD[None], embeds], 1)
    if adapter.prefix is not None:
        cache = transformers.DynamicCache(config=model.config)
        for layer, (keys, values) in enumerate(zip(adapter.prefix.keys_LHPd, adapter.prefix.values_LHPd, strict=True)):
            cache.update(keys[None], values[None], layer)
        inputs["past_key_values"] = cache
    return model(inputs_embeds=embeds, use_cache=True, **inputs).last_hidden_state[0, -1]  # type: ignore[no-any-return]


def adapters(base: Decoder) -> list[Adapter]:
    """Prefixes of 5, 20 and 0 vectors, deep and not, and both at once."""
    return [
        tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=10)),
        tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 20, seed=20)),
        tiny.adapter(base),
        tiny.adapter(base, prefix=tiny.prefix(base, 6, seed=40)),
        tiny.adapter(base, prefix=tiny.prefix(base, 2, seed=50), soft_prompt=tiny.soft_prompt(base, 3, seed=30)),
    ]


def mixed(base: Decoder, made: Sequence[Adapter]) -> list[Row]:
    """Every adapter with texts of its own, so that neighbours differ in length and in adapter."""
    found = tiny.encodings(base, TEXTS)
    return [Row(encoding=found[(k + 2 * j) % len(found)], adapter=a) for j in range(2) for k, a in enumerate(made)]


def live(adapter: Adapter) -> Adapter:
    """With tensors that gather gradients."""
    tensors = {k: t.clone().requires_grad_() for k, t in adapter.tensors().items() if t.is_floating_point()}
    return adapter.with_tensors(tensors)


@every_kind
@pytest.mark.parametrize("how", ["kept", "trained", "served"])
def test_mixed_prefixes_equal_transformers_alone(
    kind: str, how: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in an earlier pass and kept, or in the same pass because they train; without gradients one by one."""
    called, one_by_one = list[int](), Pass._one_by_one

    def counted(self: Pass, *args: Any) -> Tensor:
        called.append(1)
        return one_by_one(self, *args)

    monkeypatch.setattr(Pass, "_one_by_one", counted)
    base = tiny_decoder(kind)
    rows = mixed(base, [live(a) if how == "trained" else a for a in adapters(base)])
    model = plain_model(tiny_folder(kind))
    with torch.set_grad_enabled(how != "served"):
        together = base.features(rows)
        expected = torch.stack([alone(model, row) for row in rows])
    torch.testing.assert_close(together, expected, atol=EXACT, rtol=0)
    assert (torch.pdist(expected) > 0.1).all(), "rows that do not tell mixing apart"
    assert bool(called) == (how == "served" and kind not in {"gemma2", "bloom"})


@every_kind
def test_gradients_equal_transformers_alone(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Of prompts and prefixes that several rows share; within 1e-5 of the largest."""
    base, model = tiny_decoder(kind), plain_model(tiny_folder(kind))
    made = [live(a) for a in adapters(base)]
    rows = mixed(base, made)

    def gradients(features: Tensor) -> list[Tensor]:
        tensors = [t for a in made for name, t in a.tensors().items() if not name.startswith("head")]
        loss = (tiny.normal(3, *features.shape) * features).sum()
        return list(torch.autograd.grad(loss, tensors))

    ours = gradients(base.features(rows))
    theirs = gradients(torch.stack([alone(model, row) for row in rows]))
    assert len(ours) == 7
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5 * float(its.abs().max()), rtol=0)


@every_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_of_transformers(kind: str, side: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Where others put padding makes no difference to what we compute without any."""
    base, model = tiny_decoder(kind), plain_model(tiny_folder(kind))
    found = tiny.encodings(base, TEXTS)
    width = max(len(e.ids) for e in found)
    gaps = [width - len(e.ids) if side == "left" else 0 for e in found]
    ids, mask = torch.zeros(2, len(found), width, dtype=torch.long)
    for k, (e, gap) in enumerate(zip(found, gaps, strict=True)):
        ids[k, gap : gap + len(e.ids)], mask[k, gap : gap + len(e.ids)] = torch.tensor(e.ids), 1
    positions = {} if kind == "bloom" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    hidden = model(input_ids=ids, attention_mask=mask, **positions).last_hidden_state
    expected = torch.stack([h[gap + len(e.ids) - 1] for h, gap, e in zip(hidden, gaps, found, strict=True)])
    actual = base.features(tiny.rows(tiny.adapter(base), found))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=EXACT, rtol=0)


def parts(base: Decoder, found: Sequence[Encoding]) -> dict[str, Adapter]:
    """One adapter for each kind of body, and prompts under LoRAs and weights of their own."""
    ids = sorted({i for e in found for i in e.ids})[::2]
    return {
        "lora of rank 3": tiny.adapter(base, lora=tiny.lora(base, 3, seed=100), head=tiny.head(base, 3)),
        "lora of rank 1": tiny.adapter(base, lora=tiny.lora(base, 1, seed=200)),
        "weights": tiny.adapter(base, weights=tiny.weights(base, 300, ids)),
        "prompt": tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 4, seed=60)),
        "prefix": tiny.adapter(base, prefix=tiny.prefix(base, 6, seed=40)),
        "prompt and lora": tiny.adapter(
            base, soft_prompt=tiny.soft_prompt(base, 3, seed=30), lora=tiny.lora(base, 2, seed=400)
        ),
        "prompt and weights": tiny.adapter(
            base, soft_prompt=tiny.soft_prompt(base, 3, seed=31), weights=tiny.weights(base, 500, ids)
        ),
        "head": tiny.adapter(base, head=tiny.head(base, 5)),
    }


@every_kind
def test_neighbours_do_not_matter(kind: str, tiny_decoder: GetDecoder) -> None:
    """Together, backwards, in halves and alone; and no part is ignored."""
    base = tiny_decoder(kind)
    found = tiny.encodings(base, TEXTS)
    rows = mixed(base, list(parts(base, found).values()))
    together = torch.stack(base.logits(rows))
    each = torch.cat([torch.stack(base.logits([row])) for row in rows])
    halves = torch.stack([*base.logits(rows[::2]), *base.logits(rows[1::2])])
    for other in (each, torch.stack(base.logits(rows[::-1])).flip(0)):
        torch.testing.assert_close(together, other, atol=EXACT, rtol=0)
    torch.testing.assert_close(torch.cat([together[::2], together[1::2]]), halves, atol=EXACT, rtol=0)
    assert together.argmax(-1).tolist() == each.argmax(-1).tolist()
    bare = base.features(tiny.rows(tiny.adapter(base), found))
    for name, adapter in parts(base, found).items():
        changed = (base.features(tiny.rows(adapter, found)) - bare).abs().amax(-1)
        assert ((changed > 1e-3) == (name != "head")).all(), name


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma2", "bloom"])
def test_gradients_of_a_row_do_not_depend_on_neighbours(kind: str, tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder(kind)
    found = tiny.encodings(base, TEXTS)
    made = [live(a) for a in parts(base, found).values()]
    rows = mixed(base, made)[: len(made)]

    def gradients(batches: list[list[Row]]) -> dict[str, Tensor]:
        for batch in batches:
            torch.stack(base.logits(batch)).square().sum().backward()
        found = {f"{k} {n}": t.grad for k, a in enumerate(made) for n, t in a.tensors().items() if t.grad is not None}
        for adapter in made:
            for tensor in adapter.tensors().values():
                tensor.grad = None
        return found

    together, apart = gradients([rows]), gradients([[row] for row in rows])
    assert together.keys() == apart.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], atol=1e-4, rtol=1e-4, msg=name)
    assert all(t.grad is None for t in base.masters().values())


@every_kind
def test_lora_is_a_change_of_weights(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Against transformers with W + (alpha / r) B A written into its layers, under a prompt too."""
    base, model = tiny_decoder(kind), plain_model(tiny_folder(kind))
    lora = tiny.lora(base, 3, seed=100, alpha=6.0)
    for name in lora.down:
        module, change = model.get_submodule(name), 2.0 * lora.up[name] @ lora.down[name]
        module.weight += change.T if isinstance(module, Conv1D) else change
    adapter = tiny.adapter(base, lora=lora, soft_prompt=tiny.soft_prompt(base, 4, seed=1))
    rows = tiny.rows(adapter, tiny.encodings(base, TEXTS))
    expected = torch.stack([alone(model, row) for row in rows])
    torch.testing.assert_close(base.features(rows), expected, atol=2 * EXACT, rtol=EXACT)


@every_kind
def test_weights_are_weights(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder) -> None:
    """Against transformers with the same values loaded; word embeddings that are not held are the base's."""
    base, model = tiny_decoder(kind), plain_model(tiny_folder(kind))
    found = tiny.encodings(base, TEXTS)
    weights = tiny.weights(base, 300, sorted({i for e in found for i in e.ids})[::2])
    for name, value in weights.values.items():
        parameter, module = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
        if name == weights.vocabulary:
            parameter[weights.vocabulary_ids_V] = value
        else:
            parameter.copy_(value.T if isinstance(module, Conv1D) and value.ndim > 1 else value)
    rows = tiny.rows(tiny.adapter(base, weights=weights), found)
    expected = torch.stack([alone(model, row) for row in rows])
    torch.testing.assert_close(base.features(rows), expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma3_text", "bloom"])
def test_mixed_batch_in_bf16(kind: str, tiny_folder: GetFolder) -> None:
    base = tiny.decoder(tiny_folder(kind), dtype=torch.bfloat16)
    rows = mixed(base, adapters(base))
    together = base.features(rows)
    assert together.dtype == torch.float32
    exact = tiny.decoder(tiny_folder(kind)).features(rows)
    # 2**-8 relative after each of some thirty roundings of values of the order of 1
    assert (together - exact).abs().mean() < 0.05
    assert ((together - exact).square().mean() / exact.square().mean()).sqrt() < 0.1


@every_kind
def test_spare_tokens_change_nothing(kind: str, tiny_decoder: GetDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither values nor gradients, those of the base's own weights included."""
    base = tiny_decoder(kind)
    found_ids = sorted({i for e in tiny.encodings(base, TEXTS) for i in e.ids})
    whole = live(
        tiny.adapter(base, weights=tiny.weights(base, 300, found_ids), soft_prompt=tiny.soft_prompt(base, 5, seed=10))
    )
    rows = mixed(base, [whole])

    def found() -> list[Tensor]:
        features = base.features(rows)
        loss = (tiny.normal(3, *features.shape) * features).sum()
        tensors = [tensor for tensor in whole.tensors().values() if tensor.requires_grad]
        return [features, *torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)]

    without = found()
    monkeypatch.setattr(prefixed, "spare_tokens", lambda *_: 7)
    for one, other in zip(found(), without, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.detach().abs().max())), rtol=0)


def test_few_sizes_occur_in_bf16(tiny_folder: GetFolder) -> None:
    base = tiny.decoder(tiny_folder("llama"), dtype=torch.bfloat16)
    sizes = set[int]()
    first = next(module for module in base._model.modules() if isinstance(module, torch.nn.Linear))
    first.register_forward_hook(lambda _module, args, _output: sizes.add(args[0].shape[1]))
    for num in range(1, 64):
        row = Row(encoding=Encoding(ids=(3,) * num, type_ids=(0,) * num), adapter=tiny.adapter(base))
        base.features([row])
    assert sizes == {16, 32, 48, 64}


def test_prefix_is_kept_until_it_changes(tiny_folder: GetFolder) -> None:
    """One run of the model makes it, later batches only read it; a step of an optimizer, in place, drops it."""
    base = tiny.decoder(tiny_folder("llama"))
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1))
    found = tiny.encodings(base, TEXTS)
    assert adapter.soft_prompt is not None
    vectors = adapter.soft_prompt.vectors_PD
    sizes: list[int] = []
    base._model.register_forward_pre_hook(
        lambda *inputs: sizes.append(inputs[2]["inputs_embeds"].shape[1]), with_kwargs=True
    )
    text = sum(len(e.ids) for e in found)
    before = [base.features(tiny.rows(adapter, found)) for _ in range(3)]
    assert sizes == [5, text, text, text]
    assert torch.equal(before[0], before[2])
    optimizer = torch.optim.AdamW([vectors.requires_grad_()], lr=0.1, fused=True)
    base.features(tiny.rows(adapter, found)).sum().backward()
    assert sizes[4:] == [5 + text]
    optimizer.step()
    with torch.no_grad():
        after = base.features(tiny.rows(adapter, found))
    assert sizes[5:] == [5, text]
    fresh = tiny.adapter(base, soft_prompt=SoftPrompt(vectors_PD=vectors.detach().clone()))
    torch.testing.assert_close(after, base.features(tiny.rows(fresh, found)), atol=0, rtol=0)
    assert (after - before[0]).abs().max() > 1e-2


def test_prefix_under_a_lora_of_another_weight(tiny_decoder: GetDecoder) -> None:
    """The same factors with another alpha are another LoRA, and leave another prefix."""
    base = tiny_decoder("llama")
    found = tiny.encodings(base, TEXTS)[:1]
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1), lora=tiny.lora(base, 3, seed=2))
    assert adapter.lora is not None
    before = base.features(tiny.rows(adapter, found))
    heavier = replace(adapter.lora, alpha=4 * adapter.lora.alpha)
    copied = Lora.build(heavier.settings(), {name: tensor.clone() for name, tensor in heavier.tensors().items()})
    now, fresh = (base.features(tiny.rows(replace(adapter, lora=lora), found)) for lora in (heavier, copied))
    torch.testing.assert_close(now, fresh, atol=0, rtol=0)
    assert (now - before).abs().max() > 1e-2


def test_kept_prefixes_are_bounded_in_bytes(tiny_folder: GetFolder) -> None:
    """Those not used for longest go first; one that is larger than all that may be held stays while it is used."""
    layers, heads, width = 3, 4, 8
    each = 4 * (2 * layers * heads * width + 32)  # keys and values of one position, and the vector it came of
    checkpoint = load_checkpoint(str(tiny_folder("gpt2")))
    base = Decoder(checkpoint, dtype=torch.float32, device=torch.device("cpu"), prefix_bytes=10 * each)
    found = tiny.encodings(base, TEXTS)[:1]
    many = [tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 1, seed=k)) for k in range(30)]
    together = base.features([Row(encoding=found[0], adapter=a) for a in many])
    assert (len(base._kept), base._kept.num_bytes) == (10, 10 * each)
    torch.testing.assert_close(together[:1], base.features(tiny.rows(many[0], found)), atol=EXACT, rtol=0)
    large = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 20, seed=1))
    base.features(tiny.rows(large, found))
    assert (len(base._kept), base._kept.num_bytes) == (1, 20 * each)


def test_longest_inputs_fit(tiny_decoder: GetDecoder) -> None:
    for kind in tiny.DECODERS:
        base = tiny_decoder(kind)
        assert base.max_tokens == tiny.MAX_TOKENS
        text = Example(id="1", text=" ".join(["bread"] * 100))
        adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=1))
        full, rest = base.encode([text], 64)[0], base.encode([text], 57)[0]
        rows = [Row(encoding=full, adapter=tiny.adapter(base)), Row(encoding=rest, adapter=adapter)]
        assert (len(full.ids), len(rest.ids)) == (64, 57)
        assert torch.stack(base.logits(rows)).isfinite().all()


def test_positions_whose_rotation_depends_on_the_batch_are_not_used() -> None:
    scaled = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 512}
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = transformers.LlamaConfig(
        max_position_embeddings=4096, hidden_size=64, num_attention_heads=4, rope_parameters={**scaled, **factors}
    )
    assert _max_positions(config) == 512
    assert _max_positions(transformers.LlamaConfig(max_position_embeddings=4096)) == 4096
    assert _max_positions(transformers.BloomConfig()) == 2048


def test_pairs_stand_on_lines(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("gpt2")
    pair = Example(id="1", text="good bread.", text_pair="old soup")
    (together,) = base.encode([pair], 64)
    (apart,) = base.encode([replace(pair, text="good bread.old soup", text_pair=None)], 64)
    assert base._checkpoint.tokenizer.decode(list(together.ids), skip_special_tokens=True) == " good bread. \nold soup"
    assert together.ids != apart.ids
    (short,) = base.encode([replace(pair, text="bread " * 80)], 20)
    assert (len(short.ids), short.num_cut > 0) == (20, True)


def test_text_without_tokens(tiny_decoder: GetDecoder) -> None:
    """A tokenizer that drops all of a text and adds nothing leaves one token to answer from."""
    base = tiny_decoder("gpt2")
    (encoding,) = base.encode([Example(id="1", text="")], 64)
    assert base.features(tiny.rows(tiny.adapter(base), [encoding])).isfinite().all()


def test_window_bounds_what_is_seen(tiny_decoder: GetDecoder) -> None:
    """A prefix is seen as far as tokens are: after three layers of eight positions a text hears nothing of it."""
    base = tiny_decoder("mistral")
    (encoding,) = base.encode([Example(id="1", text=" ".join(["bread and soup"] * 20))], 50)
    near = replace(encoding, ids=encoding.ids[:6], type_ids=encoding.type_ids[:6])
    bare, deep = tiny.adapter(base), tiny.adapter(base, prefix=tiny.prefix(base, 6, seed=7))

    def change(found: Encoding) -> float:
        with_prefix = base.features(tiny.rows(deep, [found]))
        return float((with_prefix - base.features(tiny.rows(bare, [found]))).abs().max())

    assert change(near) > 1e-2
    assert change(encoding) < 1e-5
    assert isinstance(deep.prefix, Prefix)


@pytest.fixture(autouse=True)
def _few_words() -> Iterator[None]:
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    yield
    transformers.utils.logging.set_verbosity(before)
