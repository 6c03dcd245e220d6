"""What is read of a header, and what of it may get out: UIDs, codes of fixed vocabularies, numbers and a keyed hash.

The attributes listed here are read and no others; of these no name, date, description or comment passes, and neither
does the text of a foreign exception, warning or log line, which may quote any of them. Knows nothing of pydicom or any
other parser, of how a value is stored in a file, of pixels, or of what is to be scored.
"""

import hashlib
import hmac
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cxr_ray.config import ImageKind
from cxr_ray.errors import DecodeError, Fault

NOT_CODED = "NOT CODED"
"""Stands for a value that is present but is no code string."""

HEADER_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "Manufacturer",
    "BodyPartExamined",
    "ViewPosition",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
]
SHUTTER_KEYWORDS = [
    pattern.format(device)
    for device in ("Shutter", "Collimator")
    for pattern in (
        "{}Shape",
        "{}LeftVerticalEdge",
        "{}RightVerticalEdge",
        "{}UpperHorizontalEdge",
        "{}LowerHorizontalEdge",
        "CenterOfCircular{}",
        "RadiusOfCircular{}",
        "VerticesOfThePolygonal{}",
    )
]
PIXEL_KEYWORDS = [
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
    *SHUTTER_KEYWORDS,
]
PALETTE_KEYWORDS = [
    pattern.format(colour)
    for colour in ("Red", "Green", "Blue")
    for pattern in (
        "{}PaletteColorLookupTableDescriptor",
        "{}PaletteColorLookupTableData",
        "Segmented{}PaletteColorLookupTableData",
    )
]
PIXEL_DATA_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

TAGS = {
    "Modality": "(0008,0060)",
    "BodyPartExamined": "(0018,0015)",
    "ViewPosition": "(0018,5101)",
    "AnatomicRegionSequence": "(0008,2218)",
    "ViewCodeSequence": "(0054,0220)",
    "PatientOrientation": "(0020,0020)",
    "AcquisitionDeviceProcessingDescription": "(0018,1400)",
    "PerformedProtocolCodeSequence": "(0040,0260)",
    "SeriesDescription": "(0008,103E)",
    "ProtocolName": "(0018,1030)",
    "StudyDescription": "(0008,1030)",
}
"""Where a `Hint` may come from, as a fault's sentence names it."""

_QUIET_LIBRARIES = ("pydicom", "PIL", "pylibjpeg", "openjpeg")


@dataclass(frozen=True, slots=True)
class Hint:
    """A code of terms.py and the keyword of the attribute that said so, one of `TAGS`."""

    code: str
    keyword: str


@dataclass(frozen=True, slots=True)
class Header:
    """What identifies and describes an image, made of UIDs, numbers and codes of fixed vocabularies only.

    None means absent, or, for a UID or a number, not usable. A code that is in no vocabulary reads OTHER, for a valid
    code string may be anybody's name. `body_part` and `view` are the header's last word on them, gathered in hints.py;
    `kinds` is what the image is beside, or instead of, a radiograph of a patient.
    `rows` and `columns` are those of the film; the other attributes are None unless `format` is dicom.
    `manufacturer` is the vendor that the free text of Manufacturer names, one of vendors.py. `patient_key` is the hex
    HMAC-SHA256 of Patient ID. `pixel_spacing_mm` is the distance between rows, then columns.
    """

    format: Literal["dicom", "png", "jpeg", "tiff"]
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    patient_key: str | None = None
    modality: str | None = None
    manufacturer: str | None = None
    body_part: Hint | None = None
    view: Hint | None = None
    kinds: tuple[ImageKind, ...] = ()
    photometric_interpretation: str | None = None
    transfer_syntax_uid: str | None = None
    rows: int | None = None
    columns: int | None = None
    pixel_spacing_mm: tuple[float, float] | None = None

    @property
    def body_part_examined(self) -> str | None:
        """The code of the body part, as a row shows it."""
        return self.body_part.code if self.body_part else None

    @property
    def view_position(self) -> str | None:
        """The code of the view, as a row shows it."""
        return self.view.code if self.view else None


def clean_uid(text: str | None) -> str | None:
    """A UID, or None for anything that is none. Source: PS3.5 9.1."""
    return text if text and len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) else None


def clean_code(text: str | None) -> str | None:
    """A code string in capitals, None if absent, `NOT_CODED` for anything else. Source: PS3.5 6.2, CS."""
    code = (text or "").upper()
    if not code:
        return None
    return code if re.fullmatch(r"[A-Z0-9_ ]{1,16}", code) else NOT_CODED


def clean_spacing(numbers: tuple[float, ...]) -> tuple[float, float] | None:
    """Millimetres between rows and between columns; some writers put zeros for unknown. Source: PS3.3 10.7.1.3."""
    return (numbers[0], numbers[1]) if len(numbers) == 2 and min(numbers) > 0.0 else None


def patient_key(patient_id: str | None, secret: bytes | None) -> str | None:
    """Hex HMAC-SHA256 of Patient ID, so that films of one patient can be told without saying whose they are."""
    if not secret or not patient_id:
        return None
    return hmac.new(secret, patient_id.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


@contextmanager
def codec_border(doing: str) -> Iterator[None]:
    """Turn whatever a foreign parser or codec raises inside the block into a DecodeError that begins with `doing`.

    The one place that catches everything: codecs fail on damaged bytes with anything from KeyError to SyntaxError,
    and pylibjpeg-rle, written in Rust, with a PanicException that is no Exception. Only calls of foreign libraries
    belong inside; a mistake of our own must stay a mistake. The cause is dropped because its text may quote the
    header. A file that asks for more memory than there is, is TOO_LARGE.
    """
    silence_libraries()
    try:
        yield
    except DecodeError:
        raise
    except MemoryError:
        detail = f"{doing} takes more memory than there is; leave the file out, or lower limits.pixels to refuse such."
        raise DecodeError(Fault.TOO_LARGE, detail) from None
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
        logger = logging.getLogger(library)
        if logger.level != logging.CRITICAL:  # setting it anew clears every logger's cache: 9 ms an image
            logger.setLevel(logging.CRITICAL)
