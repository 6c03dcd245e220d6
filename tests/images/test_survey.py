"""What a header foretells of the pixels behind it, at the borders where scoring changes its mind."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom.survey import survey
from cxr_ray.images.radiograph import decode, read_header
from tests.images.dicom_files import build_dicom


def foretold(data: bytes) -> Fault | None:
    """The fault that the header announces."""
    return survey(io.BytesIO(data), len(data), limits=LimitsConfig(), gate=GateConfig()).expected_fault


def met(data: bytes) -> Fault | None:
    """The fault that scoring finds."""
    try:
        decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig(size=64))
    except DecodeError as error:
        return error.fault
    return None


@pytest.mark.parametrize(
    ("shape", "bits", "length", "fault"),
    [
        # 99 rows of 10.5 bytes: 1039.5, and one row more is 1050.
        ((99, 84), 1, 1038, Fault.CORRUPT),
        ((99, 84), 1, 1040, None),
        ((99, 84), 1, 1050, None),
        ((99, 84), 1, 1052, Fault.CORRUPT),
        # 81 rows of 83 bytes: 6,723, padded to an even number; one row more is 6,806.
        ((81, 83), 8, 6722, Fault.CORRUPT),
        ((81, 83), 8, 6724, None),
        ((81, 83), 8, 6806, None),
        ((81, 83), 8, 6808, Fault.CORRUPT),
        # 80 rows of 166 bytes.
        ((80, 83), 16, 13_278, Fault.CORRUPT),
        ((80, 83), 16, 13_280, None),
        ((80, 83), 16, 13_446, None),
        ((80, 83), 16, 13_448, Fault.CORRUPT),
    ],
)
def test_survey_native_pixels_a_row_too_long_passes_anything_else_corrupt(shape, bits, length, fault):
    pixels = np.zeros(shape, np.uint16 if bits == 16 else np.uint8)
    noise = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    data = build_dicom(pixels, bits_stored=bits, BitsAllocated=bits, PixelData=noise)
    assert (foretold(data), met(data)) == (fault, fault)


def tiff(**tags: int) -> bytes:
    """A grey TIFF of 80 x 96 pixels whose entries of the directory are overwritten."""
    target = io.BytesIO()
    Image.fromarray(np.add.outer(np.arange(96), np.arange(80)).astype(np.uint8)).save(target, "TIFF")
    data = bytearray(target.getvalue())
    start = int.from_bytes(data[4:8], "little") + 2
    entries = range(start, start + 12 * int.from_bytes(data[start - 2 : start], "little"), 12)
    numbers = {"bits_per_sample": 258, "photometric": 262}
    for name, value in tags.items():
        entry = next(place for place in entries if int.from_bytes(data[place : place + 2], "little") == numbers[name])
        data[entry + 8 : entry + 10] = value.to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (tiff(), None),
        (tiff(bits_per_sample=7), Fault.UNSUPPORTED_ENCODING),
        (tiff(photometric=77), Fault.UNSUPPORTED_ENCODING),
        (tiff()[:6], Fault.CORRUPT),
        (b"\x89PNG\r\n\x1a\n", Fault.CORRUPT),
        (b"\xff\xd8\xff\xe0", Fault.CORRUPT),
    ],
    ids=["whole", "7 bits", "unknown colour", "cut tiff", "cut png", "cut jpeg"],
)
def test_survey_raster_whose_header_cannot_be_read_as_scoring_says(data, fault):
    assert (foretold(data), met(data)) == (fault, fault)
