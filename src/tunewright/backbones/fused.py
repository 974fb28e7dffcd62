"""What transformers writes as many small operations, as few, with a derivative written by hand.

On a CPU each small operation is a pass over memory, and each is saved for its derivative: norms, rotations and GELUs
take longer than the matrix products of a bf16 step. Values are those of the model's own code up to rounding.

Shapes: N tokens, H heads, d head width, D width.
"""

import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.models.bloom.modeling_bloom import BloomGelu

_RMS_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Phi3RMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"})
"""Classes that compute w x / sqrt(mean(x^2) + eps), x normed in fp32 and rounded before w."""

_CHUNK_VALUES = 2**16
"""So many values at a time stay in the cache of a core."""

_WORTH_A_CALL = 2**29
"""Multiplications of a linear layer from which on a derivative written by hand saves more than calling it takes."""

_SLOPE = 2 * (2 / torch.pi) ** 0.5
_CUBE = 0.044715
"""GELU(x) = x sigmoid(z), z = _SLOPE (x + _CUBE x^3)."""


def fuse(model: nn.Module) -> None:
    """Replaces activations, norms, rotations and linear layers, in place; names of parameters stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, (NewGELUActivation, BloomGelu)):
                setattr(module, name, TanhGelu())
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
        elif type(module).__name__ in _RMS_NORMS:
            module.forward = partial(_rms_norm, module)
        else:
            _rotate_at_once(module)


class TanhGelu(nn.Module):
    """GELU by tanh. On a CPU torch's takes some five cycles a value, and as many again for the derivative."""

    def forward(self, values: Tensor) -> Tensor:
        """Same shape."""
        if values.device.type != "cpu" or values.dtype not in {torch.float32, torch.bfloat16}:
            return nn.functional.gelu(values, approximate="tanh")
        activated: Tensor = _Gelu.apply(values)  # type: ignore[no-untyped-call]
        return activated


class _Gelu(torch.autograd.Function):
    """The derivative is made together with the value, from the same exponential."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.contiguous()
        activated, slope = torch.empty_like(values), torch.empty_like(values) if values.requires_grad else None
        flat, num = values.view(-1), _CHUNK_VALUES
        slopes = [None] * -(-len(flat) // num) if slope is None else slope.view(-1).split(num)
        run = _gelu if values.dtype == torch.float32 else _looked_up
        for x, value, derivative in zip(flat.split(num), activated.view(-1).split(num), slopes, strict=True):
            run(x, value, derivative)
        if slope is not None:
            ctx.save_for_backward(slope)
        return activated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        change: Tensor = gradients[0] * slope
        return change


def _gelu(x: Tensor, value: Tensor, derivative: Tensor | None) -> None:
    """Writes into `value` and `derivative`."""
    y = x * _SLOPE
    square = y * y
    share = torch.addcmul(y, square, y, value=_CUBE / _SLOPE**2).sigmoid_()
    result = torch.mul(x, share, out=y)
    value.copy_(result)
    if derivative is not None:
        inner = square.mul_(3 * _CUBE / _SLOPE).add_(_SLOPE).mul_(result)
        derivative.copy_(torch.lerp(inner, torch.ones(()), share, out=inner))


def _looked_up(x: Tensor, value: Tensor, derivative: Tensor | None) -> None:
    """The same of bf16, of which there are few enough for a table."""
    index, (values, derivatives) = x.view(torch.uint16).int(), _tables()
    torch.index_select(values, 0, index, out=value)
    if derivative is not None:
        torch.index_select(derivatives, 0, index, out=derivative)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Value and derivative for the bits of each bf16."""
    with torch.inference_mode(mode=False), torch.no_grad():
        every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
        value, derivative = torch.empty_like(every), torch.empty_like(every)
        _gelu(every.float(), value, derivative)
    return value, derivative


def _linear(module: nn.Linear, values: Tensor) -> Tensor:
    """`nn.Linear.forward`."""
    weight, bias = module.weight, module.bias
    is_frozen = not (weight.requires_grad or bias.requires_grad)
    if is_frozen and not (torch.is_grad_enabled() and values.requires_grad):
        return linear(values, weight, bias)
    if not is_frozen or values.numel() * len(weight) < _WORTH_A_CALL or not _takes_bias(values, weight):
        return nn.functional.linear(values, weight, bias)
    output: Tensor = _FrozenLinear.apply(values, weight, bias)  # type: ignore[no-untyped-call]
    return output


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer's output; has no derivative of its own."""
    if not _takes_bias(values, weight):
        return nn.functional.linear(values, weight, bias)
    output: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return output


