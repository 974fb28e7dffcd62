"""Tasks for `bench.serving`: example texts, adapters, a registry of many tasks, a base in the shape of GPT-2."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from bench import EXAMPLE
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Head, Lora, SoftPrompt
from tunewright.backbones.backbone import Backbone
from tunewright.releases.state import State
from tunewright.releases.tables import tasks as task_table
from tunewright.releases.tables import versions

LENGTHS = (5, 10, 20, 50, 100)
MODEL = "embedded"


def texts() -> list[str]:
    """Messages of the example data."""
    with EXAMPLE.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def save(base: Backbone, parent: Path, name: str, seed: int, **parts: Any) -> Path:
    """An adapter with a random head and the given parts."""
    rng = torch.Generator().manual_seed(seed)
    writes = "decoding" in parts
    head = None if writes else Head(weight_CD=torch.randn(4, base.width, generator=rng), bias_C=torch.zeros(4))
    adapter = Adapter(
        base=base.identity,
        labels=() if writes else ("a", "b", "c", "d"),
        max_tokens=base.max_tokens,
        head=head,
        about={"dtype": str(base.dtype).removeprefix("torch.")},
        **parts,
    )
    folder.save(adapter, parent / name)
    return parent / name


def soft_prompts(base: Backbone, parent: Path, count: int) -> dict[Path, int]:
    """Adapter folder -> length of its soft prompt."""
    width = base.word_embeddings.shape[1]
    found = {}
    for k in range(count):
        length = LENGTHS[k % len(LENGTHS)]
        vectors_PD = 0.05 * torch.randn(length, width, generator=torch.Generator().manual_seed(k))
        found[save(base, parent, f"soft-{k}", k, soft_prompt=SoftPrompt(vectors_PD=vectors_PD))] = length
    return found


def loras(base: Backbone, parent: Path, count: int, rank: int = 8) -> list[Path]:
    """Adapter folders of LoRAs on all linear layers of the attention."""
    rng = torch.Generator().manual_seed(1)
    found = []
    for k in range(count):
        some = {n: m for n, m in base.linears.items() if n.endswith(("query", "value", "c_attn"))}
        down = {n: 0.05 * torch.randn(rank, m.in_features, generator=rng) for n, m in some.items()}
        up = {n: 0.05 * torch.randn(m.out_features, rank, generator=rng) for n, m in some.items()}
        found.append(save(base, parent, f"lora-{k}", k, lora=Lora(alpha=16, down=down, up=up)))
    return found


def register(where: Path, folders: Sequence[Path], count: int) -> list[str]:
    """Tasks at version 1, over and over the same folders; all in one transaction."""
    state = State.open(str(where))
    names = [f"task-{k:05}" for k in range(count)]
    hashes = {path: folder.load(path) for path in folders}
    rows = [
        {
            "task": name,
            "version": 1,
            "folder": str(folders[k % len(folders)]),
            "adapter_sha256": hashes[folders[k % len(folders)]].sha256(),
            "base_name": MODEL,
            "base_sha256": hashes[folders[k % len(folders)]].base.sha256,
            "added_at": "",
            "added_by": "bench",
        }
        for k, name in enumerate(names)
    ]
    with state._database.writing() as connection:
        live = [{"name": name, "last_version": 1, "live": 1, "shadow_share": 0.0} for name in names]
        connection.execute(task_table.insert(), live)
        connection.execute(versions.insert(), rows)
    state.close()
    return names


def gpt2(parent: Path, *, narrow: bool = False) -> str:
    """Random weights in the shape of GPT-2 124M, or of two narrow layers, and a tokenizer of the example texts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.train_from_iterator(texts(), BpeTrainer(vocab_size=4000, special_tokens=["<|endoftext|>"]))
    end = "<|endoftext|>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
    fast.save_pretrained(parent / "gpt2")
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 64, "n_head": 2} if narrow else {}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).save_pretrained(parent / "gpt2")
    return str(parent / "gpt2")


def saved(base: Backbone, path: Path) -> str:
    """The embedded model as a folder that PEFT's side can load."""
    base._masters.save_pretrained(path)  # type: ignore[operator]
    base._checkpoint.tokenizer.save_pretrained(path)
    return str(path)
