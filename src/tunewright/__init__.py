"""Tunewright: should I write a better prompt, learn a soft prompt, or fine-tune? Answered by measurement."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunewright.api import Run, compare
    from tunewright.config import RunConfig
    from tunewright.errors import TunewrightError
    from tunewright.serve.predictor import Predictor

__all__ = ["Predictor", "Run", "RunConfig", "TunewrightError", "compare"]
__version__ = "0.1.0"

_HOMES = {
    "Predictor": "tunewright.serve.predictor",
    "Run": "tunewright.api",
    "RunConfig": "tunewright.config",
    "TunewrightError": "tunewright.errors",
    "compare": "tunewright.api",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: importing the package loads no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tunewright' has no attribute {name!r}")
