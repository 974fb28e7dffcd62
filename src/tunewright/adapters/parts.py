"""The parts an adapter may have. Each is plain data: settings (JSON) and tensors, and nothing about methods.

Shapes: P virtual tokens, D model width, L layers, H key/value heads, d head width, r rank, C labels, N pool rows.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, ClassVar, Self, cast, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from tunewright.prompts.template import Prompt
from tunewright.prompts.tf_idf import TfIdf

Settings = Mapping[str, object]
"""JSON values only."""

MISFITS = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
"""What building a part from settings and tensors raises where they do not belong together."""

_VOCABULARY_IDS = "vocabulary_ids"

_EMBEDDING = re.compile(r"embed|\bw[tp]e\b|\bshared\b|SelfAttention\.relative_attention_bias")


def is_embedding(parameter: str) -> bool:
    """Whether a parameter of a base, by its name, belongs to the embeddings of words or positions."""
    return _EMBEDDING.search(parameter) is not None


_SHAPE = re.compile("_[A-Z][A-Za-z]*$")


@cache
def _readers(kind: Any) -> dict[str, TypeAdapter[Any]]:
    """Field that holds no tensors -> how its JSON values are read."""
    hints = [(each.name, get_type_hints(kind)[each.name]) for each in fields(kind)]
    return {name: TypeAdapter(hint) for name, hint in hints if Tensor not in (hint, *get_args(hint))}


class Part:
    """One optional part of an adapter: a frozen record of tensors, and of other values that it says as JSON itself."""

    mixes: ClassVar[bool] = True
    """Whether rows with different parts of this kind can share one forward pass."""

    later: ClassVar[tuple[str, ...]] = ()
    """Fields that `settings` leaves out at their defaults: adapters saved before there were any keep their hash."""

    def settings(self) -> dict[str, object]:
        """What is not a tensor, as JSON values."""
        found: dict[str, object] = {}
        for name, reader in _readers(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if name not in self.later or value != getattr(type(self), name):
                found[name] = reader.dump_python(reader.validate_python(value), mode="json")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name: that of their field without its shape."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {_SHAPE.sub("", name): value for name, value in own.items() if isinstance(value, Tensor)}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `settings` and `tensors`."""
        readers = _readers(cls)  # type: ignore[arg-type]
        try:
            given = {
                name: reader.validate_python(settings[name]) for name, reader in readers.items() if name in settings
            }
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None
        stems = {each.name: _SHAPE.sub("", each.name) for each in fields(cls)}  # type: ignore[arg-type]
        own = {name: tensors[stem] for name, stem in stems.items() if name not in readers and stem in tensors}
        found = cls(**given, **own)
        found.check()
        return found

    def check(self) -> None:
        """Refuses settings that mean nothing, by an assertion."""


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Part):
    """Vectors put before the input's embeddings (Lester et al. 2021, section 2)."""

    vectors_PD: Tensor

    @property
    def length(self) -> int:
        """Virtual tokens."""
        return self.vectors_PD.shape[0]

    def settled(self) -> "SoftPrompt":
        """What serves: itself."""
        return self


@dataclass(frozen=True, kw_only=True)
class Prefix(Part):
    """Keys and values put before those of the input in every layer (Li and Liang 2021; P-tuning v2)."""

    keys_LHPd: Tensor
    values_LHPd: Tensor

    @property
    def length(self) -> int:
        """Virtual tokens."""
        return self.keys_LHPd.shape[2]


@dataclass(frozen=True, kw_only=True)
class Lora(Part):
    """Low-rank updates of linear layers: W x + (alpha / r) B A x (Hu et al. 2021, section 4.1)."""

    alpha: float
    down: Mapping[str, Tensor]
    """Module name -> A, [r, in]."""
    up: Mapping[str, Tensor]
    """Module name -> B, [out, r]."""

    @property
    def rank(self) -> int:
        """r, the same for every layer."""
        return next(iter(self.down.values())).shape[0]

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank

    def tensors(self) -> dict[str, Tensor]:
        down = {f"{name}.down": tensor for name, tensor in self.down.items()}
        return down | {f"{name}.up": tensor for name, tensor in self.up.items()}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        return cls(
            alpha=float(str(settings["alpha"])),
            down={name.removesuffix(".down"): t for name, t in tensors.items() if name.endswith(".down")},
            up={name.removesuffix(".up"): t for name, t in tensors.items() if name.endswith(".up")},
        )


