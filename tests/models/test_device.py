"""What a device that fails says, and what is made of it."""

import pytest
import torch

from cxr_ray.errors import DeviceError
from cxr_ray.models.device import device_errors, is_out_of_memory

OUT_OF_MEMORY = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuda": torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
    "driver": RuntimeError("CUDA driver error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}
"""As torch 2.8 to 2.15, cuDNN and cuBLAS say it."""
OTHER = (
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("shapes cannot be multiplied"),
    ValueError("error: out of memory"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_is_out_of_memory_whoever_says_it(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_is_out_of_memory_nothing_else(error):
    assert not is_out_of_memory(error)


def test_is_out_of_memory_of_an_allocator_that_fails():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


def test_device_errors_gone_is_one_sentence_and_all_else_passes():
    with pytest.raises(DeviceError, match=r"^The device cuda stopped working \(CUDA error: device-side assert trigg"):
        raise_in(OTHER[0])
    for error in (*OUT_OF_MEMORY.values(), *OTHER[1:]):
        with pytest.raises(type(error)) as caught:
            raise_in(error)
        assert caught.value is error


def raise_in(error: Exception) -> None:
    """An error of work on a device."""
    with device_errors(torch.device("cuda")):
        raise error
