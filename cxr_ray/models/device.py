"""What a device says when it fails: whether its memory is too small, or it is gone. Knows no model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cxr_ray.errors import DeviceError

# What torch, and the libraries it calls, say where memory is short and raise nothing of its own kind.
_NO_MEMORY = (
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",
    "error: out of memory",  # CUDA's and its driver's, from where torch's allocator is not asked
    "BLAS_STATUS_ALLOC_FAILED",  # cuBLAS makes its workspace in the first product
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",  # since cuDNN 9
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a library beneath it found no memory; most say so in words only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Make one sentence of a device that fails; what is out of memory passes. Raises DeviceError."""
    try:
        yield
    except torch.AcceleratorError as error:
        if is_out_of_memory(error):
            raise
        raise DeviceError(
            f"The device {device} stopped working ({str(error).splitlines()[0]}); what is written stays. Check it"
            " (nvidia-smi), then run the same command again, or with a device that works."
        ) from error
