"""An adapter for others: PEFT folders, a merged checkpoint, a body for vLLM, or its texts.

Each form leaves something behind, and says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import torch

from tunewright.adapters import peft_format
from tunewright.adapters.adapter import PARTS, Adapter
from tunewright.adapters.folder import in_peft_format
from tunewright.adapters.parts import Decoding, DemonstrationPool, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.backbones.merged import write_merged
from tunewright.errors import AdapterError, ConfigError, RunError
from tunewright.files import whole_folder, write_json, write_text
from tunewright.releases import payload

Target = Literal["peft", "vllm", "merged", "text"]

READERS: Mapping[Target, str] = {
    "peft": "PEFT; a decoder's LoRA also vLLM and other servers of LoRA",
    "vllm": "vLLM with `--enable-prompt-embeds`, decoders",
    "merged": "whatever reads a checkpoint of transformers",
    "text": "any model that is asked in words",
}
"""Who can run what each export writes."""

RUNS: Mapping[str, Mapping[Target, str]] = {
    "soft_prompt": {"peft": "as it is", "vllm": "as vectors, with each request"},
    "prefix": {"peft": "as it is"},
    "lora": {"peft": "as it is", "merged": "added to the weights"},
    "tuner": {"peft": "as it is"},
    "weights": {"merged": "in place of the base's"},
    "template": {"vllm": "its words as vectors", "text": "as words"},
    "verbalizer": {"text": "its phrases, to choose from"},
    "decoding": {"vllm": "as settings of the request"},
    "demonstrations": {"text": "all of them, none retrieved"},
    "retriever": {"vllm": "what it finds, as vectors", "text": "all of them, none retrieved"},
}
"""Part -> export -> in what form it goes along. What is missing here is left behind."""


_NOT_ALONE = {"decoding"}
"""Settings of other parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    kept: tuple[str, ...]
    """Parts that went along."""
    lost: tuple[str, ...]
    """Parts that are left behind: answers differ by what they did."""


def export(
    adapter: Adapter, target: Target, out: Path, *, model: str | None = None, text: str | None = None
) -> Exported:
    """Writes an adapter in a form that others read.

    Args:
        adapter: The adapter.
        target: The form.
        out: Folder or file to make.
        model: Where the base is, when not under the name it had in training.
        text: With `vllm`, what is asked.

    Raises:
        ConfigError: `text` without `vllm`, or the other way round.
        AdapterError: None of the adapter's parts has this form, or it belongs to another base.
        RunError: `out` exists.
    """
    if target == "vllm" and text is None:
        raise ConfigError("`--to vllm` writes the body of one request. Give what it asks with --text.")
    if target != "vllm" and text is not None:
        raise ConfigError(f"`--text` is what vLLM is asked; --to {target} has no use for it. Leave it out.")
    theirs = in_peft_format(adapter.base.kind) if target == "peft" else RUNS  # where PEFT means the same by a part
    kept = tuple(name for name in adapter.parts() if target in RUNS.get(name, {}) and name in theirs)
    if set(kept) <= _NOT_ALONE:
        allowed = ", ".join(name for name, forms in RUNS.items() if target in forms)
        raise AdapterError(f"--to {target} has a form for {allowed}. The adapter has {', '.join(adapter.parts())}.")
    if out.exists():
        raise RunError(f"{out} exists. Choose another --out or remove it.")
    source = adapter.base.name if model is None else model
    _WRITERS[target](adapter, out, source, "" if text is None else text)
    return Exported(path=out, kept=kept, lost=tuple(name for name in adapter.parts() if name not in kept))


def table() -> str:
    """Which export carries which part, as Markdown."""
    targets = tuple(READERS)
    lines = [f"| part | {' | '.join(f'`--to {name}`' for name in targets)} |", "|---" * (len(targets) + 1) + "|"]
    lines += [
        f"| {part.replace('_', ' ')} | {' | '.join(RUNS.get(part, {}).get(name, '-') for name in targets)} |"
        for part in PARTS
    ]
    lines.append(f"| *read by* | {' | '.join(READERS[name] for name in targets)} |")
    return "\n".join(lines) + "\n"


def _peft(adapter: Adapter, out: Path, source: str, _: str) -> None:
    with whole_folder(out) as folder:
        for name, part in adapter.parts().items():
            if name in in_peft_format(adapter.base.kind):
                peft_format.write(part, folder / name, base_name=source)


def _merged(adapter: Adapter, out: Path, source: str, _: str) -> None:
    open_base(adapter, source)
    with whole_folder(out) as folder:
        write_merged(source, adapter, folder)


def _vllm(adapter: Adapter, out: Path, source: str, text: str) -> None:
    vectors_ND = payload.prompt_vectors(adapter, open_base(adapter, source), text)
    write_json(out, payload.body(vectors_ND, decoding_of(adapter), model=source))


def decoding_of(adapter: Adapter) -> Decoding:
    """How the adapter answers in text; the defaults where it does not say."""
    return Decoding() if adapter.decoding is None else adapter.decoding


def in_words(adapter: Adapter) -> list[str]:
    """The parts of an adapter that are words, each as a paragraph."""
    found = []
    if adapter.template is not None:
        found += [adapter.template.fixed.strip(), adapter.template.row]
    verbalizer, pool = adapter.verbalizer, adapter.demonstrations
    if verbalizer is not None:
        found.append(_phrases(adapter, verbalizer))
    if pool is not None:
        found.append(_demonstrations(adapter, pool))
    if adapter.retriever is not None:
        found.insert(1, "".join(adapter.retriever.shown).strip())
    return [words for words in found if words]


def _phrases(adapter: Adapter, verbalizer: Verbalizer) -> str:
    lines = [f"{label}: {'; '.join(group)}" for label, group in zip(adapter.labels, verbalizer.phrases, strict=True)]
    return "\n".join(["Answer with one of these labels:", *lines])


def _demonstrations(adapter: Adapter, pool: DemonstrationPool) -> str:
    if pool.labels_N.ndim == 2:
        labels = [", ".join(compress(adapter.labels, row)) for row in pool.labels_N.tolist()]
    else:
        labels = [adapter.labels[index] for index in pool.labels_N.tolist()]
    return "\n\n".join(f"Text: {text}\nLabel: {label}" for text, label in zip(pool.texts, labels, strict=True))


def open_base(adapter: Adapter, source: str) -> Backbone:
    """The base, checked to be the adapter's own.

    Raises:
        AdapterError: It is another one.
    """
    base = open_backbone(load_checkpoint(source), dtype=torch.float32, device=torch.device("cpu"))
    base.check(adapter)
    return base


_WRITERS: Mapping[Target, Callable[[Adapter, Path, str, str], None]] = {
    "peft": _peft,
    "vllm": _vllm,
    "merged": _merged,
    "text": lambda adapter, out, _source, _text: write_text(out, "\n\n".join(in_words(adapter)) + "\n"),
}
