"""DICOM bytes to pixels in MONOCHROME2 order, 0..1, and the attributes that identify them.

The only place besides phantom.py that knows pydicom. It reads the attributes listed below and no others, and lets
nothing out but numbers and coded values: no name, no date, no description, no comment, and no text of a foreign
exception, which may quote any of these. The arithmetic between sample and grey is in grey.py. Knows nothing of
files, of other formats, or of what is to be scored.
"""

import hashlib
import hmac
import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images import grey

NOT_CODED = "NOT CODED"
"""Stands in a `Header` for a value that is present but is no code string, so that the gate can tell it from absent."""

_HEADER_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
]
_PIXEL_KEYWORDS = [
    "SamplesPerPixel",
    "PlanarConfiguration",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit",
    "PresentationLUTShape",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
]
_PALETTE_KEYWORDS = [
    pattern.format(colour)
    for colour in ("Red", "Green", "Blue")
    for pattern in (
        "{}PaletteColorLookupTableDescriptor",
        "{}PaletteColorLookupTableData",
        "Segmented{}PaletteColorLookupTableData",
    )
]
_PIXEL_DATA_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_SYNTAX_OF_MARKER = {0xC1: uid.JPEGExtended12Bit, 0xC3: uid.JPEGLossless, 0xF7: uid.JPEGLSLossless}
_FRAME_MARKERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_SEGMENT_MARKERS = _FRAME_MARKERS | {0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE, 0xFF}
_START_OF_SCAN = 0xDA
_PLUGINS: dict[str, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: ("pillow", "pylibjpeg", "gdcm"),
    uid.JPEGExtended12Bit: ("pillow", "pylibjpeg", "gdcm"),
    uid.JPEGLossless: ("gdcm", "pylibjpeg"),
    uid.JPEGLosslessSV1: ("gdcm", "pylibjpeg"),
    uid.JPEGLSLossless: ("pyjpegls", "pylibjpeg", "gdcm"),
    uid.JPEGLSNearLossless: ("pyjpegls", "pylibjpeg", "gdcm"),
    uid.JPEG2000Lossless: ("pylibjpeg", "gdcm", "pillow"),
    uid.JPEG2000: ("pylibjpeg", "gdcm", "pillow"),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
    uid.RLELossless: ("pylibjpeg", "pydicom"),
}
"""pydicom's decoding plugins, the fastest first (measured; docs of the project, DESIGN section 9)."""

_QUIET_LIBRARIES = ("pydicom", "PIL", "pylibjpeg", "openjpeg")


@dataclass(frozen=True, slots=True)
class Header:
    """What identifies and describes an image, made of UIDs, code strings and numbers only.

    None means absent, or, for a UID or a number, not usable. A code string that is none reads `NOT_CODED`.
    `rows` and `columns` are those of `Radiograph.pixels`; the other attributes are None unless `format` is dicom.
    `patient_key` is the hex HMAC-SHA256 of Patient ID. `pixel_spacing_mm` is the distance between rows, then columns.
    """

    format: Literal["dicom", "png", "jpeg", "tiff"]
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    patient_key: str | None = None
    modality: str | None = None
    body_part_examined: str | None = None
    view_position: str | None = None
    photometric_interpretation: str | None = None
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    pixel_spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class DicomImage:
    """A parsed DICOM object with pixel data, not yet decoded."""

    header: Header
    transfer_syntax: UID
    dataset: pydicom.Dataset = field(repr=False)


@contextmanager
def codec_border(doing: str) -> Iterator[None]:
    """Turn whatever a foreign parser or codec raises inside the block into a DecodeError that begins with `doing`.

    The one place that catches everything: codecs fail on damaged bytes with anything from KeyError to SyntaxError,
    and pylibjpeg-rle, written in Rust, with a PanicException that is no Exception. Only calls of foreign libraries
    belong inside; a mistake of our own must stay a mistake. The cause is dropped because its text may quote the
    header.
    """
    silence_libraries()
    try:
        yield
    except (DecodeError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        if isinstance(error, NotImplementedError):
            detail = f"{doing} failed: no installed decoder reads this layout; convert the file."
            raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail) from None
        detail = f"{doing} failed ({type(error).__name__}); the file is damaged, export or transfer it again."
        raise DecodeError(Fault.CORRUPT, detail) from None


