"""JPEG 2000 at a fraction of its size: the model input stays what the whole film would give, within what is stated."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import dcmread, dcmwrite, uid
from pydicom.encaps import encapsulate

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom.codestream import jpeg_2000_layout
from cxr_ray.images.phantom import make_phantom
from cxr_ray.images.preprocess import preprocess
from cxr_ray.images.radiograph import decode, read_header

LARGEST, NEARLY_ALL, MEAN = 10.0, 6.0, 0.5
"""Grey levels of 255 by which one pixel, 999 of 1000, and all on average may differ (lossy; docs/decisions.md)."""
BRIGHTNESS = 3.0
"""What the percentiles of a film without a window may move all of it by: the smaller film has less noise."""


@pytest.fixture(scope="module")
def large() -> NDArray[np.uint16]:
    """A 12-bit phantom of odd size with the noise of a real detector."""
    pixels = make_phantom(3, side=1101, present=("Nodule",)).pixels
    noise = np.random.default_rng(5).normal(0.0, 20.0, pixels.shape)
    return np.clip(pixels * 3500.0 + 300.0 + noise, 0.0, 4095.0).astype(np.uint16)


def frame_of(pixels: NDArray[Any], *, ratio: float | None = None, bits: int = 12) -> bytes:
    """A JPEG 2000 codestream, lossy with a compression `ratio`."""
    lossy: dict[str, Any] = {"compression_ratios": [ratio]} if ratio else {}
    return bytes(encode_array(pixels, bits_stored=bits, photometric_interpretation=2, use_mct=False, **lossy))


def model_input(data: bytes, **settings: Any) -> tuple[NDArray[np.uint8], int]:
    """The square a model gets, and how often the film was halved on the way."""
    config = PreprocessConfig(**settings)
    radiograph = decode(read_header(data, limits=LimitsConfig()), preprocess=config)
    return preprocess(radiograph, config)[0], radiograph.reduction


@pytest.fixture(scope="module")
def encoded(build_dicom: Callable[..., bytes]) -> Callable[..., bytes]:
    """A DICOM film around a JPEG 2000 codestream."""

    def build(pixels: NDArray[Any], frame: bytes, *, syntax: str = uid.JPEG2000, **attributes: Any) -> bytes:
        dataset = dcmread(BytesIO(build_dicom(pixels, **{"bits_stored": 12, **attributes})))
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.file_meta.TransferSyntaxUID = syntax
        target = BytesIO()
        dcmwrite(target, dataset, implicit_vr=False, little_endian=True)
        return target.getvalue()

    return build


@pytest.mark.parametrize(("size", "reduction"), [(850, 0), (393, 1), (300, 1), (196, 2), (98, 3), (64, 3)], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"WindowCenter": 2100, "WindowWidth": 3400}], ids=["percentiles", "window"])
def test_decode_reduced_model_input_within_tolerance_of_the_whole(encoded, large, size, reduction, attributes):
    data = encoded(large, frame_of(large, ratio=8), **attributes)
    whole, _ = model_input(data, size=size, reduced_decode="never")
    reduced, halved = model_input(data, size=size)
    difference = np.abs(whole.astype(float) - reduced)
    assert halved == reduction
    allowance = 0.0 if attributes else BRIGHTNESS
    assert difference.max() <= LARGEST + allowance
    assert np.percentile(difference, 99.9) <= NEARLY_ALL + allowance
    assert difference.mean() <= MEAN + allowance


@pytest.mark.parametrize("crop", [(0, 0), (1, 0), (2, 3), (5, 6)], ids=str)
def test_decode_reduced_any_size_no_shift(encoded, large, crop):
    """A shift by a quarter of a model pixel is what the low-pass grid would cost; a tenth would be seen here."""
    film = np.ascontiguousarray(large[: large.shape[0] - crop[0], : large.shape[1] - crop[1]])
    data = encoded(film, frame_of(film))
    whole, _ = model_input(data, size=96, reduced_decode="never")
    reduced, halved = model_input(data, size=96)
    rows, columns = np.gradient(whole.astype(float))
    difference = reduced.astype(float) - whole
    for slope in (rows, columns):
        assert abs((difference * slope).sum() / (slope**2).sum()) < 0.1
    assert halved == 3


def test_decode_lossless_syntax_in_full_unless_asked(encoded, large):
    data = encoded(large, frame_of(large), syntax=uid.JPEG2000Lossless)
    exact, halved = model_input(data, size=96)
    reduced, asked = model_input(data, size=96, reduced_decode="always")
    assert (halved, asked) == (0, 3)
    assert 0.0 < np.abs(exact.astype(float) - reduced).max() <= LARGEST


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_decode_reduced_other_sample_types_within_tolerance(encoded, large, dtype):
    bits = 8 if dtype == np.uint8 else 13
    film = (large // 16).astype(dtype) if bits == 8 else (large.astype(np.int32) * 2 - 4096).astype(dtype)
    data = encoded(film, frame_of(film, ratio=4, bits=bits), bits_stored=bits)
    whole, _ = model_input(data, size=96, reduced_decode="never")
    reduced, halved = model_input(data, size=96)
    assert halved == 3
    assert np.abs(whole.astype(float) - reduced).max() <= LARGEST


def test_decode_reduced_monochrome1_is_the_negative(encoded, large):
    frame = frame_of(large, ratio=8)
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}
    positive, _ = model_input(encoded(large, frame, **window), size=96, fit="stretch")
    negative, halved = model_input(encoded(large, frame, photometric="MONOCHROME1", **window), size=96, fit="stretch")
    assert halved == 2
    assert np.abs(255.0 - positive - negative).max() <= 1.0


def test_decode_film_with_padding_in_full(encoded, large):
    film = large.copy()
    film[:300] = 0
    data = encoded(film, frame_of(film), PixelPaddingValue=0)
    assert model_input(data, size=96)[1] == 0


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_decode_reduced_frame_cut_short_corrupt_or_as_in_full(encoded, large, share):
    frame = frame_of(large, ratio=8)
    data = encoded(large, frame[: int(len(frame) * share)])
    with pytest.raises(DecodeError) as caught:
        model_input(data, size=96)
    assert caught.value.fault is Fault.CORRUPT


def test_layout_image_off_the_origin_has_no_levels(large):
    frame = bytearray(frame_of(large))
    frame[19] = 1  # XOsiz
    layout = jpeg_2000_layout(bytes(frame))
    assert layout is not None
    assert layout.num_levels == 0


@pytest.mark.parametrize("size", [224, 512])
def test_real_film_reduced_within_tolerance_of_the_whole(shared_dicom, size):
    data = (shared_dicom / "chest" / "pydicom-data__RG1_J2KI.dcm").read_bytes()
    whole, _ = model_input(data, size=size, reduced_decode="never")
    reduced, halved = model_input(data, size=size)
    difference = np.abs(whole.astype(float) - reduced)
    assert halved >= 1
    assert difference.max() <= LARGEST
    assert np.percentile(difference, 99.9) <= NEARLY_ALL
    assert difference.mean() <= MEAN


@pytest.mark.parametrize("shape", [(700, 100), (100, 700)], ids=str)
def test_decode_reduced_stretched_strip_as_the_whole(encoded, large, shape):
    film = np.ascontiguousarray(large[: shape[0], : shape[1]])
    data = encoded(film, frame_of(film, ratio=4), WindowCenter=2100, WindowWidth=3400)
    whole, _ = model_input(data, size=128, fit="stretch", reduced_decode="never")
    stretched, halved = model_input(data, size=128, fit="stretch")
    assert halved == 0
    assert (stretched == whole).all()


def test_decode_palette_in_jpeg_2000_in_full(encoded, large):
    ramp = (np.arange(256) * 257).astype("<u2").tobytes()
    palette: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = ramp
    film = (large >> 4).astype(np.uint8)
    data = encoded(film, frame_of(film, bits=8), bits_stored=8, photometric="PALETTE COLOR", **palette)
    radiograph = decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig(size=96))
    assert radiograph.reduction == 0
    assert radiograph.pixels.shape == film.shape
