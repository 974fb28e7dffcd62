"""The machine: where to compute, in which precision, and how randomness is derived."""

import contextlib
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

_BF16_GAIN = 1.5
"""bf16 is used for frozen weights where a matrix product is at least this much faster than in fp32."""

_VERSIONED = ("tunewright", "torch", "transformers", "peft", "optuna", "numpy", "scipy", "tokenizers", "safetensors")


def device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=1)
def fast_dtype() -> torch.dtype:
    """bf16 where this machine multiplies matrices faster in it, else fp32; measured once."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _matmul_s(torch.float32) > _BF16_GAIN * _matmul_s(torch.bfloat16) else torch.float32


def _matmul_s(dtype: torch.dtype, size: int = 768, repeats: int = 5) -> float:
    """Seconds of the fastest of a few square matrix products."""
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times)


def generator(*key: str | int) -> np.random.Generator:
    """A random generator derived from a key, such as `(seed, "lora", "trial", 3)`.

    The same key gives the same numbers on every machine; keys that differ give independent streams.
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator seeded by the next number of `rng`."""
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def environment() -> dict[str, object]:
    """Versions, machine and the precision chosen for it, for `environment.json`."""
    return {
        "versions": {name: _version(name) for name in _VERSIONED} | {"python": platform.python_version()},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "dtype": str(fast_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


class PeakMemory:
    """Highest memory in use since `start`, in bytes: of the accelerator, or of this process on Linux."""

    def start(self) -> None:
        """Forgets the peak so far."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def read_bytes(self) -> int | None:
        """The peak, or None where the machine does not tell."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed for want of memory; on a CPU it says so in the text only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps progress bars and advice of the model libraries off the user's terminal."""
    if "transformers" in sys.modules:
        from transformers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(before)
            logging.enable_progress_bar()
    else:
        yield
