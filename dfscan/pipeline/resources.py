"""What a run may use: CPUs, GPUs and time."""

import os
import time

from dfscan.config.base import CommandConfig
from dfscan.errors import ConfigError


class TimeLimit:
    """True when called ``limit_s`` seconds after it was made, or later; None: never."""

    def __init__(self, limit_s: float | None) -> None:
        self._started, self._limit_s = time.monotonic(), limit_s

    def __call__(self) -> bool:
        """Whether the time is up."""
        return self._limit_s is not None and self.elapsed_s >= self._limit_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started


def worker_count(config: CommandConfig) -> int:
    """Processes to use on this machine."""
    return config.workers or cpu_count()


def cpu_count() -> int:
    """CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pick_device(config: CommandConfig) -> str:
    """``"cuda"`` where GPUs are asked for, else ``"cpu"``.

    :raises ConfigError: this machine is to do the work and has no CUDA GPU.
    """
    if not config.gpus:
        return "cpu"
    import torch

    if config.ray_address is None and not torch.cuda.is_available():
        raise ConfigError(
            f"gpus: got {config.gpus}; torch sees no CUDA GPU here: use --gpus 0",
            code="device.unavailable",
        )
    return "cuda"
