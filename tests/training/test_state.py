"""A training that was saved and goes on is the training that never stopped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tunewright.backbones.backbone import Backbone
from tunewright.errors import AdapterError
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.training import state
from tunewright.training.loop import Observe, Trained
from tunewright.training.state import State
from tunewright.tuning.attempt import attempt, prepare
from tunewright.types import DevScore, Params

EPOCHS = 5
METHOD_NAMES = ("soft-prompt", "p-tuning", "prefix", "lora", "gradual-unfreezing", "linear-probe")


def stops_after(epochs: float) -> Observe:
    def observe(progress: float, score: DevScore | None) -> str | None:
        return "time is up" if score is not None and progress >= epochs else None

    return observe


def run(base: Backbone, name: str, *, until: float, saved: State | None = None, keeps: bool = False) -> Trained:
    shop = prepare(tiny.task(), base, tiny.examples(15), tiny.examples(9, seed=1), METRICS["accuracy"], base.max_tokens)
    space = METHODS[name].space(shop.material)
    params: Params = {n: c.default for n, c in space.items()} | {"epochs": EPOCHS, "batch_size": 4}
    rng = generator("state", name)
    return attempt(METHODS[name], params, shop, rng, stops_after(until), state=saved, keeps_state=keeps).trained


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_goes_on_as_if_never_stopped(
    name: str, kind: str, tiny_backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """Bit for bit, dropout and shuffling too; and another start would have ended elsewhere."""
    base = tiny_backbone(kind)
    whole = run(base, name, until=EPOCHS + 1)
    half = run(base, name, until=2, keeps=True)
    assert half.state is not None
    assert half.stopped == "time is up"
    state.save(half.state, tmp_path)
    found = state.load(tmp_path)
    assert found is not None
    rest = run(base, name, until=EPOCHS + 1, saved=found)
    assert rest.scores == whole.scores
    assert rest.adapter.sha256() == whole.adapter.sha256()
    assert rest.num_tokens == whole.num_tokens
    assert rest.dev_logits_NC is not None
    assert whole.dev_logits_NC is not None
    assert torch.equal(rest.dev_logits_NC, whole.dev_logits_NC)
    anew = run(base, name, until=EPOCHS + 1, saved=found.anew())
    assert len(anew.scores) >= len(whole.scores) - 1
    assert anew.scores[0] != whole.scores[0]


def test_moments_are_adams(tiny_backbone: Callable[[str], Backbone]) -> None:
    """One step: the first moment is a tenth of the gradient, the second a thousandth of its square."""
    found = run(tiny_backbone("bert"), "linear-probe", until=1, keeps=True).state
    assert found is not None
    first, second = found.moments["head.weight/exp_avg"], found.moments["head.weight/exp_avg_sq"]
    assert float(found.moments["head.weight/step"]) == found.num_steps == 4
    assert first.abs().max() > 0
    assert (second > 0).any()
    # Cauchy and Schwarz, with Adam's weights: (sum a g)^2 <= (sum a^2 / b) (sum b g^2)
    a, b = ([0.1 * 0.9**k for k in range(4)], [0.001 * 0.999**k for k in range(4)])
    limit = sum(x * x / y for x, y in zip(a, b, strict=True))
    assert (first.square() <= limit * second * (1 + 1e-4) + 1e-12).all()


def test_broken_files(tmp_path: Path, tiny_backbone: Callable[[str], Backbone]) -> None:
    assert state.load(tmp_path) is None
    path = tmp_path / state.FILE_NAME
    path.write_bytes(b"no tensors")
    with pytest.raises(AdapterError, match="cannot read"):
        state.load(tmp_path)
    save_file({"leaves/head.weight": torch.zeros(2)}, path)
    with pytest.raises(AdapterError, match="training"):
        state.load(tmp_path)
    kept = run(tiny_backbone("bert"), "linear-probe", until=1, keeps=True).state
    assert kept is not None
    kept.moments["head.bias/exp_avg"][0] = float("nan")
    state.save(kept, tmp_path)
    with pytest.raises(AdapterError, match=r"not finite in moments/head\.bias/exp_avg"):
        state.load(tmp_path)
