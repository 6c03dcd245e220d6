"""Every way to score faster, held against the plain network in float32 and pytorch-grad-cam."""

import copy

import numpy as np
import pytest
import torch

from cxr_ray.errors import ConfigError
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.models.heatmaps import library_maps, member_maps
from cxr_ray.models.member import scale_outputs
from cxr_ray.models.precision import check_precision, emulates, prepared
from tests.models.test_heatmaps import FINDINGS, images, make_member, reference_maps

BACKBONES = (
    ("resnet18", 96),
    ("efficientnet_b0", 96),
    ("densenet121", 96),
    ("test_efficientnet", 64),
    ("convnext_atto", 64),
)
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2}


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda pair: pair[0])
def plain(request):
    """A member as it was made, model inputs, and its probabilities and maps (B, F, h, w) by pytorch-grad-cam."""
    backbone, size = request.param
    member, pixels = make_member(backbone, size=size), images(4, size)
    normalised = (pixels.float() / 255.0 - member.mean) / member.std
    with torch.no_grad():
        # Random outputs give logits of any width; a trained network's are about two wide.
        scale_outputs(member, 2.0 / float(member.backbone(normalised).std()))
        probabilities = member.backbone(normalised).sigmoid()
    return member, pixels, probabilities, reference_maps(member, pixels)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prepared_member_gives_the_scores_and_the_peaks_of_the_plain_one(plain, precision):
    member, pixels, probabilities, raw = plain
    fast = prepared(copy.deepcopy(member), "cpu", precision)
    height, width = raw.shape[-2:]
    logits, maps, _ = member_maps(fast, pixels, grid=max(height, width))
    assert logits.dtype == maps.dtype == torch.float32
    torch.testing.assert_close(logits.sigmoid(), probabilities, atol=TOLERANCE[precision], rtol=0)
    torch.testing.assert_close(fast(pixels), logits, atol=1e-4, rtol=0)
    scaled = raw / np.maximum(raw.max(axis=(-2, -1), keepdims=True), 1e-12)
    if precision == "fp32":
        np.testing.assert_allclose(maps, scaled, atol=1e-3)
    # A peak may not move to a cell that is visibly fainter in the reference; among equals either is right.
    found = maps.flatten(2).argmax(dim=-1).numpy()[..., None]
    at_peak = np.take_along_axis(scaled.reshape(*scaled.shape[:2], -1), found, axis=-1)[..., 0]
    assert (at_peak[raw.max(axis=(-2, -1)) > 0] >= 1 - TOLERANCE[precision]).all()


def test_prepared_member_computes_with_channels_last(plain):
    member, pixels, *_ = plain
    fast = prepared(copy.deepcopy(member), "cpu", "fp32")
    with torch.no_grad():
        assert fast.features(pixels).is_contiguous(memory_format=torch.channels_last)


def test_prepared_member_in_bf16_computes_with_it(plain):
    member, pixels, *_ = plain
    fast, kinds = prepared(copy.deepcopy(member), "cpu", "bf16"), set()
    for module in fast.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    with torch.no_grad():
        fast.features(pixels)
    assert kinds == {torch.bfloat16, torch.float32}, "the first one keeps float32"


@pytest.mark.parametrize("method", ["gradcam++", "layercam", "eigencam"])
def test_library_maps_of_a_member_in_bf16_are_float32_and_near(method):
    member = make_member("test_resnet")
    pixels = images(2, 64)
    _, expected, _ = library_maps(member, pixels, grid=4, method=method)
    logits, maps, _ = library_maps(prepared(copy.deepcopy(member), "cpu", "bf16"), pixels, grid=4, method=method)
    assert maps.dtype == torch.float32
    assert logits.shape == (2, len(FINDINGS))
    torch.testing.assert_close(maps, expected, atol=0.15, rtol=0)


def test_load_ensemble_in_bf16_passes_its_golden_image_and_scores_near(bundle):
    pixels = images(4, 64)
    exact, fast = (load_ensemble(bundle, precision=name) for name in ("fp32", "bf16"))
    assert fast.precision == "bf16"
    one, other = (ensemble.score(pixels, with_heatmaps=True) for ensemble in (exact, fast))
    torch.testing.assert_close(one.probabilities, other.probabilities, atol=1e-2, rtol=0)
    assert not torch.equal(one.probabilities, other.probabilities)


def test_check_precision_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ConfigError, match=r"^Tesla T4 has no bfloat16; leave out --precision bf16"):
        check_precision(torch.device("cuda"), "bf16")
    check_precision(torch.device("cuda"), "fp32")


@pytest.mark.parametrize(
    ("capabilities", "emulated"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"amx_bf16": True}, False),
        ({"neon": True, "bf16": False}, True),
        ({"neon": True, "bf16": True}, False),
    ],
)
def test_emulates_bfloat16_where_the_cpu_has_no_units_for_it(capabilities, emulated, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert emulates(torch.device("cpu"), "bf16") is emulated
    assert not emulates(torch.device("cpu"), "fp32")
    assert not emulates(torch.device("cuda"), "bf16")


def test_emulates_nothing_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not emulates(torch.device("cpu"), "bf16")
