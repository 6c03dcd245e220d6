"""The exceptions of cxr_ray and the fault codes of its score table.

    CxrRayError
    ├── ConfigError      a setting, a command line or an output folder cannot be used as given
    ├── ManifestError    the training table is wrong; the message lists every bad row it found
    ├── BundleError      an ensemble bundle is incomplete, inconsistent or made for something else
    ├── StorageError     a folder or an object store did not answer as needed      (carries a fault)
    └── DecodeError      these bytes cannot become a model input                   (carries a fault)

An *error* is an exception. A *fault* is data: the reason, in the row of an image, why it has no score.
Only `StorageError` and `DecodeError` may turn into a fault; every other exception is a bug or a wrong
set-up and ends the run. Messages say what, where, the value and the remedy in one sentence, and hold no
free text of a DICOM header.
"""

from enum import StrEnum


class Fault(StrEnum):
    """Why an image has no score. Values are written to the score table and never change meaning."""

    NOT_FOUND = "not_found"
    ACCESS_DENIED = "access_denied"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    EMPTY_FILE = "empty_file"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    CORRUPT = "corrupt"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    BAD_ARCHIVE = "bad_archive"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    NO_PIXELS = "no_pixels"
    STRUCTURED_REPORT = "structured_report"
    DICOMDIR = "dicomdir"
    MULTIPLE_FRAMES = "multiple_frames"
    COLOUR = "colour"
    BLANK = "blank"
    FLAT = "flat"
    TEXT_PAGE = "text_page"
    EXTREME_ASPECT = "extreme_aspect"
    TOO_SMALL = "too_small"
    WRONG_MODALITY = "wrong_modality"
    MAMMOGRAM = "mammogram"
    SCREENSHOT = "screenshot"
    LOCALIZER = "localizer"
    FOR_PROCESSING = "for_processing"
    NOT_HUMAN = "not_human"
    WRONG_BODY_PART = "wrong_body_part"
    WRONG_VIEW = "wrong_view"


FAULT_MEANINGS: dict[Fault, str] = {
    Fault.NOT_FOUND: "The object was listed but is gone when read; list the input again.",
    Fault.ACCESS_DENIED: "The storage refuses to hand the object out; check credentials and permissions.",
    Fault.STORAGE_UNAVAILABLE: "The storage did not answer after all retries; check endpoint and network.",
    Fault.EMPTY_FILE: "The object has no bytes.",
    Fault.TOO_LARGE: "The object or its pixels exceed the configured limits; raise `limits` if the file is genuine.",
    Fault.NOT_AN_IMAGE: "The bytes begin like no format that is read here (DICOM, PNG, JPEG, TIFF).",
    Fault.CORRUPT: "The format is known, the content is truncated or contradicts itself.",
    Fault.UNSUPPORTED_ENCODING: "No installed decoder reads this transfer syntax or pixel layout.",
    Fault.BAD_ARCHIVE: "The .zip or .tar cannot be listed, or holds more than `limits` allow; repack or unpack it.",
    Fault.DECODER_CRASHED: "A decoder ended its process on this file; it was tried alone and cost nothing else.",
    Fault.DECODER_TIMEOUT: "Decoding took longer than `limits.decode_seconds`; raise it if the file is genuine.",
    Fault.NO_PIXELS: "The DICOM object has no pixel data (a presentation state, a key object selection, a plan).",
    Fault.STRUCTURED_REPORT: "The DICOM object is a structured report or an encapsulated document, not an image.",
    Fault.DICOMDIR: "The file is a DICOMDIR, the directory of a medium; list the files it names instead.",
    Fault.MULTIPLE_FRAMES: "More than one frame or page, so it is not clear which is the radiograph.",
    Fault.COLOUR: "The pixels are in colour, so this is not a radiograph.",
    Fault.BLANK: "All pixels have the same value, so there is nothing to see.",
    Fault.FLAT: "Almost all pixels have the same value or the picture has next to no contrast.",
    Fault.TEXT_PAGE: "The picture looks like a page of text or a form, not like a radiograph.",
    Fault.EXTREME_ASPECT: "The longer side is over `gate.max_aspect` times the shorter, as in scanograms and banners.",
    Fault.TOO_SMALL: "The shorter side is below `gate.min_side`, as in icons and thumbnails.",
    Fault.WRONG_MODALITY: "Modality is absent or not in `gate.modalities`.",
    Fault.MAMMOGRAM: "Modality MG or the SOP class says mammography.",
    Fault.SCREENSHOT: "A secondary capture: a picture of a screen or a scanned page, not the radiograph itself.",
    Fault.LOCALIZER: "Image Type says LOCALIZER or SCOUT: a planning view, not a radiograph.",
    Fault.FOR_PROCESSING: "Presentation Intent Type is FOR PROCESSING: raw detector data not meant to be looked at.",
    Fault.NOT_HUMAN: "The header speaks of an animal.",
    Fault.WRONG_BODY_PART: "Body Part Examined is not in `gate.body_parts`.",
    Fault.WRONG_VIEW: "View Position is in `gate.excluded_views` (lateral and oblique views).",
}


class CxrRayError(Exception):
    """Base of everything cxr_ray raises on purpose; its text is one sentence fit for a user."""


class ConfigError(CxrRayError):
    """A setting, a command line or an output folder cannot be used as given."""


class ManifestError(CxrRayError):
    """The training table is wrong; the message lists the bad rows."""


class BundleError(CxrRayError):
    """An ensemble bundle is incomplete, inconsistent or made for something else."""


class _FaultError(CxrRayError):
    """An error that may become the fault of one row: a code and one sentence."""

    def __init__(self, fault: Fault, detail: str) -> None:
        """Keep `fault` for the row's code and `detail` for its sentence."""
        super().__init__(detail)
        self.fault = fault
        self.detail = detail

    def __reduce__(self) -> tuple[type["_FaultError"], tuple[Fault, str]]:
        """Survive pickling between Ray processes, which calls the class with its `args` only."""
        return type(self), (self.fault, self.detail)


class StorageError(_FaultError):
    """A folder or an object store did not answer as needed."""


class DecodeError(_FaultError):
    """These bytes cannot become a model input."""
