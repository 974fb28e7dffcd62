"""An adapter on disk: `adapter.json`, `adapter.safetensors`, and `peft/<part>/` for the parts PEFT has a format for."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tunewright.adapters import peft_format
from tunewright.adapters.adapter import PARTS, Adapter, BaseIdentity
from tunewright.adapters.parts import MISFITS, Part, Tuner
from tunewright.errors import AdapterError
from tunewright.files import whole_folder

SCHEMA_VERSION = 1
_RECORD = "adapter.json"
_TENSORS = "adapter.safetensors"


def save(adapter: Adapter, folder: Path) -> None:
    """Writes the adapter, whole or not at all; an adapter already there is replaced.

    Raises:
        RunError: Disk full or read-only.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "base": dataclasses.asdict(adapter.base),
        "labels": list(adapter.labels),
        "max_tokens": adapter.max_tokens,
        "parts": {name: part.settings() for name, part in adapter.parts().items()},
        "sha256": adapter.sha256(),
        "about": dict(adapter.about),
    }
    shared, task_type = in_peft_format(adapter.base.kind), peft_format.FEATURES  # for a head; else of a language model
    if adapter.head is None:
        task_type = peft_format.LANGUAGE_MODELS.get(adapter.base.kind, task_type)
    own = {k: t for k, t in adapter.tensors().items() if k.split(".")[0] not in shared}
    with whole_folder(folder) as temporary:
        (temporary / _RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        peft_format.write_tensors(own, temporary / _TENSORS)
        for name, part in adapter.parts().items():
            if name in shared:
                stem = "" if task_type == peft_format.FEATURES else adapter.base.stem
                target = temporary / "peft" / name
                peft_format.write(part, target, base_name=adapter.base.name, task_type=task_type, stem=stem)


def load(folder: Path) -> Adapter:
    """Reads an adapter and checks that it is what was saved.

    Raises:
        AdapterError: No adapter there, a part of an unknown kind, a tensor changed or not finite.
    """
    record = _read_record(folder)
    try:
        adapter = _build(folder, record)
    except MISFITS as error:
        raise AdapterError(f"{folder / _RECORD} does not fit its tensors: {error!r}. Restore the folder.") from None
    if adapter.sha256() != record["sha256"]:
        raise AdapterError(f"{folder} is not what was saved: its hash differs from {_RECORD}. Restore or train again.")
    return adapter


def _build(folder: Path, record: dict[str, Any]) -> Adapter:
    unknown = sorted(set(record["parts"]) - set(PARTS))
    if unknown or record["schema_version"] > SCHEMA_VERSION:
        what = f"schema {record['schema_version']}, parts {', '.join(record['parts'])}"
        raise AdapterError(f"{folder} was written by a newer version ({what}). Update tunewright.")
    return Adapter(
        base=BaseIdentity(**record["base"]),
        labels=tuple(record["labels"]),
        max_tokens=int(record["max_tokens"]),
        about=dict(record["about"]),
        **_read_parts(folder, record["parts"], record["base"]),  # type: ignore[arg-type]
    )


def in_peft_format(kind: str) -> tuple[str, ...]:
    """Parts by which PEFT means the same: it puts the prefix of an encoder-decoder before the decoder's own tokens."""
    return tuple(name for name in peft_format.PEFT_PARTS if (name, kind) != ("prefix", "seq2seq"))


def _read_parts(folder: Path, settings: dict[str, dict[str, object]], base: dict[str, Any]) -> dict[str, Part]:
    stored = peft_format.read_tensors(folder / _TENSORS, "Restore the folder, or train again.")
    parts: dict[str, Part] = {}
    for name, part_settings in settings.items():
        if name in in_peft_format(base["kind"]):
            parts[name] = peft_format.read(folder / "peft" / name, stem=base.get("stem", ""))
            if isinstance(part := parts[name], Tuner):
                parts[name] = Tuner.build(part_settings, part.tensors())
        else:
            tensors = {k.removeprefix(f"{name}."): t for k, t in stored.items() if k.startswith(f"{name}.")}
            parts[name] = PARTS[name].build(part_settings, tensors)
    return parts


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    if not path.exists():
        raise AdapterError(
            f"{folder} is no adapter folder: no {_RECORD}. Give a folder such as runs/NAME/adapters/METHOD."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path} is not valid JSON: {error}. Restore the folder.") from None
    if not isinstance(record, dict):
        raise AdapterError(f"{path} holds no adapter. Restore the folder.")
    missing = {"schema_version", "base", "labels", "max_tokens", "parts", "sha256", "about"} - set(record)
    if missing:
        raise AdapterError(f"{path} lacks {', '.join(sorted(missing))}. Restore the folder.")
    return record