@dataclass(frozen=True, kw_only=True)
class Weights(Part):
    """New values for some or all of the base's own parameters. Its rows need a forward pass of their own."""

    values: Mapping[str, Tensor]
    """Parameter name of the base -> value, fp32."""
    vocabulary: str
    """Parameter name of the word embeddings, in `values` or not."""
    vocabulary_ids_V: Tensor
    """Token ids, ascending, of the rows that `values` holds of the word embeddings; the base has the others."""
    mixes: ClassVar[bool] = False

    def look_up(self, ids_BL: Tensor, embeds_BLD: Tensor) -> Tensor:
        """Word embeddings of a batch, where this record has its own.

        Args:
            ids_BL: Token ids.
            embeds_BLD: The base's embeddings of them; gives dtype and device.
        """
        if self.vocabulary not in self.values:
            return embeds_BLD
        known_V = self.vocabulary_ids_V.to(ids_BL.device)
        index_BL = torch.searchsorted(known_V, ids_BL).clamp(max=len(known_V) - 1)
        own_BLD = nn.functional.embedding(index_BL, self.values[self.vocabulary].to(embeds_BLD.device))
        return torch.where((known_V[index_BL] == ids_BL)[..., None], own_BLD.to(embeds_BLD.dtype), embeds_BLD)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.values, _VOCABULARY_IDS: self.vocabulary_ids_V}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        values = {name: tensor for name, tensor in tensors.items() if name != _VOCABULARY_IDS}
        ids_V = tensors[_VOCABULARY_IDS]
        return cls(values=values, vocabulary=str(settings["vocabulary"]), vocabulary_ids_V=ids_V)


@dataclass(frozen=True, kw_only=True)
class Head(Part):
    """A linear classifier on the pooled output of the base."""

    weight_CD: Tensor
    bias_C: Tensor


@dataclass(frozen=True, kw_only=True)
class Template(Part, Prompt):
    """Text around the input of a decoder: `[prefix][soft prompt][fixed][row]`, and then the answer.

    The fixed text is tokenised apart from the rows.
    """

    later: ClassVar = ("columns",)

    def check(self) -> None:
        assert any(f"{{{name}}}" in self.row for name in self.places), "something of a row has its place"

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        """A prompt as a part."""
        return cls(fixed=prompt.fixed, row=prompt.row, columns=prompt.columns)


@dataclass(frozen=True, kw_only=True)
class Decoding(Part):
    """How a decoder answers in text: token by token, the likeliest or drawn."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    """Divides the logits before a token is drawn; at 0 the likeliest is taken."""
    top_p: float = 1.0
    """Tokens are drawn from the likeliest that together have this probability (Holtzman et al. 2020, section 3.1)."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are no part of it; the model's end-of-text token always does."""
    samples: int = 1
    """Answers drawn to each row, of which the one that most of them give counts."""
    later: ClassVar = ("samples",)

    def check(self) -> None:
        assert self.max_new_tokens >= 1, "an answer has tokens"
        assert 0 <= self.temperature < math.inf, "a temperature is not negative"
        assert 0 < self.top_p <= 1, "a share of the probability"
        assert all(self.stop), "an empty text would end every answer"
        assert self.samples == 1 or (self.samples > 1 and self.temperature > 0), "answers that none draws are alike"


@dataclass(frozen=True, kw_only=True)
class Verbalizer(Part):
    """Phrases that stand for each label.

    Under a template a decoder scores them as answers: the mean log-probability per token, and of several phrases their
    mean. Else a text is scored by its similarity to their mean direction.
    """

    phrases: tuple[tuple[str, ...], ...]
    """One tuple of phrases for each label, in the labels' order."""
    scale: float
    """Logits are `scale` times the score or the cosine."""


