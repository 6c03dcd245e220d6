"""DICOM bytes to pixels in MONOCHROME2 order, 0..1, and the attributes that identify them.

The only place besides phantom.py that knows pydicom. Which attributes are read and what of them may get out is said in
header.py, what a compressed frame says of itself is read in codestream.py, and the arithmetic between sample and grey
is in grey.py. Knows nothing of files, of other formats, or of what is to be scored.
"""

import math
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

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
from cxr_ray.images.codestream import Process, checked_stream, jpeg_2000_stream, jpeg_stream
from cxr_ray.images.header import (
    HEADER_KEYWORDS,
    PALETTE_KEYWORDS,
    PIXEL_DATA_KEYWORDS,
    PIXEL_KEYWORDS,
    Header,
    clean_code,
    clean_spacing,
    clean_uid,
    codec_border,
    patient_key,
)

_NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_SYNTAX_OF_MARKER = {0xC1: uid.JPEGExtended12Bit, 0xC3: uid.JPEGLossless, 0xF7: uid.JPEGLSLossless}
_PROCESSES: dict[str, Process] = {
    uid.JPEGBaseline8Bit: "jpeg_baseline",
    uid.JPEGExtended12Bit: "jpeg_extended",
    uid.JPEGLossless: "jpeg_lossless",
    uid.JPEGLosslessSV1: "jpeg_lossless",
    uid.JPEGLSLossless: "jpeg_ls",
    uid.JPEGLSNearLossless: "jpeg_ls",
    uid.JPEG2000Lossless: "jpeg_2000",
    uid.JPEG2000: "jpeg_2000",
    uid.HTJ2KLossless: "jpeg_2000",
    uid.HTJ2KLosslessRPCL: "jpeg_2000",
    uid.HTJ2K: "jpeg_2000",
}
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


@dataclass(frozen=True, slots=True)
class DicomImage:
    """A parsed DICOM object with pixel data, not yet decoded."""

    header: Header
    transfer_syntax: UID
    dataset: pydicom.Dataset = field(repr=False)


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
    tags: list[Any] = [*HEADER_KEYWORDS, *PIXEL_KEYWORDS, *PALETTE_KEYWORDS, *PIXEL_DATA_KEYWORDS]
    if is_dicom(data):
        with codec_border("Reading the DICOM header"):
            dataset = pydicom.dcmread(source, force=True, specific_tags=tags)
            if any(keyword in dataset and dataset[keyword].value for keyword in PIXEL_DATA_KEYWORDS):
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
    length = sum(len(image.dataset[keyword].value) for keyword in PIXEL_DATA_KEYWORDS if keyword in image.dataset)
    if length > row_bytes * (image.header.rows or 0) + max(row_bytes, 2.0):
        detail = f"(7FE0,0010) PixelData has {length} bytes, more than Rows, Columns and BitsAllocated account for; "
        raise DecodeError(Fault.CORRUPT, detail + "export the file again.")


def _codestream_options(image: DicomImage) -> dict[str, Any]:
    """What the JPEG or JPEG 2000 codestream says that the header may have wrong; raises CORRUPT if they disagree."""
    frame = _first_frame(image.dataset)
    samples, bits_allocated = (_number(image.dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated"))
    precision = checked_stream(
        frame,
        process=_PROCESSES[image.transfer_syntax],
        rows=image.header.rows,
        columns=image.header.columns,
        samples=samples,
        bits_allocated=bits_allocated,
    ).precision
    if image.transfer_syntax not in _JPEG:
        return {"bits_stored": precision}
    return {"bits_allocated": 8 if precision <= 8 else 16, "bits_stored": max(8, precision)}


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
    keyword = next(keyword for keyword in PIXEL_DATA_KEYWORDS if keyword in dataset)
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
    if jpeg_2000_stream(frame):
        return uid.JPEG2000
    stream = jpeg_stream(frame)
    return _SYNTAX_OF_MARKER.get(stream.marker, uid.JPEGBaseline8Bit) if stream else uid.RLELossless


def _header(dataset: pydicom.Dataset, transfer_syntax: UID, *, secret: bytes | None) -> Header:
    """The identifying attributes, cleaned of everything that is no UID, code string or number."""
    return Header(
        format="dicom",
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        patient_key=patient_key(_text(dataset, "PatientID"), secret),
        modality=_code(dataset, "Modality"),
        body_part_examined=_code(dataset, "BodyPartExamined"),
        view_position=_code(dataset, "ViewPosition"),
        photometric_interpretation=_code(dataset, "PhotometricInterpretation"),
        transfer_syntax_uid=str(transfer_syntax),
        rows=int(_number(dataset, "Rows")),
        columns=int(_number(dataset, "Columns")),
        pixel_spacing_mm=_spacing(dataset, "PixelSpacing") or _spacing(dataset, "ImagerPixelSpacing"),
    )


def _uid(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A UID, or None for anything that is none."""
    return clean_uid(_text(dataset, keyword))


def _code(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A code string in capitals, None if absent, `NOT_CODED` for anything else."""
    return clean_code(_text(dataset, keyword))


def _spacing(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, None if absent or not usable."""
    return clean_spacing(_optional_numbers(dataset, keyword))


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
