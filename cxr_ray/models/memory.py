"""An ensemble in the memory that a device has: batches are halved until they fit."""

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from cxr_ray.errors import DeviceError
from cxr_ray.models.device import device_errors, is_out_of_memory
from cxr_ray.models.ensemble import Ensemble, Scores

Answer = TypeVar("Answer")
# What the environment calls options of glibc's allocator, mallopt's number of each, and its value: nothing is mapped
# alone, nothing given back, and there are no further arenas, which hold 64 MiB a piece.
_MALLOC = {
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_ARENA_MAX": (-8, 1),
}
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
_ALONG_MEMBERS = ("member_probabilities", "member_maps")  # their second axis is the batch, the others' the first


def tune_allocation() -> None:
    """Have this process keep the memory of activations, and take it in pages of 2 MiB; before it scores anything.

    By default each layer of a batch gets its memory from the kernel anew, page by page, and gives it back: 7,000 to
    13,000 faults and 15 ms of 147 for an image of three CNNs, and threads of one process wait for each other in it.
    Pages of 2 MiB need Linux with `transparent_hugepage` at `madvise` or `always`, the rest glibc; elsewhere nothing
    changes. What the environment says of either goes. A thread that is there already keeps the arena it has: to score
    in one of those, begin its process in `allocation_environment()`.

    Source: c10/core/impl/alloc_cpu.cpp of PyTorch, THP_MEM_ALLOC_ENABLE; mallopt(3).
    """
    wanted = allocation_environment()
    if _LARGE_PAGES in wanted:
        os.environ[_LARGE_PAGES] = wanted[_LARGE_PAGES]
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in (_MALLOC[name] for name in wanted if name in _MALLOC):
            library.mallopt(option, value)


def allocation_environment() -> dict[str, str]:
    """The variables that do to a process from its start what `tune_allocation` does; none that are set here already."""
    found = {} if _LARGE_PAGES in os.environ else {_LARGE_PAGES: "1"}
    if not any(name.startswith("MALLOC_") for name in os.environ):
        found |= {name: str(value) for name, (_, value) in _MALLOC.items()}
    return found


class FittedEnsemble:
    """Scores batches of any size in parts that the device's memory takes, and remembers how large they may be."""

    def __init__(self, ensemble: Ensemble) -> None:
        """Everything is taken to fit until it does not."""
        self.ensemble = ensemble
        self.most: int | None = None  # images of one forward pass; None: no batch was too large yet

    def score(self, images: Tensor, **how: Any) -> Scores:
        """What `Ensemble.score` returns, on the CPU, by as few forward passes as the memory allows.

        Raises:
            DeviceError: A single image does not fit, or the device is gone.
        """
        while True:
            size = min(self.most or len(images), len(images))
            with device_errors(self.ensemble.device):
                found = _unless_too_large(lambda size=size: self._in_parts(images, size, how))  # type: ignore[misc]
                if found is None and self.ensemble.device.type == "cuda":
                    torch.cuda.empty_cache()
            if found is not None:
                return found
            if size == 1:
                raise DeviceError(
                    f"A single image does not fit into the memory that is left on {self.ensemble.device}; end what"
                    " else runs there, use an ensemble of fewer members, or --precision bf16."
                )
            # Threads that share the device shrink it together, and never let it grow again.
            self.most = min(self.most or size, (size + 1) // 2)

    def _in_parts(self, images: Tensor, size: int, how: dict[str, Any]) -> Scores:
        """Scores of images (B, ...), on the CPU, by passes of `size`.

        A GPU computes behind the program's back: what fails there shows when the results are fetched, so they are
        fetched where such errors are looked for.
        """
        parts = [_on_cpu(self.ensemble.score(part, **how)) for part in torch.split(images, size)]
        return parts[0] if len(parts) == 1 else joined(parts)


def _on_cpu(scores: Scores) -> Scores:
    """The same scores on the CPU."""
    tensors = ((field.name, getattr(scores, field.name)) for field in fields(Scores))
    return Scores(**{name: None if tensor is None else tensor.cpu() for name, tensor in tensors})  # type: ignore[arg-type]


def joined(parts: list[Scores]) -> Scores:
    """The scores of successive parts of a batch as those of the whole."""
    values: dict[str, Tensor | None] = {}
    for name in (field.name for field in fields(Scores)):
        tensors = [getattr(part, name) for part in parts]
        values[name] = None if tensors[0] is None else torch.cat(tensors, dim=int(name in _ALONG_MEMBERS))
    return Scores(**values)  # type: ignore[arg-type]


def _unless_too_large(way: Callable[[], Answer]) -> Answer | None:
    """What `way` returns, or None where memory ran out; its tensors are free by then."""
    try:
        return way()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
