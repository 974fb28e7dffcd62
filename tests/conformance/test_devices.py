"""The law of devices: adapters lie on the CPU, the base anywhere, and every part finds the other.

No accelerator is needed: torch's fake tensors compute shapes and devices only, and refuse to mix two devices as an
accelerator does. `meta` stands for it, because a torch built without cuda cannot index tensors on that.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.backbones import causal, encoder, packed, prefix, tokens
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.inference import FeatureStore, predict

ELSEWHERE = torch.device("meta")
KINDS = ("bert", "electra", "modernbert", "deberta-v2", "gpt2", "llama", "qwen3")
"""Plain; embeddings narrower than the features; rotary positions; a pass for each LoRA; decoders."""

TEXTS = ["soup", "a train to the choir"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Within it nothing is computed but shapes and devices."""

    def real(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with unset_fake_temporarily():  # the shapes of a layout follow from values, which fake tensors have not
                return function(*arguments)

        return run

    monkeypatch.setattr(encoder, "lay_out", real(tokens.lay_out))
    monkeypatch.setattr(packed, "padding", real(packed.padding))
    monkeypatch.setattr(causal, "whole", lambda _seen: False)
    monkeypatch.setattr(prefix, "same", lambda now, then: now is then)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def moved(folder: Path, mode: FakeTensorMode) -> Backbone:
    """The encoder of a folder, its weights on the other device."""
    with unset_fake_temporarily():
        base = tiny.backbone(folder)
        assert getattr(base, "_mixes_loras", True) in (True, False)  # found out by running: not with fake values
    for module in (*base._model.modules(), getattr(base, "next_token", nn.Module())):
        for name, weight in module.named_parameters(recurse=False):
            there = nn.Parameter(mode.from_tensor(weight.detach()).to(ELSEWHERE), requires_grad=False)
            module._parameters[name] = there
        for name, tensor in module.named_buffers(recurse=False):
            module._buffers[name] = mode.from_tensor(tensor).to(ELSEWHERE)
    base._device = ELSEWHERE
    return base


def without_reasoning(base: Backbone) -> Adapter:
    """Every part but that: which token is written next hangs on values, which fake tensors have not."""
    return replace(tiny.every_part(base), reasoning=None)


def adapters(base: Backbone) -> list[Adapter]:
    """Each part alone, all of them, none of the answering ones, and two LoRAs that are unlike."""
    whole = (
        without_reasoning(base)
        if base.prefix_shape is not None
        else tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 3, seed=1), lora=tiny.lora(base, 2, seed=100))
    )
    bare = Adapter(base=base.identity, labels=whole.labels, max_tokens=base.max_tokens)
    alone = [replace(bare, **{name: part}) for name, part in whole.parts().items()]  # type: ignore[arg-type]
    return [whole, replace(whole, weights=None), *alone, tiny.adapter(base, lora=tiny.lora(base, 3, seed=50))]


@pytest.mark.parametrize("kind", KINDS)
def test_base_on_another_device(kind: str, fake: FakeTensorMode, tiny_folder: Callable[[str], Path]) -> None:
    """Every part alone and all in one batch: answered where the base is."""
    with unset_fake_temporarily():
        found = adapters(tiny.backbone(tiny_folder(kind)))
    base = moved(tiny_folder(kind), fake)
    encodings = tiny.encodings(base, TEXTS)
    batches = [tiny.rows(adapter, encodings) for adapter in found]
    batches.append([Row(encoding=e, adapter=adapter) for adapter in found for e in encodings])
    for rows in batches:
        for logits_C in base.logits(rows):
            assert (logits_C.shape, logits_C.device) == ((3,), ELSEWHERE)


def test_features_on_the_cpu(fake: FakeTensorMode, tiny_folder: Callable[[str], Path]) -> None:
    """A store keeps features on the CPU: predictions, and training while the body stands still, start from there."""
    with unset_fake_temporarily():
        found = adapters(tiny.backbone(tiny_folder("bert")))
    base = moved(tiny_folder("bert"), fake)
    encodings, store = tiny.encodings(base, TEXTS), FeatureStore(base)
    for adapter in found:
        logits_NC = predict(adapter, encodings, store)
        assert (logits_NC.shape, logits_NC.device.type) == ((2, 3), "cpu")
        dropout = Dropout(share=0.1, generator=torch.Generator())
        assert base.answer(adapter, torch.zeros(2, base.width), dropout).device.type == "cpu"


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_gradients_come_back(kind: str, fake: FakeTensorMode, tiny_folder: Callable[[str], Path]) -> None:
    """To the adapter's tensors, on the CPU where the optimizer is."""
    with unset_fake_temporarily():
        whole = without_reasoning(tiny.backbone(tiny_folder(kind)))
    base = moved(tiny_folder(kind), fake)
    live = {n: fake.from_tensor(t).requires_grad_() for n, t in whole.tensors().items() if t.is_floating_point()}
    rows = tiny.rows(whole.with_tensors(live), tiny.encodings(base, TEXTS))
    torch.stack(base.logits(rows)).sum().backward()
    up = next(name for name in live if name.endswith(".up"))
    for name in ("soft_prompt.vectors", "prefix.keys", up, "head.weight"):
        gradient = live[name].grad
        assert gradient is not None, name
        assert gradient.device.type == "cpu", name