def _takes_bias(values: Tensor, weight: Tensor) -> bool:
    """Whether a product adds the bias by itself; torch writes it to memory first and adds the product to it."""
    return values.device.type == "cpu" and values.dtype == weight.dtype == torch.bfloat16 and _has_onednn()


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return linear(values, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        change = gradients[0].flatten(0, -2) @ ctx.saved_tensors[0]  # as it is, some layouts would be a product a row
        return change.view(*gradients[0].shape[:-1], -1), None, None


def _rms_norm(module: Any, values: Tensor) -> Tensor:
    if values.device.type != "cpu":
        own: Tensor = type(module).forward(module, values)
        return own
    normed: Tensor = _RmsNorm.apply(values, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        values, width = values.contiguous(), len(weight_D)
        normed, scale = torch.empty_like(values), values.new_empty((*values.shape[:-1], 1), dtype=torch.float32)
        num = max(1, _CHUNK_VALUES // width)
        rows = (t.view(-1, t.shape[-1]).split(num) for t in (values, normed, scale))
        for x, y, norm in zip(*rows, strict=True):
            exact = x.float()
            torch.linalg.vector_norm(exact, dim=-1, keepdim=True, out=norm)
            norm.square_().div_(width).add_(epsilon).rsqrt_()
            torch.mul(y.copy_(exact * norm), weight_D, out=y)
        ctx.save_for_backward(values, weight_D, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """That of a layer norm about nought, which takes a mean away from the gradient that here must stay."""
        values, weight_D, scale = ctx.saved_tensors
        gradient, width, weight_change_D = gradients[0].contiguous(), len(weight_D), None
        if ctx.needs_input_grad[1]:
            weight_change_D = (gradient * (values.float() * scale).to(values.dtype)).flatten(0, -2).sum(0)
        change: Tensor = torch.ops.aten.native_layer_norm_backward(
            gradient, values, [width], torch.zeros_like(scale), scale, weight_D.float(), None, [True, False, False]
        )[0]
        mean = (gradient @ weight_D)[..., None] * (scale / width)
        return change.add_(mean.to(change.dtype)), weight_change_D, None


_ROTARY = "apply_rotary_pos_emb"
_Rotary = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _rotate_at_once(attention: nn.Module) -> None:
    """Gives the module's own `forward` another rotation: the same code, one of its globals replaced."""
    forward = type(attention).forward
    if not isinstance(forward, types.FunctionType) or _ROTARY not in forward.__code__.co_names:
        return
    globals_ = {**forward.__globals__, _ROTARY: partial(_rotate_both, forward.__globals__[_ROTARY])}
    own = types.FunctionType(forward.__code__, globals_, forward.__name__, forward.__defaults__, forward.__closure__)
    own.__kwdefaults__ = forward.__kwdefaults__
    attention.forward = types.MethodType(own, attention)


def _rotate_both(
    original: _Rotary, query_1HNd: Tensor, key_1KNd: Tensor, cos_1Nd: Tensor, sin_1Nd: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """The signature of transformers' `apply_rotary_pos_emb`; where only a part of each head turns, that is called."""
    assert unsqueeze_dim == 1, "another order of heads and tokens"
    if cos_1Nd.shape[-1] != query_1HNd.shape[-1]:
        return original(query_1HNd, key_1KNd, cos_1Nd, sin_1Nd)
    query, key = (_Rotation.apply(t, cos_1Nd, sin_1Nd) for t in (query_1HNd, key_1KNd))  # type: ignore[no-untyped-call]
    return query, key


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_1HNd: Tensor, cos_1Nd: Tensor, sin_1Nd: Tensor) -> Tensor:
        first, second = sin_1Nd.chunk(2, -1)
        sin_1Nd = torch.cat([-first, second], -1)
        ctx.save_for_backward(cos_1Nd, sin_1Nd)
        return _rotated(values_1HNd, cos_1Nd, sin_1Nd)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos_1Nd, sin_1Nd = ctx.saved_tensors
        return _rotated(gradients[0], cos_1Nd, _swapped(sin_1Nd)), None, None


def _rotated(values_1HNd: Tensor, cos_1Nd: Tensor, sin_1Nd: Tensor) -> Tensor:
    """In memory token by token, as the linear layers want it."""
    values_1NHd = values_1HNd.transpose(1, 2)
    rotated_1NHd = values_1NHd * cos_1Nd[:, :, None]
    return rotated_1NHd.addcmul_(_swapped(values_1NHd), sin_1Nd[:, :, None]).transpose(1, 2)


def _swapped(values: Tensor) -> Tensor:
    first, second = values.chunk(2, -1)
    return torch.cat([second, first], -1)
