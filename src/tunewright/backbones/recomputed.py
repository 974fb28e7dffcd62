"""Layers that keep nothing but their input for the way back, and run again there: less memory, a third more time.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". The base never drops, so that both runs are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

_Again = Callable[[], AbstractContextManager[None]]

_asked: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def recomputing(asked: bool) -> Iterator[None]:
    """Within it, passes with gradients compute again what they would keep, if that is asked for."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def recomputed(layers: Sequence[nn.Module], again: _Again) -> Iterator[None]:
    """One pass over some layers, each by itself computed again where `recomputing` asks for it.

    Args:
        layers: Whose `forward` is replaced meanwhile.
        again: What must be around a layer that runs after the pass as it was during it.
    """
    if not (_asked.get() and torch.is_grad_enabled()):
        yield
        return
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_run, layer, layer.forward, again)
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.forward = forward


def _run(layer: nn.Module, forward: Callable[..., Any], again: _Again, *args: Any, **kwargs: Any) -> Any:
    """The weights are those of now: a row's own are put in for the pass alone."""
    values, runs = dict[str, Tensor](layer.named_parameters()), [0]

    def once(*args: Any, **kwargs: Any) -> Any:
        runs[0] += 1
        if runs[0] == 1:
            return forward(*args, **kwargs)
        with again():
            return functional_call(layer, values, args, kwargs)

    return checkpoint(once, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