@dataclass(frozen=True, kw_only=True)
class DemonstrationPool(Part):
    """Labelled examples to retrieve from: the nearest vote, weighted by similarity (Khandelwal et al. 2020, eq. 2)."""

    texts: tuple[str, ...]
    labels_N: Tensor
    """Label index of each text, int64; where a text may have several, [N, C] of 0 and 1."""
    vectors_ND: Tensor
    """Their features, of length 1."""
    num_neighbours: int
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Thresholds(Part):
    """Labels are answered each for itself: those whose logits are above these."""

    logits_C: Tensor


@dataclass(frozen=True, kw_only=True)
class Candidates(Part):
    """Labels are numbers of candidates that each row brings along.

    A head of one row scores the text with each of them; under a template they are scored as answers.
    """


@dataclass(frozen=True, kw_only=True)
class Calibration(Part):
    """A constant added to the logits of every row, and how sure the answers then are."""

    bias_C: Tensor | None = None
    temperature: float = 1.0
    """Divides the logits on their way to probabilities; it never changes a label."""
    later: ClassVar = ("temperature",)

    def check(self) -> None:
        assert 0 < self.temperature < math.inf, "a temperature is positive"


@dataclass(frozen=True, kw_only=True)
class Reasoning(Part):
    """The base writes its reasoning, then a cue, then its answer (Wei et al. 2022, section 2)."""

    cue: str
    """Stands between the two."""
    full_stop: bool = False
    """Whether a full stop at the end is part of an answer in text."""

    def answer(self, text: str) -> str:
        """What follows the last cue, to the end of its line; empty where there is no cue: such an answer is illegal."""
        _, cue, rest = text.rpartition(self.cue)
        line = rest.strip().partition("\n")[0].strip() if cue else ""
        return line if self.full_stop else line.removesuffix(".").strip()

    def check(self) -> None:
        assert self.cue.strip(), "a cue can be found"


def voted(answers: Sequence[str]) -> str:
    """The answer that most give, but for white space, the first of equals; illegal ones, which are empty, do not count.

    Self-consistency (Wang et al. 2023, section 2).
    """
    counts = Counter(" ".join(answer.split()) for answer in answers)
    del counts[""]
    if not counts:
        return ""
    return next(answer for answer in answers if " ".join(answer.split()) == counts.most_common(1)[0][0])


@dataclass(frozen=True, kw_only=True)
class CopiedInput(Part):
    """The answer is the input."""

    def answers(self, texts: Sequence[str]) -> list[str]:
        """To each text."""
        return list(texts)


@dataclass(frozen=True, kw_only=True)
class NearestTarget(Part):
    """The answer is the target of the training input with the most similar words."""

    texts: tuple[str, ...]
    """Training inputs."""
    targets: tuple[str, ...]
    """Of each."""

    @cached_property
    def _index(self) -> TfIdf:
        return TfIdf(self.texts)

    def answers(self, texts: Sequence[str]) -> list[str]:
        """To each text."""
        return [self.targets[k] for k in self._index.nearest(texts).tolist()] if texts else []

    def check(self) -> None:
        assert 0 < len(self.texts) == len(self.targets), "a target for each text"


@dataclass(frozen=True, kw_only=True)
class Tuner(Part):
    """An opaque adapter of PEFT's. Its rows need a forward pass of their own."""

    config: Mapping[str, Any]
    """PEFT's settings, JSON values, with the layers it changes by their names in the bare base."""
    values: Mapping[str, Tensor]
    """Name in PEFT's file -> value."""
    trained: tuple[str, ...]
    """Names of those that learn; the others are drawn once. None of them where PEFT's file is all that is known."""
    mixes: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """PEFT's name for it, such as `IA3`."""
        return str(self.config["peft_type"])

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.values)

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        trained = cast(list[str], settings["trained"])
        return cls(config=cast(dict[str, Any], settings["config"]), values=dict(tensors), trained=tuple(trained))
