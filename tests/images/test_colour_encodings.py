"""A grey film stored as colour: every layout a writer may choose gives the same shades."""

import io

import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate


@pytest.fixture(scope="module")
def shades(film) -> np.ndarray:
    """The film in 8 bits, 62 x 46."""
    return np.ascontiguousarray((film // 16).astype(np.uint8)[:, :46])


def changed(data: bytes, syntax: str = uid.ExplicitVRLittleEndian, **attributes: object) -> bytes:
    """The file with other attributes."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = uid.UID(syntax).is_encapsulated
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def test_decode_rgb_by_plane_same_shades(build_dicom, show, shades):
    planes = np.stack([shades] * 3)
    data = build_dicom(np.dstack([shades] * 3), photometric="RGB", PlanarConfiguration=1, PixelData=planes.tobytes())
    assert_allclose(show(data).pixels, shades / 255.0, atol=1e-6)


@pytest.mark.parametrize("planar", [0, 1])
def test_decode_ybr_full_by_pixel_and_by_plane_same_shades(build_dicom, show, shades, planar):
    neutral = np.full_like(shades, 128)
    stacked = np.stack([shades, neutral, neutral], axis=0 if planar else 2)
    data = build_dicom(
        np.dstack([shades] * 3), photometric="YBR_FULL", PlanarConfiguration=planar, PixelData=stacked.tobytes()
    )
    assert_allclose(show(data).pixels, shades / 255.0, atol=1e-6)


def test_decode_native_ybr_full_422_same_shades(build_dicom, show, shades):
    """Y1 Y2 Cb Cr for each two pixels. Source: PS3.3 C.7.6.3.1.2."""
    pairs = shades.reshape(62, 23, 2)
    quadruples = np.concatenate([pairs, np.full_like(pairs, 128)], axis=2)
    data = build_dicom(np.dstack([shades] * 3), photometric="YBR_FULL_422", PixelData=quadruples.tobytes())
    assert_allclose(show(data).pixels, shades / 255.0, atol=1e-6)


def test_decode_rle_rgb_same_shades(build_dicom, show, shades):
    data = build_dicom(np.dstack([shades] * 3), photometric="RGB", syntax=uid.RLELossless)
    assert_allclose(show(data).pixels, shades / 255.0, atol=1e-6)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2"])
def test_decode_jpeg_ybr_same_shades_as_pillow(build_dicom, show, shades, subsampling):
    frame = io.BytesIO()
    rgb = np.dstack([shades] * 3)
    Image.fromarray(rgb).save(frame, format="JPEG", quality=97, subsampling=subsampling)
    photometric = "YBR_FULL" if subsampling == "4:4:4" else "YBR_FULL_422"
    native = build_dicom(rgb, photometric="RGB")
    pixel_data = encapsulate([frame.getvalue()])
    data = changed(native, uid.JPEGBaseline8Bit, PhotometricInterpretation=photometric, PixelData=pixel_data)
    expected = np.asarray(Image.open(frame).convert("L"))
    assert_allclose(show(data).pixels, expected / 255.0, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize(
    ("syntax", "photometric", "reversible", "tolerance"),
    [
        (uid.JPEG2000Lossless, "YBR_RCT", True, 1e-6),
        (uid.JPEG2000, "YBR_ICT", False, 1.01 / 255),
        (uid.JPEG2000Lossless, "RGB", True, 1e-6),
    ],
)
def test_decode_jpeg_2000_colour_transforms_same_shades(
    build_dicom, show, shades, imagecodecs, syntax, photometric, reversible, tolerance
):
    rgb = np.dstack([shades] * 3)
    options = {"mct": photometric != "RGB", "reversible": reversible}
    frame = imagecodecs.jpeg2k_encode(rgb, level=None if reversible else 50, codecformat="j2k", **options)
    native = build_dicom(rgb, photometric="RGB")
    data = changed(native, syntax, PhotometricInterpretation=photometric, PixelData=encapsulate([frame]))
    expected = shades if reversible else imagecodecs.jpeg2k_decode(frame) @ np.array([0.299, 0.587, 0.114])
    assert_allclose(show(data).pixels, expected / 255.0, rtol=0, atol=tolerance)
