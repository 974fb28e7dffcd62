"""A soft prompt while it trains through a small network (Liu et al. 2021, P-tuning, section 3.2).

The network makes the vectors, so that a step moves all of them together; what serves is the vectors alone. Tensors are
named, and values computed, as in `peft.PromptEncoder`.

Shapes: P virtual tokens, E width of the embeddings, H hidden width.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from tunewright.adapters.parts import Part, Settings, SoftPrompt

Network = Literal["mlp", "lstm"]

INPUTS = "embedding.weight"
_LSTM, _MLP = "lstm_head", "mlp_head"
_LSTM_TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True, kw_only=True)
class PromptEncoder(Part):
    """Learned inputs and the network that turns them into a soft prompt. Stands where a `SoftPrompt` would."""

    weights: Mapping[str, Tensor]
    """Name as in PEFT -> value: `embedding.weight` [P, E], `lstm_head.*` if there is one, `mlp_head.<k>.weight`."""

    @classmethod
    def random(cls, network: Network, shape: tuple[int, int], hidden: int, generator: torch.Generator) -> Self:
        """Inputs and layers as torch and PEFT begin them.

        Args:
            network: `mlp`, three linear layers; or `lstm`, a bidirectional layer and two linear ones.
            shape: (P, E).
            hidden: H; the LSTM has as many units in each direction.
            generator: Draws them.
        """
        width = shape[1]

        def drawn(inputs: int, *size: int) -> Tensor:
            return (2 * torch.rand(size, generator=generator) - 1) / math.sqrt(inputs)

        weights = {INPUTS: torch.randn(shape, generator=generator)}
        sizes = [width, hidden, hidden, width]
        if network == "lstm":
            for end in ("_l0", "_l0_reverse"):
                weights |= {f"{_LSTM}.weight_ih{end}": drawn(hidden, 4 * hidden, width)}
                weights |= {f"{_LSTM}.weight_hh{end}": drawn(hidden, 4 * hidden, hidden)}
                weights |= {f"{_LSTM}.{bias}{end}": drawn(hidden, 4 * hidden) for bias in ("bias_ih", "bias_hh")}
            sizes = [2 * hidden, 2 * hidden, width]
        for k, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            weights[f"{_MLP}.{2 * k}.weight"] = drawn(inputs, outputs, inputs)
            weights[f"{_MLP}.{2 * k}.bias"] = drawn(inputs, outputs)
        return cls(weights=weights)

    @property
    def length(self) -> int:
        """Virtual tokens."""
        return self.weights[INPUTS].shape[0]

    @property
    def vectors_PD(self) -> Tensor:  # noqa: N802
        """The soft prompt, [P, E]; gradients flow to the network."""
        name, values_PH = self._last_layer()
        return nn.functional.linear(values_PH, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def settled(self) -> SoftPrompt:
        """What serves: the vectors alone."""
        return SoftPrompt(vectors_PD=self.vectors_PD.detach())

    def ending_at(self, vectors_PD: Tensor) -> "PromptEncoder":
        """The same network with a last layer that makes these vectors (exactly while P is at most its width)."""
        name, values_PH = self._last_layer()
        mean_D = vectors_PD.double().mean(0)
        weight_DH = (torch.linalg.pinv(values_PH.double(), rtol=1e-4) @ (vectors_PD.double() - mean_D)).T
        last = {f"{name}.weight": weight_DH.float().contiguous(), f"{name}.bias": mean_D.float()}
        return PromptEncoder(weights={**self.weights, **last})

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:  # noqa: ARG003
        return cls(weights=dict(tensors))

    def _last_layer(self) -> tuple[str, Tensor]:
        """Name of the last linear layer, and what enters it, [P, H]."""
        values = self.weights[INPUTS]
        if any(name.startswith(_LSTM) for name in self.weights):
            values = self._recurrent(values)
        numbers = sorted({int(name.split(".")[1]) for name in self.weights if name.startswith(_MLP)})
        layers = [f"{_MLP}.{k}" for k in numbers]
        for name in layers[:-1]:
            values = nn.functional.linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]).relu()
        return layers[-1], values

    def _recurrent(self, inputs_PE: Tensor) -> Tensor:
        """Output of the bidirectional LSTM, [P, 2 H]."""
        num_layers = sum(name.startswith(f"{_LSTM}.weight_ih_l") for name in self.weights) // 2
        ends = [f"_l{layer}{direction}" for layer in range(num_layers) for direction in ("", "_reverse")]
        flat = [self.weights[f"{_LSTM}.{name}{end}"] for end in ends for name in _LSTM_TENSORS]
        state = inputs_PE.new_zeros(len(ends), 1, flat[1].shape[1])
        return torch.lstm(inputs_PE[None], (state, state), flat, True, num_layers, 0.0, False, True, True)[0][0]
