"""Batches that a device's memory does not take, and devices that fail."""

from dataclasses import fields

import pytest
import torch

from cxr_ray.errors import DeviceError
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.models.memory import FittedEnsemble


@pytest.fixture
def images():
    return torch.randint(0, 256, (11, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def limited(bundle, most, error):
    """The bundle's ensemble, whose second member raises `error` for more than `most` images at a time."""
    ensemble, sizes = load_ensemble(bundle), []

    def forward(pixels, inner=ensemble.members[1].backbone.forward_features):
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise error
        return inner(pixels)

    ensemble.members[1].backbone.forward_features = forward
    return FittedEnsemble(ensemble), sizes


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["device", "cpu"])
@pytest.mark.parametrize("maps", [True, False])
def test_score_batch_too_large_for_the_memory_scores_as_in_one_piece(bundle, images, error, maps):
    how = {"with_heatmaps": maps, "keep_member_maps": maps}
    whole = load_ensemble(bundle).score(images, **how)
    ensemble, sizes = limited(bundle, 3, error)
    found = ensemble.score(images, **how)
    assert sizes == [11, 6, 3, 3, 3, 2]
    for field in fields(whole):
        expected, value = getattr(whole, field.name), getattr(found, field.name)
        if expected is None:
            assert value is None
        else:
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=0, equal_nan=True, msg=field.name)
    ensemble.score(images, **how)
    assert sizes[6:] == [3, 3, 3, 2], "what fits is remembered"


def test_score_ensemble_allocator_that_fails_says_the_words_that_are_looked_for(bundle):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert "DefaultCPUAllocator: can't allocate memory" in str(caught.value)


def test_score_single_image_that_does_not_fit_is_one_sentence(bundle, images):
    ensemble, sizes = limited(bundle, 0, OUT_OF_MEMORY[0])
    with pytest.raises(DeviceError, match=r"^A single image does not fit .* on cpu; .*--precision bf16\.$"):
        ensemble.score(images, with_heatmaps=False)
    assert sizes == [11, 6, 3, 2, 1]


def test_score_device_that_is_gone_is_one_sentence(bundle, images):
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
    with pytest.raises(DeviceError, match=r"stopped working \(CUDA error: device-side assert triggered\)"):
        limited(bundle, 0, error)[0].score(images, with_heatmaps=False)


def test_score_bug_in_a_member_is_raised_as_it_is(bundle, images):
    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied$"):
        limited(bundle, 5, RuntimeError("shapes cannot be multiplied"))[0].score(images, with_heatmaps=False)


def test_load_ensemble_members_that_do_not_fit_are_one_sentence(bundle, monkeypatch):
    def full(self, *args, **how):
        raise OUT_OF_MEMORY[0]

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DeviceError, match=r"^The 3 members of .* do not fit into the memory that is left on cpu; "):
        load_ensemble(bundle)
