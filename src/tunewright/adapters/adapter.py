"""The adapter: a frozen record of optional parts. Nothing here knows about methods, metrics or models."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from tunewright.adapters.members import Members
from tunewright.adapters.parts import (
    Calibration,
    Candidates,
    CopiedInput,
    Decoding,
    DemonstrationPool,
    Head,
    Lora,
    NearestTarget,
    Part,
    Prefix,
    Reasoning,
    SoftPrompt,
    Template,
    Thresholds,
    Tuner,
    Verbalizer,
    Weights,
)
from tunewright.adapters.prompt_encoder import PromptEncoder
from tunewright.adapters.retriever import Retriever

BODY_PARTS = ("template", "retriever", "soft_prompt", "prefix", "lora", "tuner", "weights")


@dataclass(frozen=True, kw_only=True)
class BaseIdentity:
    """Which model an adapter belongs to. Two bases are the same when both hashes are."""

    name: str
    """What the user called it: a name or a folder."""
    kind: str
    """`encoder`, `masked`, `decoder`, `seq2seq` or `remote`."""
    sha256: str
    """Over names, shapes and values of all weights, and the pooling unless it is the mean; of a remote one over
    URL and model name, as nobody here sees its weights."""
    tokenizer_sha256: str
    stem: str = ""
    """What its language model puts before the names of its modules, `transformer` or `model`, as PEFT's folders do."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What a method produced and what is evaluated and served: optional parts, and where they belong."""

    base: BaseIdentity
    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    max_tokens: int
    """Texts are cut to this many tokens, the soft prompt or prefix included, the template not."""
    template: Template | None = None
    retriever: Retriever | None = None
    soft_prompt: SoftPrompt | PromptEncoder | None = None
    prefix: Prefix | None = None
    lora: Lora | None = None
    tuner: Tuner | None = None
    weights: Weights | None = None
    head: Head | None = None
    verbalizer: Verbalizer | None = None
    demonstrations: DemonstrationPool | None = None
    calibration: Calibration | None = None
    thresholds: Thresholds | None = None
    candidates: Candidates | None = None
    decoding: Decoding | None = None
    reasoning: Reasoning | None = None
    members: Members | None = None
    copied_input: CopiedInput | None = None
    nearest_target: NearestTarget | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """Provenance in JSON values (task, method, parameters, scores); never read by the executor."""

    def parts(self) -> dict[str, Part]:
        """The parts that are there, by field name."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def mixes(self) -> bool:
        """Whether its rows can share a forward pass with rows of other adapters."""
        return all(part.mixes for part in self.parts().values())

    @property
    def update(self) -> Lora | Tuner | None:
        """What changes the outputs of the base's linear layers."""
        return self.lora if self.tuner is None else self.tuner

    @property
    def has_body(self) -> bool:
        """Whether it changes the base's features."""
        return self.members is not None or any(getattr(self, name) is not None for name in BODY_PARTS)

    @property
    def frames_rows(self) -> bool:
        """Whether words stand around each row."""
        return self.template is not None or self.members is not None

    @property
    def needs_features(self) -> bool:
        """Whether its answer depends on the text at all."""
        answering = (self.head, self.verbalizer, self.demonstrations, self.members)
        return self.scores_choices or any(part is not None for part in answering)

    @property
    def scores_phrases(self) -> bool:
        """Whether a label's logit is how likely its phrases are as the answer, not a matter of features."""
        return self.template is not None and (self.verbalizer is not None or self.scores_choices)

    @property
    def scores_choices(self) -> bool:
        """Whether the phrases are the row's own candidates."""
        return self.candidates is not None and self.template is not None and self.head is None

    @property
    def pairs_choices(self) -> bool:
        """Whether its answer is made of features of the text with each of the row's candidates."""
        return self.candidates is not None and self.head is not None

    @property
    def num_phrases(self) -> int:
        """F, that are scored for a row; 0 where none are."""
        if not self.scores_phrases:
            return 0
        return len(self.labels) if self.verbalizer is None else sum(map(len, self.verbalizer.phrases))

    @property
    def floor(self) -> CopiedInput | NearestTarget | None:
        """The part that answers in texts without the base."""
        return self.nearest_target if self.copied_input is None else self.copied_input

    @property
    def writes_text(self) -> bool:
        """Whether it answers with texts and not with labels."""
        return not self.labels

    @property
    def deliberates(self) -> bool:
        """Whether an answer in text is more than what is written: cut out of it, or voted for."""
        several = self.decoding is not None and self.decoding.samples > 1
        return self.reasoning is not None or self.members is not None or several

    @property
    def before_answer(self) -> str:
        """What an answer follows: the cue of a reasoning, else the row of a template."""
        assert self.template is not None
        return self.template.row if self.reasoning is None else self.reasoning.cue

    @cached_property
    def answering(self) -> "Adapter":
        """The same adapter when the reasoning is over."""
        assert self.template is not None
        template = dataclasses.replace(self.template, row=f"{self.template.row} {self.before_answer}")
        return dataclasses.replace(self, template=template, reasoning=None, decoding=None)

    @cached_property
    def each(self) -> tuple["Adapter", ...]:
        """An adapter for each of its members; itself where it has none."""
        if self.members is None:
            return (self,)
        bare = dataclasses.replace(self, members=None)
        return tuple(dataclasses.replace(bare, **member.parts()) for member in self.members.members)  # type: ignore[arg-type]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that its templates show beside the text: rows must come with them."""
        found = (each.template.columns for each in self.each if each.template is not None)
        return tuple(dict.fromkeys(name for names in found for name in names))

    def answer_in(self, text: str) -> str:
        """The answer in what was written."""
        return text.strip() if self.reasoning is None else self.reasoning.answer(text)

    @property
    def prefix_tokens(self) -> int:
        """Virtual tokens that take up positions before the text."""
        prompt = 0 if self.soft_prompt is None else self.soft_prompt.length
        return prompt + (0 if self.prefix is None else self.prefix.length)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, as `part.tensor`."""
        return {f"{name}.{key}": t for name, part in self.parts().items() for key, t in part.tensors().items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Adapter":
        """The same adapter with some tensors replaced; names as in `tensors()`."""
        changed: dict[str, Part] = {}
        for name, part in self.parts().items():
            mine = part.tensors()
            new = {key: tensors.get(f"{name}.{key}", tensor) for key, tensor in mine.items()}
            if any(new[key] is not mine[key] for key in mine):
                changed[name] = type(part).build(part.settings(), new)
        return dataclasses.replace(self, **changed) if changed else self  # type: ignore[arg-type]

    def settled(self) -> "Adapter":
        """The same adapter as it serves: of a prompt encoder its vectors alone."""
        prompt = self.soft_prompt
        return self if prompt is None else dataclasses.replace(self, soft_prompt=prompt.settled())

    @property
    def answers_sets(self) -> bool:
        """Whether it answers with all labels that fit and not with one."""
        return self.thresholds is not None

    @property
    def temperature(self) -> float:
        """By which logits are divided to become probabilities."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def with_temperature(self, temperature: float) -> "Adapter":
        """The same adapter, as sure of its answers as the temperature makes it."""
        before = Calibration() if self.calibration is None else self.calibration
        after = dataclasses.replace(before, temperature=temperature)
        return dataclasses.replace(self, calibration=after if after.settings() or after.tensors() else None)

    def with_about(self, about: Mapping[str, Any]) -> "Adapter":
        """The same adapter with another provenance."""
        return dataclasses.replace(self, about=dict(about))

    def num_bytes(self) -> int:
        """Bytes of all tensors and texts, as stored."""
        texts = json.dumps({name: part.settings() for name, part in self.parts().items()})
        return len(texts.encode()) + sum(t.numel() * t.element_size() for t in self.tensors().values())

    def sha256(self) -> str:
        """Hash over parts: settings, tensor names, shapes and values. Provenance does not count."""
        settings = {name: part.settings() for name, part in self.parts().items()}
        head = [self.base.sha256, self.base.tokenizer_sha256, list(self.labels), self.max_tokens, settings]
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        update_with_tensors(digest, self.tensors())
        return digest.hexdigest()


def update_with_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Feeds names, dtypes, shapes and bytes to a hash, in the order of the names."""
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())


PARTS: dict[str, type[Part]] = {
    name: get_args(hint)[0] for name, hint in get_type_hints(Adapter).items() if NoneType in get_args(hint)
}
"""Field of `Adapter` -> kind of part. The first seven change what the base computes, the rest turn it into answers."""
