"""An ensemble in the memory that a device has: batches are halved until they fit."""

import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from cxr_ray.errors import DeviceError
from cxr_ray.models.device import device_errors, is_out_of_memory
from cxr_ray.models.ensemble import Ensemble, Scores

Answer = TypeVar("Answer")
_ALONG_MEMBERS = ("member_probabilities", "member_maps")  # their second axis is the batch, the others' the first


def use_large_pages() -> None:
    """Ask torch for memory in pages of 2 MiB, unless the environment says otherwise; before this process needs any.

    Activations of a batch are larger than what the C library keeps, so each layer gets its memory from the kernel anew,
    page by page: 7,000 to 13,000 faults and 15 ms of 147 for an image of three CNNs. Linux only, and only where it
    hands out such pages (`transparent_hugepage` is `madvise` or `always`).

    Source: c10/core/impl/alloc_cpu.cpp of PyTorch, THP_MEM_ALLOC_ENABLE.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


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
