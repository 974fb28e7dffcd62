"""What a training leaves behind for another one to begin with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import tiny
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.inference import FeatureStore
from tunewright.errors import AdapterError
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.training import state
from tunewright.training.loop import Settings, Trained, train
from tunewright.training.objective import Exam
from tunewright.tuning.attempt import Workshop, attempt, prepare
from tunewright.tuning.start import Start
from tunewright.types import DevScore, Params

METHOD_NAMES = ("soft-prompt", "p-tuning", "prefix", "lora", "gradual-unfreezing")


def shop_of(base: Backbone) -> Workshop:
    return prepare(tiny.task(), base, tiny.examples(15), tiny.examples(9, seed=1), METRICS["accuracy"], base.max_tokens)


def run(shop: Workshop, name: str, **changed: float) -> Trained:
    space = METHODS[name].space(shop.material)
    params: Params = {n: c.default for n, c in space.items()} | {"epochs": 4, "batch_size": 4} | changed
    rng = generator("state", name)
    return attempt(METHODS[name], params, shop, rng, lambda *_: None, keeps_state=True).trained


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_begins_at_the_best_epoch(name: str, tiny_backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """What is kept is of the epoch that the adapter is of: another run, with next to no rate, is where it was."""
    shop = shop_of(tiny_backbone("llama"))
    # A rate so high that the last epoch is seldom the best.
    first = run(shop, name, lr=0.3)
    assert first.state is not None
    assert first.best is not None
    state.save(first.state, tmp_path)
    start = Start(path=tmp_path, adapter=first.adapter, state=state.load(tmp_path))
    again = run(replace(shop, start=start), name, lr=1e-9, epochs=1)
    assert again.scores[0].value == first.best.value
    assert again.scores[0].loss == pytest.approx(first.best.loss, abs=1e-4)
    for key, tensor in first.adapter.tensors().items():
        torch.testing.assert_close(again.adapter.tensors()[key], tensor, atol=1e-5, rtol=1e-5)


def test_moments_go_on_in_adam(tiny_backbone: Callable[[str], Backbone]) -> None:
    """The first step is that of torch's AdamW with the moments of the best epoch, not with none."""
    base = tiny_backbone("bert")
    shop = shop_of(base)
    kept = run(shop, "linear-probe").state
    assert kept is not None
    rows, adapter = shop.material.rows, tiny.adapter(base)
    leaves = {name.removeprefix("head."): tensor.clone().requires_grad_() for name, tensor in kept.leaves.items()}
    features_ND = FeatureStore(base)(rows.encodings)
    nn.functional.cross_entropy(features_ND @ leaves["weight"].T + leaves["bias"], rows.labels_N).backward()
    expected = {}
    for with_moments in (True, False):
        mine = {name: tensor.detach().clone() for name, tensor in leaves.items()}
        oracle = torch.optim.AdamW(mine.values(), lr=0.01, weight_decay=0.0)
        for name, tensor in mine.items():
            tensor.grad = leaves[name].grad
            if with_moments:
                keys = ("step", "exp_avg", "exp_avg_sq")
                oracle.state[tensor] = {key: kept.moments[f"head.{name}/{key}"].clone() for key in keys}
        oracle.step()
        expected[with_moments] = mine
    settings = Settings(lr=0.01, epochs=1, batch_size=15, weight_decay=0.0, warmup=1.0, dropout=0.0, clip=1e9)
    found = train(
        adapter,
        lambda _: {"head.weight": 1.0, "head.bias": 1.0},
        settings,
        rows,
        Exam(rows=rows, score=lambda *_: 1.0),
        store=FeatureStore(base),
        rng=generator("x"),
        observe=lambda *_: None,
        state=kept,
    ).adapter.tensors()
    for name, tensor in expected[True].items():
        torch.testing.assert_close(found[f"head.{name}"], tensor, atol=1e-6, rtol=0)
        assert (tensor - expected[False][name]).abs().max() > 1e-4


def test_what_is_kept_is_not_changed_by_later_epochs(tiny_backbone: Callable[[str], Backbone]) -> None:
    """The third epoch is worse by decree: moments are those of a training that ended after the second."""
    base = tiny_backbone("bert")
    shop = shop_of(base)
    values = iter((0.1, 0.9, 0.5, 0.4))
    worse = replace(shop, exam=Exam(rows=shop.exam.rows, score=lambda *_: next(values)))
    long = run(worse, "linear-probe")
    assert long.best == DevScore(epoch=2, value=0.9, loss=long.scores[1].loss)
    assert long.state is not None
    assert float(long.state.moments["head.weight/step"]) == 2 * 4
    assert torch.equal(long.state.leaves["head.weight"], long.adapter.tensors()["head.weight"])


def test_broken_files(tmp_path: Path, tiny_backbone: Callable[[str], Backbone]) -> None:
    assert state.load(tmp_path) is None
    path = tmp_path / state.FILE_NAME
    path.write_bytes(b"no tensors")
    with pytest.raises(AdapterError, match="cannot read"):
        state.load(tmp_path)
    save_file({"other/head.weight": torch.zeros(2)}, path)
    with pytest.raises(AdapterError, match=r"holds other/head\.weight"):
        state.load(tmp_path)
    kept = run(shop_of(tiny_backbone("bert")), "linear-probe").state
    assert kept is not None
    kept.moments["head.bias/exp_avg"][0] = float("nan")
    state.save(kept, tmp_path)
    with pytest.raises(AdapterError, match=r"not finite in moments/head\.bias/exp_avg"):
        state.load(tmp_path)
