"""Which engine does the work of a run: this machine alone, or a Ray cluster. Imports neither until it is chosen."""

import os
import sys
from typing import TYPE_CHECKING

from cxr_ray.config.scoring import EngineName
from cxr_ray.errors import ConfigError

if TYPE_CHECKING:
    from cxr_ray.scoring.work import Engine


def needs_ray(wanted: EngineName, address: str | None) -> bool:
    """Whether a command has to join or start Ray: where a cluster is named, or this machine has several GPUs.

    Raises ConfigError: `address` is given, and an engine that has no use for it.
    """
    if wanted == "local" and address:
        raise ConfigError(f"--engine local works without Ray; leave out --address {address}, or the engine.")
    if wanted != "auto":
        return wanted == "ray"
    return bool(address) or "RAY_ADDRESS" in os.environ or _several_gpus()


def open_engine(wanted: EngineName) -> "Engine":
    """The engine asked for; `auto` is Ray where this process has joined one, and this machine alone elsewhere."""
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if wanted == "ray" or (wanted == "auto" and joined):
        from cxr_ray.scoring.on_ray import RayEngine

        return RayEngine()
    from cxr_ray.scoring.local import LocalEngine

    return LocalEngine()


def _several_gpus() -> bool:
    """Whether one process would leave GPUs idle."""
    import torch

    return torch.cuda.device_count() > 1
