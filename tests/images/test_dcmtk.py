"""Whole films against DCMTK, with its encoders and its renderer, and the header's numbers against pydicom."""

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid

from cxr_ray.images.phantom import Encoding, Item, Phantom, encode, make_phantom
from tests.images.golden.building import dicom, film
from tests.images.golden.references import TOLERANCES, dcmtk_display, has_dcmtk, pydicom_display

needs_dcmtk = pytest.mark.skipif(not has_dcmtk(), reason="dcm2pnm is not on the PATH: apt-get install dcmtk")

ENCODERS = {
    "explicit": ("dcmconv", "+te", uid.ExplicitVRLittleEndian),
    "implicit": ("dcmconv", "+ti", uid.ImplicitVRLittleEndian),
    "big endian": ("dcmconv", "+tb", uid.ExplicitVRBigEndian),
    "deflated": ("dcmconv", "+td", uid.DeflatedExplicitVRLittleEndian),
    "rle": ("dcmcrle", uid.RLELossless),
    "jpeg lossless": ("dcmcjpeg", "+el", uid.JPEGLossless),
    "jpeg lossless sv1": ("dcmcjpeg", "+e1", uid.JPEGLosslessSV1),
    "jpeg-ls": ("dcmcjpls", uid.JPEGLSLossless),
}
FILMS = {
    "12 bits": Encoding("dcm", 12, 200, 3500),
    "12 bits inverted": Encoding("dcm", 12, 150, 3700, inverted=True),
    "signed with slope": Encoding("dcm", 12, -1500, 3000, uid.ImplicitVRLittleEndian, "CR", signed=True, slope=2.0),
    "15 bits inverted": Encoding("dcm", 15, 2000, 20000, inverted=True),
    "8 bits": Encoding("dcm", 8, 0, 255),
}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """A film of about 180 x 200 pixels."""
    return make_phantom(11, side=180)


def file_of(phantom: Phantom, encoding: Encoding) -> bytes:
    """The phantom as a native file."""
    return encode(phantom, Item("film", "P1", "train", (), 1, 2, encoding))


def converted(data: bytes, encoder: str, folder: Path) -> bytes:
    """The file in the transfer syntax that one of DCMTK's programs writes."""
    program, *options, syntax = ENCODERS[encoder]
    source, target = folder / "native.dcm", folder / "converted.dcm"
    source.write_bytes(data)
    subprocess.run([program, "-q", *options, source, target], check=True, timeout=60)
    assert pydicom.dcmread(target, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    return target.read_bytes()


@needs_dcmtk
@pytest.mark.parametrize("kind", FILMS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_phantom_encoded_and_rendered_by_dcmtk_equals_ours(show, phantom, tmp_path, encoder, kind):
    native = file_of(phantom, FILMS[kind])
    data = converted(native, encoder, tmp_path)
    radiograph = show(data)
    assert radiograph.voi_source == "window"
    assert_allclose(radiograph.pixels, dcmtk_display(data), rtol=0, atol=TOLERANCES["dcmtk"])
    assert_array_equal(radiograph.pixels, show(native).pixels)


@settings(max_examples=120, deadline=None)
@given(
    slope=st.floats(-4, 4).map(lambda value: round(value, 3)).filter(lambda value: abs(value) > 0.05),
    intercept=st.floats(-3000, 3000).map(lambda value: round(value, 2)),
    place=st.floats(0.2, 0.8),
    share=st.floats(0.3, 2.0),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    signed=st.booleans(),
    bits=st.sampled_from([10, 12, 15, 16]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_rescale_and_window_of_any_header_equal_pydicom(
    show, slope, intercept, place, share, function, signed, bits, photometric
):
    stored = film(top=2**bits - 1)
    lowest = -(2 ** (bits - 1)) if signed else 0
    samples = (stored.astype(np.int32) + lowest).astype(np.int16 if signed else np.uint16)
    span, ends = abs(slope) * (2**bits - 1), sorted((slope * lowest, slope * (lowest + 2**bits - 1)))
    data = dicom(
        samples,
        bits_stored=bits,
        PhotometricInterpretation=photometric,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=round(ends[0] + intercept + place * span, 2),
        WindowWidth=round(max(share * span, 2.0), 2),
        VOILUTFunction=function,
    )
    radiograph = show(data)
    assert radiograph.voi_source == "window"
    assert_allclose(radiograph.pixels, pydicom_display(data), rtol=0, atol=1e-6)
