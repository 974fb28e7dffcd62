"""The record: hashed over everything that matters, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests import tiny
from tunewright.adapters.adapter import PARTS, Adapter
from tunewright.adapters.parts import Calibration, Lora
from tunewright.backbones.decoder import Decoder


@pytest.fixture
def whole(tiny_decoder: Callable[[str], Decoder]) -> Adapter:
    return tiny.every_part(tiny_decoder("gpt2"))


def test_every_part_is_there(whole: Adapter) -> None:
    assert list(whole.parts()) == [
        name for name in PARTS if name not in ("members", "candidates", "tuner")
    ]  # in place of others
    texts = {
        "template",
        "verbalizer",
        "decoding",
        "reasoning",
        "copied_input",
        "nearest_target",
        "members",
        "tuner",
        "candidates",
    }
    assert {name.split(".")[0] for name in whole.tensors()} == set(PARTS) - texts
    assert whole.prefix_tokens == 9
    assert not whole.mixes
    assert replace(whole, weights=None).mixes


def test_hash_follows_every_tensor(whole: Adapter) -> None:
    """One changed value, a changed shape or swapped values."""
    start = whole.sha256()
    seen = {start}
    for name, tensor in whole.tensors().items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        seen.add(whole.with_tensors({name: changed}).sha256())
    assert len(seen) == 1 + len(whole.tensors())
    vectors = whole.tensors()["soft_prompt.vectors"]
    assert whole.with_tensors({"soft_prompt.vectors": vectors.flip(0)}).sha256() != start
    assert whole.with_tensors({"soft_prompt.vectors": vectors.reshape(10, -1)}).sha256() != start
    assert whole.with_tensors({"soft_prompt.vectors": vectors.clone()}).sha256() == start


def test_hash_follows_settings(whole: Adapter) -> None:
    assert whole.lora is not None
    assert whole.verbalizer is not None
    others = [
        replace(whole, lora=replace(whole.lora, alpha=8.0)),
        replace(whole, verbalizer=replace(whole.verbalizer, scale=1.0)),
        replace(whole, labels=whole.labels[::-1]),
        replace(whole, max_tokens=32),
        replace(whole, base=replace(whole.base, sha256="0")),
        replace(whole, calibration=None),
        whole.with_temperature(1.0),
        whole.with_temperature(2.0),
    ]
    assert len({whole.sha256(), *(o.sha256() for o in others)}) == 9


def test_hash_ignores_provenance(whole: Adapter) -> None:
    """Nor does it ask whether a number was written 16 or 16.0, or what a base was called."""
    assert whole.lora is not None
    same = replace(whole, about={"score": 0.9}, lora=Lora(alpha=16.0, down=whole.lora.down, up=whole.lora.up))
    assert same.sha256() == whole.sha256()
    assert replace(whole, base=replace(whole.base, name="moved")).sha256() == whole.sha256()


def test_with_tensors_replaces_by_name(whole: Adapter) -> None:
    """Parts that are not named stay the same objects."""
    new = {name: t + 1 for name, t in whole.tensors().items() if name.startswith(("lora.", "head."))}
    changed = whole.with_tensors(new)
    for name, tensor in changed.tensors().items():
        assert tensor is new.get(name, whole.tensors()[name])
    assert changed.soft_prompt is whole.soft_prompt
    assert whole.with_tensors({}) is whole


def test_num_bytes_against_the_files(whole: Adapter) -> None:
    values = sum(t.numel() * t.element_size() for t in whole.tensors().values())
    assert values < whole.num_bytes() < values + 1000


def test_questions(whole: Adapter) -> None:
    bare = Adapter(base=whole.base, labels=whole.labels, max_tokens=64)
    floor = replace(bare, calibration=whole.calibration)
    assert not floor.needs_features
    assert not floor.has_body
    for name in ("head", "verbalizer", "demonstrations"):
        assert replace(bare, **{name: getattr(whole, name)}).needs_features
    for name in ("soft_prompt", "prefix", "lora", "weights"):
        assert replace(bare, **{name: getattr(whole, name)}).has_body


def test_temperature(whole: Adapter) -> None:
    """Zero points stay; a calibration that says nothing is no part."""
    assert whole.calibration is not None
    hotter = whole.with_temperature(4.0)
    assert hotter.temperature == 4.0
    assert hotter.calibration is not None
    assert hotter.calibration.bias_C is whole.calibration.bias_C
    bare = replace(whole, calibration=None)
    assert bare.temperature == 1.0
    assert "calibration" not in bare.with_temperature(1.0).parts()
    sure = bare.with_temperature(0.5)
    assert (sure.temperature, sure.calibration) == (0.5, Calibration(temperature=0.5))
    assert sure.with_temperature(1.0).sha256() == bare.sha256()