def silence_libraries() -> None:
    """Keep the parsers' and codecs' warnings and log lines, which quote header values, out of this process.

    warnings.catch_warnings is not thread-safe (two threads may leave each other's filters behind for good), so one
    filter for these libraries' modules is put in place when first needed, and stays.
    """
    modules = rf"({'|'.join(_QUIET_LIBRARIES)})(\.|$)"
    rule: Any = ("ignore", None, Warning, re.compile(modules), 0)
    if rule not in warnings.filters:
        warnings.filterwarnings("ignore", module=modules)
    for library in _QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL)


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin like DICOM: with the prefix, or, for want of it, with an element of group 2 or 8.

    Source: PS3.10 7.1.
    """
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    return (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00") or (
        data[:2] == b"\x00\x08" and data[2:3] == b"\x00" and data[4:6].isupper()
    )


class _Source(BytesIO):
    """Bytes that remember whether the parser ran into their end inside an element."""

    cut_short = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like BytesIO and notice a read that falls short."""
        beyond = self.tell() > self.getbuffer().nbytes
        chunk = super().read(size)
        self.cut_short |= beyond or (size is not None and 0 < len(chunk) < size)
        return chunk


def read_dicom(data: bytes, *, patient_key_secret: bytes | None = None) -> DicomImage:
    """Parse a DICOM object up to, but not into, its pixel data.

    Raises DecodeError: NOT_AN_IMAGE, NO_PIXELS, CORRUPT.
    """
    dataset = read_dataset(data)
    transfer_syntax = _transfer_syntax(dataset)
    return DicomImage(
        header=_header(dataset, transfer_syntax, secret=patient_key_secret),
        transfer_syntax=transfer_syntax,
        dataset=dataset,
    )


def read_dataset(data: bytes) -> pydicom.Dataset:
    """Parse the attributes that are used here, with or without preamble and meta header.

    Raises DecodeError: NOT_AN_IMAGE, CORRUPT for a file that ends early, NO_PIXELS for reports, DICOMDIR and others.
    """
    source = _Source(b"\0" * 128 + data if data[:4] == b"DICM" else data)
    tags: list[Any] = [*_HEADER_KEYWORDS, *_PIXEL_KEYWORDS, *_PALETTE_KEYWORDS, *_PIXEL_DATA_KEYWORDS]
    if is_dicom(data):
        with codec_border("Reading the DICOM header"):
            dataset = pydicom.dcmread(source, force=True, specific_tags=tags)
            if any(keyword in dataset and dataset[keyword].value for keyword in _PIXEL_DATA_KEYWORDS):
                return dataset
        if source.cut_short:
            raise DecodeError(Fault.CORRUPT, "The DICOM file ends before its pixel data; transfer it again.")
        if len(dataset) > 0 or len(dataset.file_meta) > 0:
            kind = _name_of(_uid(dataset, "SOPClassUID"))
            detail = f"(7FE0,0010) PixelData is absent or empty in this object ({kind}); leave such objects out."
            raise DecodeError(Fault.NO_PIXELS, detail)
    raise DecodeError(Fault.NOT_AN_IMAGE, "These bytes are not a DICOM object; list files of a supported format only.")


def decode_dicom(image: DicomImage, *, percentiles: tuple[float, float]) -> tuple[NDArray[np.float32], str]:
    """Pixels (H, W), 0 black to 1 white, and `voi_source`.

    That is `lut`, `window`, `percentiles` (neither in the header, or they miss the data), or `full_range` for colour
    encodings of a grey film, to which no VOI applies. Raises DecodeError: MULTIPLE_FRAMES, UNSUPPORTED_ENCODING,
    CORRUPT, COLOUR, BLANK.
    """
    num_frames = _optional_numbers(image.dataset, "NumberOfFrames")
    if num_frames and num_frames[0] > 1:
        detail = f"(0028,0008) NumberOfFrames is {num_frames[0]:.0f}; export the radiograph as a single-frame object."
        raise DecodeError(Fault.MULTIPLE_FRAMES, detail)
    samples, bits = _decode_samples(image)
    if image.header.photometric_interpretation == "PALETTE COLOR":
        with codec_border("Applying the palette"):
            samples = apply_color_lut(samples, image.dataset)
        return grey.grey_from_rgb(samples, full_scale=float(np.iinfo(samples.dtype).max)), "full_range"
    if samples.ndim == 3:
        return grey.grey_from_rgb(samples, full_scale=2.0**bits - 1.0), "full_range"
    return grey.render(samples, _grey_steps(image, samples), percentiles=percentiles)


