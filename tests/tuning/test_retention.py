"""What a base forgets, against transformers' own loss on the same text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from tests import tiny
from tests.commands import write_topics
from tunewright.adapters.adapter import Adapter
from tunewright.api import compare
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.errors import ConfigError
from tunewright.tuning.progress import Clock, Start
from tunewright.tuning.retention import read_reference, retention

TEXT = " ".join(f"{word} and the old road" for word in tiny.WORDS)
GetFolder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tiny_folder: GetFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with a head of its own."""
    path = tmp_path_factory.mktemp("writer")
    config = transformers.AutoConfig.from_pretrained(tiny_folder("llama"), tie_word_embeddings=False)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)  # else nothing that is put before it would matter
    model.save_pretrained(path)
    transformers.AutoTokenizer.from_pretrained(tiny_folder("llama")).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(folder: Path) -> Decoder:
    return tiny.decoder(folder)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "elapsed.json", None, Start.now())


def expected(folder: Path, adapter: Adapter) -> tuple[float, int]:
    """Mean loss per token by transformers: pieces of half the context, each after <s> and the prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    total, count, size = 0.0, 0, tiny.MAX_TOKENS // 2
    prompt = torch.zeros(0, 32) if adapter.soft_prompt is None else adapter.soft_prompt.vectors_PD
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor([0, *piece]))])
        with torch.no_grad():
            logits = model(inputs_embeds=embeds[None]).logits[0, len(prompt) : -1]
        total += float(nn.functional.cross_entropy(logits, torch.tensor(piece), reduction="sum"))
        count += len(piece)
    return total / count, count


def test_loss_is_transformers(base: Decoder, folder: Path, clock: Clock) -> None:
    prompted = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 7, seed=1))
    found = retention(prompted, TEXT, base, clock)
    assert found.base is not None
    assert found.attached is not None
    loss, count = expected(folder, tiny.adapter(base))
    under, _ = expected(folder, prompted)
    assert found.tokens == count > tiny.MAX_TOKENS
    assert found.base == pytest.approx(loss, abs=1e-5)
    assert found.attached == pytest.approx(under - loss, abs=1e-5)
    assert abs(found.attached) > 1e-3
    assert found.detached == 0


def test_what_changes_nothing_reads_nought(base: Decoder, clock: Clock) -> None:
    """No body, or a LoRA whose B is zero: exactly 0. What does change the base: not 0, and 0 once it is off."""
    lora = tiny.lora(base, 2, seed=5)
    idle = replace(lora, up={name: torch.zeros_like(up) for name, up in lora.up.items()})
    for adapter in (tiny.adapter(base), tiny.adapter(base, lora=idle)):
        found = retention(adapter, TEXT, base, clock)
        assert (found.attached, found.detached) == (0, 0)
    ids = base.token_ids(TEXT)
    for part in (
        {"lora": lora},
        {"prefix": tiny.prefix(base, 5, seed=2)},
        {"weights": tiny.weights(base, 300, ids)},
        {"soft_prompt": tiny.soft_prompt(base, 5, seed=1)},
    ):
        found = retention(tiny.adapter(base, **part), TEXT, base, clock)
        assert found.attached is not None
        assert abs(found.attached) > 1e-4
        assert found.detached == 0


def test_an_encoder_is_not_measured(tiny_encoder: Callable[[str], Encoder], clock: Clock) -> None:
    base = tiny_encoder("bert")
    found = retention(tiny.adapter(base), TEXT, base, clock)
    assert found.base is None
    assert found.attached is None
    assert "is no decoder that writes" in str(found.reason)


def test_a_run_tells(folder: Path, tmp_path: Path) -> None:
    """Each candidate of a run, in its file and on its page."""
    (tmp_path / "reference.txt").write_text(TEXT, encoding="utf-8")
    run = compare(
        str(write_topics(tmp_path / "topics.csv", 60)),
        model=str(folder),
        methods="majority,linear-probe,soft-prompt,lora",
        trials=2,
        seeds=1,
        folds=1,
        retention=str(tmp_path / "reference.txt"),
        out=str(tmp_path / "run"),
    )
    found = {c.id: c.retention for c in run.comparison.candidates}
    for name in ("majority", "linear-probe"):
        kept = found[name]
        assert kept is not None
        assert (kept.attached, kept.detached) == (0, 0)
    for name in ("soft-prompt", "lora"):
        kept = found[name]
        assert kept is not None
        assert kept.attached
        assert kept.detached == 0
    page = run.report.read_text(encoding="utf-8")
    assert 'id="retention"' in page
    assert page.index('id="retention"') < page.index("Rise of its mean loss per token")


@pytest.mark.parametrize("content", [None, b"", b"one", b"\xff\xfe\x00"])
def test_bad_references(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "reference.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="`retention` must be"):
        read_reference(str(path))
