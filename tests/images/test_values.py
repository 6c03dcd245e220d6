"""Headers whose elements hold what they should not: any value in any VR gives an image or a fault, never another end.

Damage byte by byte (test_mutations.py) hardly ever makes a well-formed element with an absurd value; writers do.
"""

import io
import struct
from functools import cache
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom.hints import HINT_KEYWORDS
from cxr_ray.images.header import HEADER_KEYWORDS, PIXEL_KEYWORDS
from tests.images.dicom_files import build_dicom
from tests.images.mutations import outcome

SECRET = b"DOE^JOHN"
LONG = {"OB", "OW", "OF", "OD", "OL", "UN", "SQ", "UT", "UC", "UR"}
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000)
KEYWORDS = sorted({*PIXEL_KEYWORDS, *HEADER_KEYWORDS, *HINT_KEYWORDS})


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element, explicit little endian."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (struct.pack("<xxI", len(value)) if vr in LONG else struct.pack("<H", len(value))) + value


def item(*elements: bytes) -> bytes:
    """One item of a sequence."""
    body = b"".join(elements)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body


def words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


def table(descriptor: bytes, data: bytes, *, vr: str = "OW", descriptor_vr: str = "US") -> tuple[str, bytes]:
    """A sequence with one LUT."""
    return "SQ", item(element(0x00283002, descriptor_vr, descriptor), element(0x00283006, vr, data))


def with_elements(data: bytes, *changes: tuple[str, tuple[str, bytes]]) -> bytes:
    """A native or encapsulated file with some elements replaced or added, whatever they hold."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    elements: dict[int, bytes] = {}
    for known in dataset:
        target = DicomBytesIO()
        target.is_implicit_VR, target.is_little_endian = False, True
        write_data_element(target, known)
        elements[int(known.tag)] = target.getvalue()
    for keyword, (vr, value) in changes:
        tag = int(tag_for_keyword(keyword) or 0)
        elements[tag] = element(tag, vr, value)
    start = data.index(b"DICM") + 4
    length = struct.unpack_from("<I", data, start + 8)[0]
    return data[: start + 12 + length] + b"".join(elements[tag] for tag in sorted(elements))


@cache
def made_films() -> list[bytes]:
    """One small film per syntax; no fixture for the drawn test, since Hypothesis would print them with an example."""
    rows, columns = np.mgrid[:70, :66]
    film = np.clip(rows * 30 + columns * 25, 0, 4095).astype(np.uint16)
    return [build_dicom(film, syntax=syntax, bits_stored=12) for syntax in SYNTAXES]


@pytest.fixture(scope="module")
def films() -> list[bytes]:
    return made_films()


VALUES = st.one_of(
    st.builds(lambda numbers: ("US", words(*numbers)), st.lists(st.sampled_from((0, 1, 7, 16, 17, 65535)), max_size=3)),
    st.builds(lambda number: ("FD", struct.pack("<d", number)), st.sampled_from((1e300, -1.0, 2.5, 0.0, float("nan")))),
    st.builds(lambda number: ("UL", struct.pack("<I", number)), st.integers(0, 2**32 - 1)),
    st.sampled_from(
        [("DS", text) for text in (b"1e308 ", b"-1e308", b"1e-320", b"0 ", b"abc ", b"1\\2\\3 ", b"1e200 ")]
    ),
    st.sampled_from([("IS", text) for text in (b"99999999999 ", b"-1", b"0 ", b"1.5 ")]),
    st.sampled_from([("LO", SECRET), ("PN", SECRET), ("CS", b"CIRCULAR\\POLYGONAL "), ("UN", b"\1\2\3\4")]),
    st.sampled_from([("OW", b"\1"), ("OB", b""), ("SQ", b""), ("SQ", item()), ("AT", b"\1\2\3\4")]),
)
TABLES = st.builds(
    table,
    st.sampled_from([words(*given) for given in ((4096, 0, 16), (0, 0, 16), (4096, 0, 1100), (3, 0, 0), (256, 9, 8))]),
    st.sampled_from([b"", b"\1", b"\1\2\3", words(5), words(1, 2, 3), SECRET, struct.pack("<d", float("nan"))]),
    vr=st.sampled_from(("OW", "US", "LO", "UN", "OB", "FD")),
)


@settings(max_examples=1500, deadline=None)
@given(
    number=st.integers(0, len(SYNTAXES) - 1),
    changes=st.lists(st.tuples(st.sampled_from(KEYWORDS), VALUES), min_size=1, max_size=4),
    luts=st.lists(st.tuples(st.sampled_from(("ModalityLUTSequence", "VOILUTSequence")), TABLES), max_size=2),
)
def test_decode_any_value_in_any_element_image_or_fault(number, changes, luts):
    assert outcome(with_elements(made_films()[number], *changes, *luts))


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    "lut",
    [
        table(words(4096, 0, 1100), bytes(8192)),
        table(words(4096, 0, 16), words(5), vr="US"),
        table(words(4096, 0, 16), b"\1"),
        table(words(4096, 0, 16), struct.pack("<d", float("nan")), vr="FD"),
        table(words(4096, 0, 16), SECRET, vr="LO"),
        table(struct.pack("<3d", 4096, 0, 1e300), bytes(8192), descriptor_vr="FD"),
        table(struct.pack("<3I", 4096, 0, 4 * 10**8), bytes(8192), descriptor_vr="UL"),
    ],
)
def test_decode_absurd_lut_ignored_for_voi_and_corrupt_for_modality(films, sequence, lut):
    data = with_elements(films[0], (sequence, lut))
    assert outcome(data) == ("image" if sequence == "VOILUTSequence" else "corrupt")


@pytest.mark.parametrize("vr_value", [("DS", b"1e200 "), ("FD", struct.pack("<d", 1e300))])
def test_decode_absurd_circle_of_a_shutter_image(films, vr_value):
    circle = (("ShutterShape", ("CS", b"CIRCULAR")), ("CenterOfCircularShutter", ("IS", b"30\\30 ")))
    assert outcome(with_elements(films[0], *circle, ("RadiusOfCircularShutter", vr_value))) == "image"


def test_decode_palette_without_a_colour_or_in_segments_fault():
    indices = np.arange(4096, dtype=np.uint8).reshape(64, 64)
    ramp = (np.arange(256) * 257).astype("<u2").tobytes()
    palette: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = ramp
    data = build_dicom(indices, photometric="PALETTE COLOR", **palette)
    assert outcome(data) == "image"
    assert outcome(with_elements(data, ("GreenPaletteColorLookupTableData", ("OW", b"")))) == "corrupt"
    bomb = words(0, 10_000, *range(10_000)) + words(2, 1, 0, 0) * 60_000
    segmented = ("SegmentedRedPaletteColorLookupTableData", ("OW", bomb))
    assert outcome(with_elements(data, segmented)) == Fault.UNSUPPORTED_ENCODING.value


def test_number_of_frames_beyond_any_file_fault_and_not_a_crash(films):
    assert outcome(with_elements(films[0], ("NumberOfFrames", ("IS", b"99999999999 ")))) == "multiple_frames"


def test_memory_that_is_not_there_fault():
    from cxr_ray.images.header import codec_border

    with pytest.raises(DecodeError) as caught, codec_border("Decoding"):
        np.ones(2**50)
    assert caught.value.fault is Fault.TOO_LARGE