def _decode_samples(image: DicomImage) -> tuple[NDArray[Any], int]:
    """The samples (H, W) or (H, W, 3) as the codec gives them, and the bits of a colour sample.

    Unused bits of grey samples are not yet cleared.
    """
    syntax, dataset, plugin = image.transfer_syntax, image.dataset, _plugin(image.transfer_syntax)
    options: dict[str, Any] = {}
    if syntax in _NATIVE:
        _check_length(image)
        options["view_only"] = True
    elif syntax != uid.RLELossless:
        options |= _codestream_options(image)
    if image.header.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2"):
        options["correct_unused_bits"] = False
    with codec_border("Decoding the pixel data"):
        if syntax == uid.JPEGExtended12Bit and options["bits_stored"] > 8:
            # pydicom refuses GDCM here, yet GDCM takes the precision from the codestream, whatever the syntax is
            # called (checked on RG2_JPLY and, in the tests, on all 12 bits). Nothing else installed can do it.
            options = {**as_pixel_options(dataset), **options, "pixel_keyword": "PixelData"}
            decoder, source, plugin = get_decoder(uid.JPEGLosslessSV1), dataset.PixelData, "gdcm"
        else:
            decoder, source = get_decoder(syntax), dataset
        samples, properties = decoder.as_array(source, index=0, decoding_plugin=plugin, **options)
    return samples, int(properties.get("bits_stored", 0))


