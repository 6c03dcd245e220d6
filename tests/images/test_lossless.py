"""One film in every lossless transfer syntax gives one model input, to the bit; and lossy JPEG of 12 bits."""

import csv
import io
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid
from pydicom.encaps import encapsulate, encapsulate_extended

from cxr_ray.config import PreprocessConfig
from cxr_ray.images.phantom import make_phantom
from cxr_ray.images.preprocess import preprocess

SYNTAXES = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
]
HIGH_THROUGHPUT = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)
WINDOWS = {
    "window": {"WindowCenter": 2048, "WindowWidth": 3600},
    "percentiles": {},
    "monochrome1": {"photometric": "MONOCHROME1", "WindowCenter": 2048, "WindowWidth": 3600},
}


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    """A 12-bit phantom film whose sides are not multiples of a JPEG block."""
    return np.rint(make_phantom(3, side=301).pixels * 4095).astype(np.uint16)


def with_frame(data: bytes, frame: bytes, syntax: str) -> bytes:
    """A native file with its pixel data replaced by one encoded frame."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def model_input(show: Callable[..., object], data: bytes) -> np.ndarray:
    """The square that the models see."""
    return preprocess(show(data), PreprocessConfig())[0]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_phantom_in_any_lossless_syntax_same_model_input(build_dicom, show, phantom, syntax, window, signed):
    pixels = phantom.astype(np.int16) - 2048 if signed else phantom
    attributes = dict(WINDOWS[window])
    if signed and "WindowCenter" in attributes:
        attributes["WindowCenter"] = 0
    native = build_dicom(pixels, bits_stored=12, **attributes)
    data = build_dicom(pixels, bits_stored=12, syntax=syntax, **attributes)
    radiograph = show(data)
    assert radiograph.header.transfer_syntax_uid == syntax
    assert_array_equal(radiograph.pixels, show(native).pixels)
    assert_array_equal(model_input(show, data), model_input(show, native))


def test_phantom_monochrome1_of_the_inverted_same_model_input(build_dicom, show, phantom):
    upright = build_dicom(phantom, bits_stored=12)
    negative = build_dicom(4095 - phantom, bits_stored=12, photometric="MONOCHROME1")
    assert_array_equal(model_input(show, negative), model_input(show, upright))


@pytest.mark.parametrize("level", [70, 95])
def test_jpeg_extended_12_bits_equals_libjpeg_turbo(build_dicom, show, phantom, imagecodecs, level):
    frame = imagecodecs.jpeg8_encode(phantom, level=level, bitspersample=12)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    data = with_frame(build_dicom(phantom, bits_stored=12, **window), frame, uid.JPEGExtended12Bit)
    decoded = imagecodecs.jpeg8_decode(frame)
    assert_allclose(show(data).pixels, decoded / 4095.0, rtol=0, atol=1.01 / 4095)  # two inverse DCTs round apart
    assert np.abs(decoded.astype(int) - phantom).max() > 2  # else nothing was compressed


def encoded_frame(imagecodecs, pixels: np.ndarray, syntax: str) -> bytes:
    """12-bit pixels as one frame of a syntax, by an encoder that takes no part in decoding."""
    if syntax == uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(pixels, level=90, bitspersample=12)
    if syntax == uid.JPEGLosslessSV1:
        return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)
    if syntax == uid.JPEGLSLossless:
        return imagecodecs.jpegls_encode(pixels)
    if syntax == uid.HTJ2KLossless:
        return imagecodecs.htj2k_encode(pixels, reversible=True)
    return imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k", bitspersample=12)


@pytest.mark.parametrize("table", ["basic empty", "basic", "extended"])
@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGExtended12Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless],
    ids=lambda syntax: syntax.keyword,
)
def test_frame_in_fragments_with_any_offset_table_same_pixels(build_dicom, show, phantom, imagecodecs, syntax, table):
    """Only the extended table asks for one fragment to a frame. Source: PS3.3 C.7.6.3.1.8."""
    frame = encoded_frame(imagecodecs, phantom, syntax)
    whole = with_frame(build_dicom(phantom, bits_stored=12), frame, syntax)
    dataset = pydicom.dcmread(io.BytesIO(whole))
    if table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
            [frame]
        )
    else:
        dataset.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=table == "basic")
    dataset["PixelData"].is_undefined_length = True
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    assert_array_equal(show(target.getvalue()).pixels, show(whole).pixels)
    assert show(whole).pixels.std() > 0.1


@pytest.mark.parametrize("predictor", range(1, 8))
def test_jpeg_lossless_12_bits_of_libjpeg_turbo_exact(build_dicom, show, phantom, imagecodecs, predictor):
    frame = imagecodecs.jpeg8_encode(phantom, lossless=True, predictor=predictor, bitspersample=12)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    native = build_dicom(phantom, bits_stored=12, **window)
    assert_array_equal(show(with_frame(native, frame, uid.JPEGLossless)).pixels, show(native).pixels)


def test_real_films_that_index_csv_calls_the_same_same_model_input(shared_dicom, show):
    """transcoded/index.csv says for each file what to expect of it: the same, once inversion and rescale are undone."""
    with (shared_dicom / "transcoded" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(row["expect"].startswith("same") for row in rows)
    squares = [model_input(show, (shared_dicom / row["file"]).read_bytes()) for row in rows]
    for square in squares[1:]:
        assert_array_equal(square, squares[0])


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_real_film_encoded_again_same_model_input(shared_dicom, show, build_dicom, request, syntax):
    source = (shared_dicom / "transcoded" / "evle.dcm").read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(source))
    attributes = {key: dataset[key].value for key in ("WindowCenter", "WindowWidth") if key in dataset}
    attributes["photometric"], attributes["bits_stored"] = dataset.PhotometricInterpretation, dataset.BitsStored
    if syntax in HIGH_THROUGHPUT:
        frame = request.getfixturevalue("imagecodecs").htj2k_encode(dataset.pixel_array, reversible=True)
        data = with_frame(build_dicom(dataset.pixel_array, **attributes), frame, syntax)
    else:
        data = build_dicom(dataset.pixel_array, syntax=syntax, **attributes)
    assert_array_equal(model_input(show, data), model_input(show, source))
