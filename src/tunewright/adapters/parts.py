"""The parts an adapter may have. Each is plain data: settings (JSON) and tensors, and nothing about methods.

Shapes: P virtual tokens, D model width, L layers, H key/value heads, d head width, r rank, C labels, N pool rows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from tunewright.prompts.template import Prompt

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


def strings(settings: Settings, name: str) -> tuple[str, ...]:
    """A list of texts among settings; none where it is left out."""
    found = settings.get(name, [])
    assert isinstance(found, list), "a list"
    return tuple(map(str, found))


class Part:
    """One optional part of an adapter: a frozen record of tensors, and of other values that it says as JSON itself."""

    mixes: ClassVar[bool] = True
    """Whether rows with different parts of this kind can share one forward pass."""

    def settings(self) -> dict[str, object]:
        """What is not a tensor, as JSON values."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name: that of their field without its shape."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {_SHAPE.sub("", name): value for name, value in own.items() if isinstance(value, Tensor)}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:  # noqa: ARG003
        """The inverse of `settings` and `tensors`; here of a record of tensors alone."""
        names = (each.name for each in fields(cls))  # type: ignore[arg-type]
        return cls(**{name: tensors[_SHAPE.sub("", name)] for name in names})


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

    def settings(self) -> dict[str, object]:
        return {"alpha": float(self.alpha)}

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

    def settings(self) -> dict[str, object]:
        return {"vocabulary": self.vocabulary}

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

    def settings(self) -> dict[str, object]:
        # Columns are left out where there are none, so that adapters saved before there were any keep their hash.
        return {"fixed": self.fixed, "row": self.row, **({"columns": list(self.columns)} if self.columns else {})}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:  # noqa: ARG003
        row = str(settings["row"])
        found = cls(fixed=str(settings["fixed"]), row=row, columns=strings(settings, "columns"))
        assert any(f"{{{name}}}" in row for name in found.places), "something of a row has its place"
        return found

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

    def settings(self) -> dict[str, object]:
        # Samples are left out at 1, so that adapters saved before there were several keep their hash.
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "stop": list(self.stop),
            **({} if self.samples == 1 else {"samples": self.samples}),
        }

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:  # noqa: ARG003
        most, temperature, top_p = (float(str(settings[k])) for k in ("max_new_tokens", "temperature", "top_p"))
        assert most >= 1, "an answer has tokens"
        assert 0 <= temperature < math.inf, "a temperature is not negative"
        assert 0 < top_p <= 1, "a share of the probability"
        found, samples = strings(settings, "stop"), int(str(settings.get("samples", 1)))
        assert all(found), "an empty text would end every answer"
        assert samples == 1 or (samples > 1 and temperature > 0), "answers of which none is drawn are all the same"
        return cls(max_new_tokens=int(most), temperature=temperature, top_p=top_p, stop=found, samples=samples)


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

    def settings(self) -> dict[str, object]:
        return {"phrases": [list(group) for group in self.phrases], "scale": float(self.scale)}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:  # noqa: ARG003
        groups = settings["phrases"]
        assert isinstance(groups, list)
        return cls(phrases=tuple(tuple(str(p) for p in group) for group in groups), scale=float(str(settings["scale"])))


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

    def settings(self) -> dict[str, object]:
        return {
            "texts": list(self.texts),
            "num_neighbours": self.num_neighbours,
            "temperature": float(self.temperature),
        }

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        return cls(
            texts=strings(settings, "texts"),
            labels_N=tensors["labels"],
            vectors_ND=tensors["vectors"],
            num_neighbours=int(str(settings["num_neighbours"])),
            temperature=float(str(settings["temperature"])),
        )


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

    def settings(self) -> dict[str, object]:
        # Left out at 1, so that adapters saved before there was a temperature keep their hash.
        return {} if self.temperature == 1 else {"temperature": float(self.temperature)}

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        temperature = float(str(settings.get("temperature", 1.0)))
        assert 0 < temperature < math.inf, "a temperature is positive"
        return cls(bias_C=tensors.get("bias"), temperature=temperature)