def _check_length(image: DicomImage) -> None:
    """Refuse native pixel data that is longer than its header accounts for by more than a row of padding.

    pydicom refuses what is too short and shows the beginning of what is too long.
    """
    samples, bits = (_number(image.dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated"))
    row_bytes = (image.header.columns or 0) * samples * bits / 8.0
    length = sum(len(image.dataset[keyword].value) for keyword in _PIXEL_DATA_KEYWORDS if keyword in image.dataset)
    if length > row_bytes * (image.header.rows or 0) + max(row_bytes, 2.0):
        detail = f"(7FE0,0010) PixelData has {length} bytes, more than Rows, Columns and BitsAllocated account for; "
        raise DecodeError(Fault.CORRUPT, detail + "export the file again.")


def _codestream_options(image: DicomImage) -> dict[str, Any]:
    """What the JPEG or JPEG 2000 codestream says that the header may have wrong; raises CORRUPT if they disagree.

    Checked before decoding, because a codec takes memory by the codestream and not by the header, and because GDCM
    3.2 ends the process on sample sizes that contradict each other and on any libjpeg warning about the header.
    """
    frame = _first_frame(image.dataset)
    stream = _jpeg_2000_stream(frame) if image.transfer_syntax in uid.JPEG2000TransferSyntaxes else _jpeg_stream(frame)
    header = image.header
    samples, bits_allocated = (_number(image.dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated"))
    if stream is None or (not stream.regular and image.transfer_syntax in _JPEG[1:]):
        raise DecodeError(Fault.CORRUPT, "The encoded frame has no intact header of its own; transfer the file again.")
    if (stream.rows, stream.columns, stream.samples) != (header.rows, header.columns, samples):
        detail = f"The header says {header.rows} x {header.columns} pixels of {samples:.0f} samples, the encoded frame "
        detail += f"{stream.rows} x {stream.columns} of {stream.samples}; export the file again."
        raise DecodeError(Fault.CORRUPT, detail)
    if image.transfer_syntax in uid.JPEGLSTransferSyntaxes and b"\xff\xd9" not in frame[-16:]:
        # CharLS may take seconds to find out that such a frame ends early.
        raise DecodeError(Fault.CORRUPT, "The JPEG-LS frame has no end; transfer the file again.")
    if stream.precision > bits_allocated:
        detail = f"(0028,0100) BitsAllocated is {bits_allocated:.0f}, the encoded frame has {stream.precision} bits; "
        raise DecodeError(Fault.CORRUPT, detail + "export the file again.")
    if image.transfer_syntax == uid.JPEGExtended12Bit and stream.precision not in (8, 12):
        detail = f"JPEG Extended has samples of 8 or 12 bits (T.81 B.2.2), not {stream.precision}; convert the file."
        raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail)
    if image.transfer_syntax not in _JPEG:
        return {"bits_stored": stream.precision}
    return {"bits_allocated": 8 if stream.precision <= 8 else 16, "bits_stored": max(8, stream.precision)}


@dataclass(frozen=True, slots=True)
class _Stream:
    """The frame header of a codestream; `marker` is the JPEG marker that tells the process.

    `regular` says that a JPEG header runs without a gap to its scan and holds no version that libjpeg warns of.
    """

    marker: int
    precision: int
    rows: int
    columns: int
    samples: int
    regular: bool = True


def _jpeg_stream(frame: bytes) -> _Stream | None:
    """The frame header of a JPEG or JPEG-LS codestream. Source: ITU-T T.81 B.1.1 and B.2, T.87 C.2.2."""
    stream, regular, position = None, True, 2
    while frame[:2] == b"\xff\xd8" and position + 4 <= len(frame) and frame[position] == 0xFF:
        marker, length = frame[position + 1], int.from_bytes(frame[position + 2 : position + 4])
        body = frame[position + 4 : position + 2 + length]
        if marker == _START_OF_SCAN and stream:
            return replace(stream, regular=regular)
        if marker in _FRAME_MARKERS and len(body) >= 6:
            stream = _Stream(marker, *struct.unpack_from(">BHHB", body))
        regular &= marker in _SEGMENT_MARKERS
        regular &= not (body.startswith(b"JFIF\0") and body[5:6] != b"\1")
        regular &= not (body.startswith(b"Adobe") and body[11:12] > b"\2")
        position += 1 if marker == 0xFF else 2 + length
    return replace(stream, regular=False) if stream else None


def _jpeg_2000_stream(frame: bytes) -> _Stream | None:
    """The SIZ segment of a JPEG 2000 codestream, also inside a JP2 file. Source: ITU-T T.800 A.5.1."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return _Stream(0x4F, (depth & 0x7F) + 1, bottom - top, right - left, samples)


def _first_frame(dataset: pydicom.Dataset) -> bytes:
    """The codestream of the first frame."""
    with codec_border("Reading the first frame"):
        return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _plugin(syntax: UID) -> str:
    """The fastest installed pydicom plugin for `syntax`, empty for native pixel data; raises UNSUPPORTED_ENCODING."""
    if syntax in _NATIVE:
        return ""
    wanted = _PLUGINS.get(syntax, ())
    available = get_decoder(syntax).available_plugins if wanted else ()
    for plugin in wanted:
        if plugin in available:
            return plugin
    remedy = "install the codecs this package depends on" if wanted else "convert it to a supported transfer syntax"
    detail = f"(0002,0010) TransferSyntaxUID {syntax} ({_name_of(syntax)}) has no installed decoder; {remedy}."
    raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail)


def _grey_steps(image: DicomImage, samples: NDArray[Any]) -> grey.GreySteps:
    """Everything the header says about the way from `samples` to grey."""
    dataset = image.dataset
    signed = _optional_numbers(dataset, "PixelRepresentation") == (1,)
    bits_stored, high_bit = _bits(image, samples, signed=signed)
    modality = _modality(dataset, signed=signed)
    lowest = -(2.0 ** (bits_stored - 1)) if signed else 0.0
    ends = modality(np.array([lowest, lowest + 2.0**bits_stored - 1.0]))
    return grey.GreySteps(
        bits_stored=bits_stored,
        high_bit=high_bit,
        signed=signed,
        modality=modality,
        padding=_padding(dataset, signed=signed),
        voi=(*_voi_luts(dataset, signed=bool(ends.min() < 0.0)), *_windows(dataset)),
        inverted=image.header.photometric_interpretation == "MONOCHROME1"
        or _code(dataset, "PresentationLUTShape") == "INVERSE",
    )


def _bits(image: DicomImage, samples: NDArray[Any], *, signed: bool) -> tuple[int, int]:
    """Bits Stored and High Bit of `samples`: the header's where words were handed through unseen.

    JPEG-LS and JPEG 2000 carry their precision and pydicom extends the sign by it, so there all bits count, as they
    do in unsigned JPEG. A High Bit other than the default occurs in old native files only.
    """
    width = 8 * samples.dtype.itemsize
    native = image.transfer_syntax in (*_NATIVE, uid.RLELossless)
    if samples.dtype.kind == "f" or not (native or (signed and image.transfer_syntax in _JPEG)):
        return width, width - 1
    bits_stored = int(_number(image.dataset, "BitsStored"))
    high_bit = int((*_optional_numbers(image.dataset, "HighBit"), bits_stored - 1)[0])
    return bits_stored, high_bit if native and bits_stored <= high_bit + 1 <= width else bits_stored - 1


def _modality(dataset: pydicom.Dataset, *, signed: bool) -> grey.Rescale | grey.Lut:
    """The modality transformation: the LUT, else the rescale, else none. Source: PS3.3 C.11.1."""
    for item in _items(dataset, "ModalityLUTSequence"):
        return _lut(item, dataset, signed=signed)
    slope = (*_numbers(dataset, "RescaleSlope"), 1.0)[0]
    intercept = (*_numbers(dataset, "RescaleIntercept"), 0.0)[0]
    if slope == 0.0:
        raise DecodeError(Fault.CORRUPT, "(0028,1053) RescaleSlope is 0, which makes all pixels equal; correct it.")
    return grey.Rescale(slope, intercept)


def _padding(dataset: pydicom.Dataset, *, signed: bool) -> tuple[float, float] | None:
    """Inclusive range of stored values that mean "no data"."""
    keyword = next(keyword for keyword in _PIXEL_DATA_KEYWORDS if keyword in dataset)
    prefix = keyword.removesuffix("Data") + "Padding"
    value = _optional_numbers(dataset, f"{prefix}Value")
    if not value:
        return None
    limit = _optional_numbers(dataset, f"{prefix}RangeLimit") or value
    bits = int(_number(dataset, "BitsAllocated")) if keyword == "PixelData" else None
    return grey.padding_range(value[0], limit[0], bits_allocated=bits, signed=signed)


def _voi_luts(dataset: pydicom.Dataset, *, signed: bool) -> tuple[tuple[str, grey.Voi], ...]:
    """The first VOI LUT, or nothing where there is none that can be used. Source: PS3.3 C.11.2."""
    try:
        return tuple(("lut", _lut(item, dataset, signed=signed)) for item in _items(dataset, "VOILUTSequence")[:1])
    except DecodeError:
        return ()


def _windows(dataset: pydicom.Dataset) -> tuple[tuple[str, grey.Voi], ...]:
    """The first of the windows, or nothing where its numbers make no window. Source: PS3.3 C.11.2."""
    centers, widths = (_optional_numbers(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if not centers or not widths:
        return ()
    window = grey.window(centers[0], widths[0], function=_code(dataset, "VOILUTFunction") or "LINEAR")
    return (("window", window),) if window else ()


def _lut(item: pydicom.Dataset, dataset: pydicom.Dataset, *, signed: bool) -> grey.Lut:
    """The table of a Modality or VOI LUT item of `dataset`; `signed`: its inputs may be negative."""
    descriptor, data = _numbers(item, "LUTDescriptor"), _value(item, "LUTData")
    words = data if isinstance(data, bytes) else np.array(data if data else (), dtype=np.int64)
    if len(descriptor) != 3 or len(words) == 0:
        raise DecodeError(
            Fault.CORRUPT, "(0028,3002) LUTDescriptor or (0028,3006) LUTData is incomplete; export again."
        )
    num_entries, first, bits = (int(part) for part in descriptor)
    return grey.lut(num_entries, first, bits, words, little_endian=bool(dataset.original_encoding[1]), signed=signed)


def _transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """The stated transfer syntax, else, without a meta header, the one the bytes betray."""
    stated = _uid(dataset.file_meta, "TransferSyntaxUID")
    if stated:
        return UID(stated)
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        return _encapsulated_syntax(dataset)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little_endian else uid.ExplicitVRBigEndian


def _encapsulated_syntax(dataset: pydicom.Dataset) -> UID:
    """The syntax whose codestream begins like the first frame; RLE has no marker. Source: PS3.5 8.2, A.4."""
    frame = _first_frame(dataset)
    if _jpeg_2000_stream(frame):
        return uid.JPEG2000
    stream = _jpeg_stream(frame)
    return _SYNTAX_OF_MARKER.get(stream.marker, uid.JPEGBaseline8Bit) if stream else uid.RLELossless


def _header(dataset: pydicom.Dataset, transfer_syntax: UID, *, secret: bytes | None) -> Header:
    """The identifying attributes, cleaned of everything that is no UID, code string or number."""
    return Header(
        format="dicom",
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        patient_key=_patient_key(dataset, secret),
        modality=_code(dataset, "Modality"),
        body_part_examined=_code(dataset, "BodyPartExamined"),
        view_position=_code(dataset, "ViewPosition"),
        photometric_interpretation=_code(dataset, "PhotometricInterpretation"),
        transfer_syntax_uid=str(transfer_syntax),
        rows=int(_number(dataset, "Rows")),
        columns=int(_number(dataset, "Columns")),
        pixel_spacing_mm=_spacing(dataset, "PixelSpacing") or _spacing(dataset, "ImagerPixelSpacing"),
    )


def _spacing(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
    """Millimetres between rows and between columns; some writers put zeros for unknown. Source: PS3.3 10.7.1.3."""
    spacing = _optional_numbers(dataset, keyword)
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0.0 else None


def _patient_key(dataset: pydicom.Dataset, secret: bytes | None) -> str | None:
    """Hex HMAC-SHA256 of Patient ID, so that films of one patient can be told without saying whose they are."""
    patient_id = _text(dataset, "PatientID")
    if not secret or not patient_id:
        return None
    return hmac.new(secret, patient_id.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def _uid(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A UID, or None for anything that is none. Source: PS3.5 9.1."""
    text = _text(dataset, keyword)
    return text if text and len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) else None


def _code(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A code string in capitals, None if absent, `NOT_CODED` for anything else. Source: PS3.5 6.2, CS."""
    text = (_text(dataset, keyword) or "").upper()
    if not text:
        return None
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else NOT_CODED


def _text(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """The first value as text without padding; None when absent, empty or unreadable."""
    try:
        value = _value(dataset, keyword)
    except DecodeError:
        return None
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None else str(value).strip(" \0")


def _number(dataset: pydicom.Dataset, keyword: str) -> float:
    """The value of a numeric attribute that no image can do without; raises CORRUPT when it is absent or several."""
    values = _numbers(dataset, keyword)
    if len(values) != 1:
        raise DecodeError(Fault.CORRUPT, f"{keyword} has {len(values)} values instead of one; export the file again.")
    return values[0]


def _numbers(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """All values of a numeric attribute, empty when absent; raises CORRUPT for what is no finite number."""
    value = _value(dataset, keyword)
    with codec_border(f"Reading {keyword}"):
        values = () if value in (None, "") else tuple(float(part) for part in np.atleast_1d(value))
        if not all(math.isfinite(part) for part in values):
            raise ValueError
    return values


def _optional_numbers(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """Like `_numbers`, for attributes an image can do without: unreadable is absent."""
    try:
        return _numbers(dataset, keyword)
    except DecodeError:
        return ()


def _items(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """The items of a sequence, none when absent."""
    with codec_border(f"Reading {keyword}"):
        return list(dataset.get(keyword) or ())


def _value(dataset: pydicom.Dataset, keyword: str) -> Any:
    """The converted value of one attribute; pydicom converts, and fails, only on access."""
    with codec_border(f"Reading {keyword}"):
        return dataset.get(keyword)


def _name_of(identifier: str | None) -> str:
    """The standard's name of a UID; a UID it does not know may be anybody's text."""
    name = UID(identifier).name if identifier else ""
    return name if name and name != identifier else "not a registered UID"
