"""One tiny DICOM file for each thing a header can say about grey, with what is to be seen.

`by_hand` is the expectation where the references disagree with the standard or with DESIGN section 7, or lack a
feature; `without` says which and why. Where nothing is said, pydicom, highdicom and DCMTK must agree. No code of
cxr_ray: the formulas here are written down from the standard a second time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame

from tests.images.golden.building import dicom, film, float_dicom, header, linear, stretched, table, written
from tests.images.golden.references import Film

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


@dataclass(frozen=True)
class Case:
    """A file, why some references cannot be asked, and the expectation where none of them can."""

    name: str
    data: bytes = field(repr=False)
    without: dict[str, str] = field(default_factory=dict)
    by_hand: Film | None = None


FRACTIONS = {"dcmtk": "truncates modality values to whole numbers, which nothing in PS3.3 C.11.1 asks for"}
NO_HIGH_BIT = "ignores High Bit, which old files set otherwise than BitsStored - 1 (PS3.5 8.1.1)"
DIRTY = {"highdicom": "does not clear the bits above High Bit (PS3.5 8.1.1)"}
FULL_SCALE = {
    "highdicom": "takes tables of 8 and 16 bits only",
    "dcmtk": "takes 2^bits for full scale; it is 2^bits - 1 (PS3.3 C.11.2.1.1)",
}
NO_PERCENTILES = "has no robust range for a film without a usable window (DESIGN section 7)"
NO_PADDING = "shows padding by its value; padding is no image (PS3.3 C.7.5.1.1.2)"
NO_SHUTTER = "ignores the Display Shutter Module (PS3.3 C.7.6.11)"


def none_of(reason: str) -> dict[str, str]:
    """The reason for all three references."""
    return dict.fromkeys(("pydicom", "highdicom", "dcmtk"), reason)


def photometric_cases() -> Iterator[Case]:
    """Which end is white. Source: PS3.3 C.7.6.3.1.2, C.11.6.1.2."""
    stored = film()
    yield Case("monochrome2", dicom(stored, **WINDOW))
    yield Case("monochrome1", dicom(stored, PhotometricInterpretation="MONOCHROME1", **WINDOW))
    yield Case("monochrome1_of_the_inverted", dicom(4095 - stored, PhotometricInterpretation="MONOCHROME1", **WINDOW))
    yield Case("shape_identity", dicom(stored, PresentationLUTShape="IDENTITY", **WINDOW))
    yield Case("shape_inverse", dicom(stored, PresentationLUTShape="INVERSE", **WINDOW))
    both = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE", **WINDOW}
    yield Case("monochrome1_shape_inverse", dicom(stored, **both))
    narrow = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1200, "WindowWidth": 1000}
    yield Case("monochrome1_window_before_inversion", dicom(stored, **narrow))


def modality_cases() -> Iterator[Case]:
    """Slopes and tables from stored to modality values. Source: PS3.3 C.11.1.1."""
    stored = film(16, 20)
    negative = {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 1500, "WindowWidth": 3000}
    yield Case("slope_negative", dicom(stored, **negative))
    fraction = {"RescaleSlope": "0.37", "RescaleIntercept": "-20.5", "WindowCenter": "700.25", "WindowWidth": "1200.5"}
    yield Case("slope_fraction", dicom(stored, **fraction), FRACTIONS)
    both = {"RescaleSlope": "-0.684", "RescaleIntercept": 200, "WindowCenter": -1200, "WindowWidth": 2800}
    negative = dicom(stored, PhotometricInterpretation="MONOCHROME1", **both)
    yield Case("slope_negative_fraction_monochrome1", negative, FRACTIONS)
    small = film(16, 20, top=255).astype(np.uint8)
    squares = (np.arange(200) ** 2 // 10).astype(np.uint16)
    luts = {"ModalityLUTSequence": table(squares, first=30, bits=16), **WINDOW}
    yield Case("modality_lut", dicom(small, bits_stored=8, **luts))
    signed = small.astype(np.int16) - 128
    luts = {"ModalityLUTSequence": table(squares, first=-90, bits=16, signed=True), **WINDOW}
    yield Case("modality_lut_signed_input", dicom(signed, bits_stored=8, **luts))
    luts = {"ModalityLUTSequence": table(squares, first=65536 - 90, bits=16), **WINDOW}
    wrong = "does not read the first input in the sign of the pixels (PS3.3 C.11.1.1.1), as some writers leave it to"
    without = {"pydicom": wrong, "highdicom": wrong}
    by_hand = linear(squares[np.clip(signed + 90, 0, 199)], 2048, 4096)
    yield Case("modality_lut_first_input_unsigned", dicom(signed, bits_stored=8, **luts), without, by_hand)


def sample_cases() -> Iterator[Case]:
    """Where the value lies in a sample. Source: PS3.5 8.1.1, PS3.3 C.7.6.3.1."""
    stored = film(18, 22)
    signed = stored.astype(np.int16) - 2048
    centred = {"WindowCenter": 0, "WindowWidth": 4096}
    yield Case("signed_12_bits", dicom(signed, **centred))
    wide = {"bits_stored": 16, "WindowCenter": 0, "WindowWidth": 65536}
    yield Case("signed_16_bits", dicom((signed.astype(np.int32) * 16).astype(np.int16), **wide))
    yield Case("dirty_high_bits", dicom(stored | np.uint16(0x5000), **WINDOW), DIRTY)
    dirty = ((signed & 0x0FFF) | 0x2000).astype(np.int16)
    yield Case("dirty_high_bits_signed", dicom(dirty, **centred), DIRTY)
    shifted = {"pydicom": NO_HIGH_BIT, "highdicom": NO_HIGH_BIT}
    expected = linear(stored, 2048, 4096)
    yield Case("high_bit_15", dicom(stored << 4, HighBit=15, **WINDOW), shifted, expected)
    yield Case("high_bit_13", dicom(stored << 2, HighBit=13, **WINDOW), shifted, expected)
    refused = {"dcmtk": "refuses a High Bit below BitsStored - 1, which leaves no room for the value"}
    yield Case("high_bit_below_bits_stored", dicom(stored, HighBit=7, **WINDOW), refused)
    fifteen = {"bits_stored": 15, "WindowCenter": 16384, "WindowWidth": 32768}
    yield Case("bits_stored_15", dicom(stored * 8, **fifteen))
    ten = {"bits_stored": 10, "WindowCenter": 512, "WindowWidth": 1024}
    yield Case("bits_stored_10", dicom(stored // 4, **ten))
    odd = film(17, 21, top=255).astype(np.uint8)
    yield Case("bits_8_odd_length", dicom(odd, bits_stored=8, WindowCenter=128, WindowWidth=256))
    long = {"bits_stored": 32, "WindowCenter": 2048000, "WindowWidth": 4096000}
    yield Case("bits_32", dicom(stored.astype(np.uint32) * 1000, **long))
    deep = {"bits_stored": 24, "WindowCenter": 0, "WindowWidth": 2**24}
    yield Case("bits_24_of_32_signed", dicom((stored.astype(np.int32) - 2048) * 4000, **deep))
    bit = stored > 2000
    packed = np.packbits(bit, bitorder="little").tobytes()
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": packed + b"\0" * (len(packed) % 2)}
    yield Case("bits_1", dicom(bit.astype(np.uint8), bits_stored=1, **one, WindowCenter=1, WindowWidth=2))


def voi_cases() -> Iterator[Case]:
    """Windows and tables from modality values to grey. Source: PS3.3 C.11.2.1."""
    stored = film(16, 24)
    yield Case("window_linear_fraction", dicom(stored, WindowCenter="1000.25", WindowWidth="1500.5"))
    exact = {"WindowCenter": 1000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"}
    without = {"dcmtk": "knows no LINEAR_EXACT (PS3.3 C.11.2.1.3.2) and takes it for LINEAR"}
    yield Case("window_linear_exact", dicom(stored, **exact), without)
    sigmoid = {"WindowCenter": 1800, "WindowWidth": 1100, "VOILUTFunction": "SIGMOID"}
    yield Case("window_sigmoid", dicom(stored, **sigmoid))
    yield Case("window_explicit_linear", dicom(stored, VOILUTFunction="LINEAR", WindowCenter=900, WindowWidth=1200))
    yield Case("windows_several", dicom(stored, WindowCenter=[1500, 3000], WindowWidth=[2000, 100]))
    small = film(16, 24, top=255).astype(np.uint8)
    ramp = (np.arange(256)[::-1] * 210 + 3000).astype(np.uint16)
    eight = {"bits_stored": 8}
    yield Case("voi_lut", dicom(small, **eight, VOILUTSequence=table(ramp, first=0, bits=16)))
    eleven = dicom(small, **eight, VOILUTSequence=table(ramp // 32, first=0, bits=11))
    yield Case("voi_lut_11_bits", eleven, FULL_SCALE, (ramp // 32)[small] / 2047)
    short = table(ramp[:100], first=80, bits=16)
    yield Case("voi_lut_shorter_than_the_range", dicom(small, **eight, VOILUTSequence=short))
    yield Case("voi_lut_before_window", dicom(small, **eight, VOILUTSequence=short, WindowCenter=50, WindowWidth=60))
    shifted = {"RescaleSlope": 2, "RescaleIntercept": -300}
    negative = table(ramp, first=-200, bits=16, signed=True)
    yield Case("voi_lut_after_rescale", dicom(small, **eight, **shifted, VOILUTSequence=negative))
    both = {"ModalityLUTSequence": table(np.arange(256) * 3, first=0, bits=16)}
    yield Case("both_luts", dicom(small, **eight, **both, VOILUTSequence=table(ramp, first=200, bits=16)))


def fallback_cases() -> Iterator[Case]:
    """No window, or none that shows the film: robust percentiles (DESIGN section 7)."""
    stored = film(20, 24)
    windows: dict[str, dict[str, Any]] = {
        "window_absent": {},
        "window_outside_the_data": {"WindowCenter": 30000, "WindowWidth": 100},
        "window_width_1_a_step": {"WindowCenter": 2000, "WindowWidth": 1},
        "window_width_0": {"WindowCenter": 1000, "WindowWidth": 0},
        "window_width_negative": {"WindowCenter": 1000, "WindowWidth": -500},
        "window_function_unknown": {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "CUBIC"},
        "windows_first_misses": {"WindowCenter": [30000, 2048], "WindowWidth": [100, 4096]},
    }
    for name, window in windows.items():
        yield Case(name, dicom(stored, **window), none_of(NO_PERCENTILES), stretched(stored))
    values = film() / 64 - 7  # of no more digits than single precision holds
    attributes = {"RescaleSlope": "2.5", "RescaleIntercept": -3, "WindowCenter": 60, "WindowWidth": 90}
    without = none_of("wants Bits Stored or Pixel Representation, which float pixel data has not (PS3.3 C.7.6.24)")
    for name, dtype in (("float_pixel_data", np.float32), ("double_float_pixel_data", np.float64)):
        data = float_dicom(values.astype(dtype), **attributes)
        yield Case(f"{name}_rescale_window", data, without, linear(values * 2.5 - 3, 60, 90))


def border_cases() -> Iterator[Case]:
    """Padding, shutters, collimators and borders: black or uncounted. Source: PS3.3 C.7.5.1.1.2, C.7.6.11, C.8.7.3."""
    stored = film().clip(100, 4000)
    inside = np.pad(np.ones(stored.shape, bool), ((3, 2), (4, 1)))
    padded = np.pad(stored, ((3, 2), (4, 1)), constant_values=4095)
    shown = np.where(inside, linear(padded, 2048, 4096), 0.0)
    yield Case("padding_value", dicom(padded, PixelPaddingValue=4095, **WINDOW), none_of(NO_PADDING), shown)
    low = np.where(inside, padded, 0).astype(np.uint16)
    inverse = {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1", **WINDOW}
    dark = np.where(inside, 1 - linear(low, 2048, 4096), 0.0)
    yield Case("padding_value_monochrome1", dicom(low, **inverse), none_of(NO_PADDING), dark)
    ranged = padded.copy()
    ranged[:2] = 4080
    limits = {"PixelPaddingValue": 4070, "PixelPaddingRangeLimit": 4095}
    by_hand = np.where(inside, stretched(ranged, stored), 0.0)
    yield Case("padding_range_percentiles", dicom(ranged, **limits), none_of(NO_PADDING), by_hand)
    signed = np.where(inside, padded.astype(np.int16) - 2048, -2000).astype(np.int16)
    signed[:2] = -1990
    limits = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}
    by_hand = np.where(inside, stretched(signed, signed[inside]), 0.0)
    yield Case("padding_range_signed", dicom(signed, **limits), none_of(NO_PADDING), by_hand)
    for value in (0, 4095):
        bordered = np.pad(stored, ((3, 2), (4, 1)), constant_values=value)
        by_hand = stretched(bordered, stored)
        yield Case(f"border_of_{value}_percentiles", dicom(bordered), none_of(NO_PERCENTILES), by_hand)


def shutter_cases() -> Iterator[Case]:
    """Rows and columns count from 1; a pixel whose centre is on the edge is inside. Source: PS3.3 C.7.6.11, C.8.7.3."""
    stored = film(24, 28)
    row, column = np.mgrid[1:25, 1:29]
    edges = {"LeftVerticalEdge": 5, "RightVerticalEdge": 26, "UpperHorizontalEdge": 3, "LowerHorizontalEdge": 20}
    rectangle = (column >= 5) & (column <= 26) & (row >= 3) & (row <= 20)
    shape = {"ShutterShape": "RECTANGULAR"} | {f"Shutter{edge}": value for edge, value in edges.items()}
    shown = np.where(rectangle, linear(stored, 2048, 4096), 0.0)
    yield Case("shutter_rectangle", dicom(stored, **shape, **WINDOW), none_of(NO_SHUTTER), shown)
    dark = np.where(rectangle, 1 - stretched(stored, stored[rectangle]), 0.0)
    negative = {"PhotometricInterpretation": "MONOCHROME1", **shape}
    yield Case("shutter_rectangle_percentiles_monochrome1", dicom(stored, **negative), none_of(NO_SHUTTER), dark)
    circle = (row - 11) ** 2 + (column - 17) ** 2 <= 10**2
    round_one = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [11, 17], "RadiusOfCircularShutter": 10}
    shown = np.where(circle, linear(stored, 2048, 4096), 0.0)
    yield Case("shutter_circle", dicom(stored, **round_one, **WINDOW), none_of(NO_SHUTTER), shown)
    both = {**shape, **round_one, "ShutterShape": ["RECTANGULAR", "CIRCULAR"]}
    shown = np.where(rectangle & circle, linear(stored, 2048, 4096), 0.0)
    yield Case("shutter_rectangle_and_circle", dicom(stored, **both, **WINDOW), none_of(NO_SHUTTER), shown)
    vertices = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [0, 0, 0, 48, 25, -1]}
    triangle = 25 * column < 25 * 48 - 49 * row  # whose edges pass through no centre of a pixel
    shown = np.where(triangle, linear(stored, 2048, 4096), 0.0)
    yield Case("shutter_polygon", dicom(stored, **vertices, **WINDOW), none_of(NO_SHUTTER), shown)
    field_of_view = {"CollimatorShape": "RECTANGULAR"} | {f"Collimator{edge}": value for edge, value in edges.items()}
    shown = stretched(stored, stored[rectangle])
    yield Case("collimator_percentiles", dicom(stored, **field_of_view), none_of(NO_PERCENTILES), shown)


def file_cases() -> Iterator[Case]:
    """The same film in native files of every kind. Source: PS3.10 7.1, PS3.5 A.1 to A.5."""
    stored = film(16, 20)
    explicit, implicit = dicom(stored, **WINDOW), written(header(stored, bits_stored=12, **WINDOW), "1.2.840.10008.1.2")
    yield Case("implicit", implicit)
    big = header(stored, bits_stored=12, PixelData=stored.astype(">u2").tobytes(), **WINDOW)
    without = {"highdicom": "reads little endian only"}
    yield Case("big_endian", written(big, uid.ExplicitVRBigEndian), without)
    yield Case("deflated", written(header(stored, bits_stored=12, **WINDOW), uid.DeflatedExplicitVRLittleEndian))
    prefix = none_of("wants a preamble before the prefix, or neither (PS3.10 7.1)")
    yield Case("no_preamble", explicit[128:], prefix, linear(stored, 2048, 4096))
    bare = {"highdicom": "wants the meta header"}
    for name, data in (("explicit", explicit), ("implicit", implicit)):
        start = 144 + int.from_bytes(data[140:144], "little")
        yield Case(f"no_meta_header_{name}", data[start:], bare)
    longer = stored.tobytes() + bytes(6)
    yield Case("trailing_padding", dicom(stored, PixelData=longer, **WINDOW))


def encapsulated_cases() -> Iterator[Case]:
    """The same film in frames and fragments. Source: PS3.5 A.4; RLE: one fragment to a frame, PS3.5 A.4.2."""
    stored = film(16, 20)

    def encoded(syntax: str, plugin: str) -> tuple[Dataset, bytes]:
        dataset = header(stored, bits_stored=12, **WINDOW)
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
        return dataset, get_frame(dataset.PixelData, 0, number_of_frames=1)

    def case(name: str, syntax: str, pixel_data: bytes, without: dict[str, str] | None = None) -> Case:
        dataset, _ = encoded(syntax, "pydicom" if syntax == uid.RLELossless else "pyjpegls")
        dataset.PixelData = pixel_data
        return Case(name, written(dataset, syntax), without or {})

    _, rle = encoded(uid.RLELossless, "pydicom")
    _, jpeg_ls = encoded(uid.JPEGLSLossless, "pyjpegls")
    yield case("rle_empty_offset_table", uid.RLELossless, encapsulate([rle], has_bot=False))
    yield case("rle_offset_table", uid.RLELossless, encapsulate([rle], has_bot=True))
    yield case("jpeg_ls", uid.JPEGLSLossless, encapsulate([jpeg_ls], has_bot=False))
    split = {"fragments_per_frame": 3}
    yield case(
        "jpeg_ls_fragments_empty_offset_table", uid.JPEGLSLossless, encapsulate([jpeg_ls], has_bot=False, **split)
    )
    yield case("jpeg_ls_fragments_offset_table", uid.JPEGLSLossless, encapsulate([jpeg_ls], has_bot=True, **split))
    dataset, _ = encoded(uid.JPEGLSLossless, "pyjpegls")
    pixel_data, offsets, lengths = encapsulate_extended([jpeg_ls])
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = pixel_data, offsets, lengths
    yield Case("jpeg_ls_extended_offset_table", written(dataset, uid.JPEGLSLossless))
    parts = (jpeg_ls[:101], jpeg_ls[101:301], jpeg_ls[301:])
    odd = b"\xfe\xff\x00\xe0" + bytes(4)  # the empty Basic Offset Table, then fragments of 101, 200 and the rest
    odd += b"".join(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in parts)
    without = {"dcmtk": "refuses fragments of odd length, which PS3.5 A.4 does not allow and some writers make"}
    yield case("jpeg_ls_fragments_of_odd_length", uid.JPEGLSLossless, odd, without)


def cases() -> list[Case]:
    """All of them."""
    groups = (
        photometric_cases,
        modality_cases,
        sample_cases,
        voi_cases,
        fallback_cases,
        border_cases,
        shutter_cases,
        file_cases,
        encapsulated_cases,
    )
    return [case for group in groups for case in group()]
