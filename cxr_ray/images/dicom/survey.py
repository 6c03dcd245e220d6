"""What the header of one object tells, read from a seekable file without its pixel data.

A DICOM object is walked up to its pixel data. The small elements on the way, with a stand-in for the pixels, then go
through the `read_header` and `check_gate` of scoring, so that both agree about what a file is. Nothing but codes of a
vocabulary, UIDs and numbers leaves. Does not know what is behind the header: whether the pixels are whole, in
colour or blank.
"""

from dataclasses import dataclass, replace
from typing import BinaryIO

import pydicom
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from cxr_ray.config import GateConfig, LimitsConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom import hints
from cxr_ray.images.dicom.attributes import name_of_uid, numbers_of, optional_numbers_of, text_of, uid_of
from cxr_ray.images.dicom.codecs import NATIVE, checked_length
from cxr_ray.images.dicom.reading import is_dicom
from cxr_ray.images.dicom.vendors import vendor_of
from cxr_ray.images.dicom.vocabulary import OTHER
from cxr_ray.images.dicom.walk import Source, Walk, stand_in, walk
from cxr_ray.images.gate import check_gate
from cxr_ray.images.header import Header, codec_border
from cxr_ray.images.radiograph import (
    RasterFormat,
    check_pixels,
    open_raster,
    raster_format,
    read_header,
    upright_size,
)

PACKAGES: dict[str, str] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "python-gdcm",
    uid.JPEGLossless: "python-gdcm",
    uid.JPEGLosslessSV1: "python-gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg pylibjpeg-openjpeg",
    uid.JPEG2000: "pylibjpeg pylibjpeg-openjpeg",
    uid.HTJ2KLossless: "pylibjpeg pylibjpeg-openjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg pylibjpeg-openjpeg",
    uid.HTJ2K: "pylibjpeg pylibjpeg-openjpeg",
    uid.RLELossless: "pylibjpeg pylibjpeg-rle",
}
"""What to install for a transfer syntax: packages with a permissive licence only, each the fastest of them."""

_WITHOUT_PIXELS = (Fault.NO_PIXELS, Fault.STRUCTURED_REPORT, Fault.DICOMDIR, Fault.NOT_AN_IMAGE)
_BITS_OF_MODE = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16B": 16, "I;16L": 16}


@dataclass(frozen=True, slots=True)
class Survey:
    """What a header tells of one object: codes of a vocabulary, UIDs and numbers. None: absent, or not told.

    `expected_fault` is what scoring will say of the object as far as its header tells. The codes are those of
    header.py, `body_part_examined` and `view_position` only of what has pixels; `vendor` is one of vendors.py.
    """

    format: str | None = None
    expected_fault: Fault | None = None
    transfer_syntax_uid: str | None = None
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    modality: str | None = None
    body_part_examined: str | None = None
    view_position: str | None = None
    vendor: str | None = None
    photometric_interpretation: str | None = None
    rows: int | None = None
    columns: int | None = None
    samples_per_pixel: int | None = None
    bits_allocated: int | None = None
    bits_stored: int | None = None
    num_frames: int | None = None


def survey(file: BinaryIO, size: int, *, limits: LimitsConfig, gate: GateConfig) -> Survey:
    """What the header of an object of `size` bytes tells; reads no more of `file` than that takes."""
    if size == 0:
        return Survey(expected_fault=Fault.EMPTY_FILE)
    head = file.read(132)
    if is_dicom(head):
        found = _survey_dicom(Source(file, size, bare=head.startswith(b"DICM")), limits, gate)
    elif (image_format := raster_format(head)) is not None:
        file.seek(0)
        found = _survey_raster(file, image_format, limits, gate)
    else:
        found = Survey(expected_fault=Fault.NOT_AN_IMAGE)
    return replace(found, expected_fault=Fault.TOO_LARGE) if size > limits.object_bytes else found


def can_decode(transfer_syntax: str) -> bool:
    """Whether a decoder of this transfer syntax is installed here."""
    if transfer_syntax in NATIVE:
        return True
    try:
        return get_decoder(UID(transfer_syntax)).is_available
    except NotImplementedError:  # pydicom knows no decoder of it at all
        return False


def _survey_dicom(source: Source, limits: LimitsConfig, gate: GateConfig) -> Survey:
    """A DICOM object, scored or not, with or without pixels."""
    try:
        with codec_border("Reading the DICOM header"):
            walked = walk(source)
    except DecodeError as error:
        return Survey("dicom", error.fault)
    found = _facts(walked)
    try:
        with codec_border("Writing the stand-in"):
            data = stand_in(walked)
    except DecodeError:
        return found  # damaged in a way that pydicom reads and does not write: scoring will tell
    try:
        # The stand-in may be longer than a tiny limit; the object itself is held against it in `survey`.
        roomy = limits.model_copy(update={"object_bytes": max(limits.object_bytes, len(data))})
        encoded = read_header(data, limits=roomy)
        found = _with_header(found, encoded.header)
        check_gate(encoded.header, gate)
        _check_decodable(walked, encoded.header, found)
    except DecodeError as error:
        return replace(found, expected_fault=_as_met(walked, error.fault))
    return found


