"""The exceptions of cxr_ray and the fault codes of its score table.

    CxrRayError
    ├── ConfigError      a setting, a command line or an output folder cannot be used as given
    ├── ManifestError    the training table is wrong; the message lists every bad row it found
    ├── TrainingError    a member could not be trained to its end on the cluster there is
    ├── BundleError      an ensemble bundle is incomplete, inconsistent or made for something else
    ├── LeaseError       another run is at work on this output, or has taken it over
    ├── StoppedError     a run was asked to stop before there was anything to account for
    ├── ClusterError     a cluster has not the nodes that a job needs
    ├── DeviceError      a GPU or CPU has not the memory that scoring needs, or stopped working
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
    CHANGED = "changed"
    ARCHIVED = "archived"
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
    Fault.CHANGED: "The object was replaced after it was listed; the next run lists and scores the new one.",
    Fault.ARCHIVED: "The object lies in an archival storage class (Glacier, Deep Archive) and cannot be read at once;"
    " restore it, then run again.",
    Fault.EMPTY_FILE: "The object has no bytes; transfer it again.",
    Fault.TOO_LARGE: "The object or its pixels exceed the configured limits; raise `limits` if the file is genuine.",
    Fault.NOT_AN_IMAGE: "The bytes begin like no format that is read here; convert it to DICOM, PNG, JPEG or TIFF, or"
    " leave it out with `exclude`.",
    Fault.CORRUPT: "The format is known, but the content is truncated or contradicts itself; transfer it again.",
    Fault.UNSUPPORTED_ENCODING: "No installed decoder reads this transfer syntax or pixel layout; convert the file.",
    Fault.BAD_ARCHIVE: "The .zip or .tar cannot be listed, or holds more than `limits` allow; repack or unpack it.",
    Fault.DECODER_CRASHED: "A decoder ended its process on this file, which was tried alone and cost no other image;"
    " export it again in another transfer syntax.",
    Fault.DECODER_TIMEOUT: "Decoding took longer than `limits.decode_seconds`; raise it if the file is genuine.",
    Fault.NO_PIXELS: "The DICOM object has no pixel data (a presentation state, a key object selection, a plan); leave"
    " such objects out.",
    Fault.STRUCTURED_REPORT: "The DICOM object is a structured report or an encapsulated document, not an image; leave"
    " such objects out.",
    Fault.DICOMDIR: "The file is a DICOMDIR, the directory of a medium; list the files it names instead.",
    Fault.MULTIPLE_FRAMES: "The file has more than one frame or page, so it is not clear which is the radiograph;"
    " export it as a single image.",
    Fault.COLOUR: "The pixels are in colour, so this is not a radiograph; export the radiograph itself, in grey.",
    Fault.BLANK: "All pixels have the same value, so there is nothing to see; export the image again.",
    Fault.FLAT: "Almost all of the picture is of one shade or without detail; export the radiograph itself, or set"
    " `gate.image_check` to never.",
    Fault.TEXT_PAGE: "The picture looks like a page of text or a form; export the radiograph itself, or set"
    " `gate.image_check` to never.",
    Fault.EXTREME_ASPECT: "The longer side is over `gate.max_aspect` times the shorter, as in scanograms and banners;"
    " raise it to score such images.",
    Fault.TOO_SMALL: "The shorter side is below `gate.min_side`, as in icons and thumbnails; lower it to score such"
    " images.",
    Fault.WRONG_MODALITY: "Modality is absent or not in `gate.modalities`; add it there to score such images.",
    Fault.MAMMOGRAM: "Modality or SOP class says mammography; add `mammogram` to `gate.kinds` and MG to"
    " `gate.modalities` to score such images.",
    Fault.SCREENSHOT: "The image is a secondary capture: a picture of a screen or a scanned page, not the radiograph"
    " itself; add `screenshot` to `gate.kinds` to score such images.",
    Fault.LOCALIZER: "Image Type says LOCALIZER, SCOUT or TOPOGRAM: a planning view, not a radiograph; add `localizer`"
    " to `gate.kinds` to score such images.",
    Fault.FOR_PROCESSING: "The image holds raw detector data that is not meant to be looked at; score its FOR"
    " PRESENTATION sibling, or add `for_processing` to `gate.kinds`.",
    Fault.NOT_HUMAN: "The header speaks of an animal; add `animal` to `gate.kinds` to score such images.",
    Fault.WRONG_BODY_PART: "The header names a body part that is not in `gate.body_parts`; add it there to score such"
    " images.",
    Fault.WRONG_VIEW: "The header names a view that is not in `gate.views`, such as a lateral or an oblique one; add it"
    " there to score such images.",
}
"""What each fault means and what can be done about it, one sentence each; docs/faults.md is made of them."""

FAULT_GROUPS: dict[str, tuple[Fault, ...]] = {
    "Storage": (
        *(Fault.NOT_FOUND, Fault.CHANGED, Fault.ACCESS_DENIED, Fault.ARCHIVED),
        Fault.STORAGE_UNAVAILABLE,
    ),
    "Reading": (
        *(Fault.EMPTY_FILE, Fault.TOO_LARGE, Fault.NOT_AN_IMAGE, Fault.BAD_ARCHIVE),
        *(Fault.NO_PIXELS, Fault.STRUCTURED_REPORT, Fault.DICOMDIR),
    ),
    "Not a chest film": (
        *(Fault.NOT_HUMAN, Fault.MAMMOGRAM, Fault.SCREENSHOT, Fault.LOCALIZER, Fault.FOR_PROCESSING),
        *(Fault.WRONG_MODALITY, Fault.WRONG_BODY_PART, Fault.WRONG_VIEW, Fault.TOO_SMALL, Fault.EXTREME_ASPECT),
        *(Fault.COLOUR, Fault.FLAT, Fault.TEXT_PAGE),
    ),
    "Decoding": (
        *(Fault.CORRUPT, Fault.UNSUPPORTED_ENCODING, Fault.MULTIPLE_FRAMES, Fault.BLANK),
        *(Fault.DECODER_CRASHED, Fault.DECODER_TIMEOUT),
    ),
}
"""Every fault under the stage that finds it, in the order of the checks."""


def faults_document() -> str:
    """docs/faults.md: every code with its meaning, by stage."""
    lines = [
        "# Faults",
        "",
        "Why an image has no score: the codes in the column `fault` of the score table. `fault_detail` says the same",
        "with the tag, the name and the value of the image at hand. Codes never change their meaning.",
        "",
        "Written by `python -m cxr_ray.errors > docs/faults.md`; edit cxr_ray/errors.py instead.",
    ]
    for group, faults in FAULT_GROUPS.items():
        lines += ["", f"## {group}", "", "| code | meaning and remedy |", "|---|---|"]
        lines += [f"| `{fault.value}` | {FAULT_MEANINGS[fault]} |" for fault in faults]
    return "\n".join(lines) + "\n"


class CxrRayError(Exception):
    """Base of everything cxr_ray raises on purpose; its text is one sentence fit for a user.

    `exit_code` is that of a command it ends: 2 where something else must be asked for, 1 where the same may be asked
    again once the world is better.
    """

    exit_code = 2


class ConfigError(CxrRayError):
    """A setting, a command line or an output folder cannot be used as given."""


class ManifestError(CxrRayError):
    """The training table is wrong; the message lists the bad rows."""


class TrainingError(CxrRayError):
    """A member could not be trained to its end on the cluster there is."""

    exit_code = 1


class BundleError(CxrRayError):
    """An ensemble bundle is incomplete, inconsistent or made for something else."""


class LeaseError(CxrRayError):
    """Another run is at work on this output, or has taken it over."""

    exit_code = 1


class StoppedError(CxrRayError):
    """The run was asked to stop, by SIGTERM, before there was anything to account for."""

    exit_code = 143  # as a shell has it for a process that SIGTERM ended

    def __init__(
        self, sentence: str = "Stopped on request before anything was scored; the same command begins anew."
    ) -> None:
        """By default what a run says that had not begun to score."""
        super().__init__(sentence)


class ClusterError(CxrRayError):
    """A cluster has not the nodes that a job needs."""

    exit_code = 1


class DeviceError(CxrRayError):
    """A GPU or CPU has not the memory that scoring needs, or stopped working."""

    exit_code = 1


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

    exit_code = 1


class DecodeError(_FaultError):
    """These bytes cannot become a model input."""

    exit_code = 1


if __name__ == "__main__":
    print(faults_document(), end="")