def _as_met(walked: Walk, fault: Fault) -> Fault | None:
    """The fault of a stand-in, or what its lack of pixel data means where the walk did not end by itself."""
    if fault not in _WITHOUT_PIXELS or not (walked.ends_early or walked.given_up):
        return fault
    return Fault.CORRUPT if walked.ends_early else None


def _facts(walked: Walk) -> Survey:
    """What the attributes say, whether or not they describe an image."""
    dataset = walked.dataset
    return Survey(
        format="dicom",
        transfer_syntax_uid=uid_of(walked.file_meta, "TransferSyntaxUID"),
        sop_class_uid=uid_of(dataset, "SOPClassUID"),
        sop_instance_uid=uid_of(dataset, "SOPInstanceUID"),
        series_instance_uid=uid_of(dataset, "SeriesInstanceUID"),
        study_instance_uid=uid_of(dataset, "StudyInstanceUID"),
        modality=hints.modality_of(dataset),
        vendor=vendor_of(text_of(dataset, "Manufacturer")),
        photometric_interpretation=hints.photometric_interpretation_of(dataset),
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
        samples_per_pixel=_whole(dataset, "SamplesPerPixel"),
        bits_allocated=_whole(dataset, "BitsAllocated"),
        bits_stored=_whole(dataset, "BitsStored"),
        num_frames=_whole(dataset, "NumberOfFrames"),
    )


def _whole(dataset: pydicom.Dataset, keyword: str) -> int | None:
    """The first value as a whole number; None when absent, unreadable or beyond what an image can have."""
    numbers = optional_numbers_of(dataset, keyword)
    return int(numbers[0]) if numbers and abs(numbers[0]) < 2**31 else None


def _with_header(found: Survey, header: Header) -> Survey:
    """The facts with what scoring makes of them: the syntax that the bytes betray, the body part and the view."""
    return replace(
        found,
        transfer_syntax_uid=header.transfer_syntax_uid,
        body_part_examined=header.body_part_examined,
        view_position=header.view_position,
    )


def _check_decodable(walked: Walk, header: Header, found: Survey) -> None:
    """Refuse what decoding will refuse before it looks at a pixel, in the same order.

    Raises DecodeError: MULTIPLE_FRAMES, UNSUPPORTED_ENCODING, CORRUPT.
    """
    if (found.num_frames or 1) > 1:
        raise DecodeError(Fault.MULTIPLE_FRAMES, "The object has several frames; export a single one.")
    syntax = header.transfer_syntax_uid or ""
    if not can_decode(syntax):
        raise DecodeError(Fault.UNSUPPORTED_ENCODING, f"No decoder of {name_of_uid(syntax)} is installed.")
    if syntax in NATIVE and not walked.is_deflated:
        _check_native_length(walked, header)


def _check_native_length(walked: Walk, header: Header) -> None:
    """Refuse pixel data that are longer than the header accounts for, like codecs.py, or shorter, like pydicom.

    pydicom reads what describes the pixels, and refuses a colour encoding that it does not know, before it looks at
    the length. The half of the colour that YBR_FULL_422 leaves out is not there. Source: PS3.3 C.7.6.3.1.2.
    Raises DecodeError: CORRUPT, UNSUPPORTED_ENCODING.
    """
    available = walked.pixels.available if walked.pixels else 0
    wanted = checked_length(walked.dataset, header, available)
    if header.photometric_interpretation == "YBR_FULL_422":
        wanted = wanted // 3 * 2
    if available < wanted and header.photometric_interpretation not in (None, OTHER):
        for keyword in ("BitsStored", "PixelRepresentation", "PlanarConfiguration", "NumberOfFrames"):
            numbers_of(walked.dataset, keyword)
        raise DecodeError(Fault.CORRUPT, f"The pixel data have {available} bytes, the header speaks of {wanted:.0f}.")


def _survey_raster(file: BinaryIO, image_format: RasterFormat, limits: LimitsConfig, gate: GateConfig) -> Survey:
    """A PNG, JPEG or TIFF file, opened but not loaded; a TIFF's directory may lie at its end."""
    found = Survey(image_format)
    try:
        image = open_raster(file, image_format)
        columns, rows = upright_size(image)
        header = Header(format=image_format, rows=rows, columns=columns)
        bits = _BITS_OF_MODE.get(image.mode, 8)
        samples = len(image.getbands())
        found = replace(found, rows=rows, columns=columns, samples_per_pixel=samples, bits_stored=bits)
        check_pixels(header, limits)
        check_gate(header, gate)
        with codec_border("Counting the pages"):
            num_frames = int(getattr(image, "n_frames", 1))
    except DecodeError as error:
        return replace(found, expected_fault=error.fault)
    fault = Fault.MULTIPLE_FRAMES if num_frames > 1 else None
    return replace(found, num_frames=num_frames, expected_fault=fault)
