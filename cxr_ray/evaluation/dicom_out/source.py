"""The scored file read once more: who and which study it is, what refers to it, and how it was shown.

Identification goes from file to file and nowhere else: no row, no line, no name of a file holds any of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, PersonName

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.evaluation.dicom_out.scores import ScoredImage
from cxr_ray.images import grey
from cxr_ray.images.dicom.attributes import DicomImage
from cxr_ray.images.dicom.codecs import decode_samples
from cxr_ray.images.dicom.presentation import grey_steps
from cxr_ray.images.header import codec_border
from cxr_ray.images.packed import archives
from cxr_ray.images.radiograph import Radiograph, decode, read_header
from cxr_ray.images.transfer import Lut

SHOWN = PreprocessConfig(size=2048)  # a lossy JPEG 2000 film of up to 5 k pixels is decoded whole
_SOP_CLASSES = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.SecondaryCaptureImageStorage,
)
# The patient and the study are told by these; type 2 attributes are empty where the source has none or nonsense.
# Source: PS3.3 C.7.1.1, C.7.2.1.
_IDENTIFICATION = {
    "PatientName": "PN",
    "PatientID": "LO",
    "IssuerOfPatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyInstanceUID": "UI",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "ReferringPhysicianName": "PN",
    "StudyID": "SH",
    "AccessionNumber": "SH",
}
_OPTIONAL = ("IssuerOfPatientID",)
_OF_THE_IMAGE = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PatientOrientation", "Laterality"),
    *("BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_TEXT_LENGTHS = {"LO": 64, "SH": 16}  # PS3.5 6.2


@dataclass(frozen=True, slots=True)
class Source:
    """A scored image's file. `reference` has the attributes of the image, with an empty identification."""

    image: ScoredImage
    identification: Dataset = field(repr=False)
    reference: Dataset = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def laterality(self) -> str:
        """L, R or empty, which stands for not known or not paired. Source: PS3.3 C.7.3.1, type 2C."""
        found = self.reference.get("Laterality")
        return found if found in ("L", "R") else ""


@dataclass(frozen=True, slots=True)
class Shown:
    """The film as it was scored: pixels (H, W) 0..1, the window that shows it so, and whether white is low.

    `table` is the source's VOI LUT where that was used; `window` is centre and width by PS3.3 C.11.2.1.2.1 of a film
    that percentiles were laid over. With neither, the source's own first window was used.
    """

    pixels: NDArray[np.float32] = field(repr=False)
    inverted: bool
    table: Lut | None = None
    window: tuple[float, float] | None = None


def read_source(image: ScoredImage) -> Source:
    """The file of a scored image, of the very version that was scored.

    Raises:
        StorageError: It is gone, or another version lies there now.
        DecodeError: It is no DICOM image of this SOP Instance UID, or of a kind that no radiograph is.
    """
    data = archives.fetch(image.uri, image.object_version, limits=LimitsConfig())
    parsed = read_header(data, limits=LimitsConfig()).source
    if not isinstance(parsed, DicomImage) or parsed.header.sop_instance_uid != image.sop_instance_uid:
        raise DecodeError(Fault.CHANGED, f"{image.uri} is not the DICOM object that was scored; score it again.")
    prefixed = b"\0" * 128 + data if data[:4] == b"DICM" else data
    tags: list[Any] = [*_IDENTIFICATION, *_OF_THE_IMAGE, "SpecificCharacterSet"]
    with codec_border("Reading the identification"):
        whole = pydicom.dcmread(BytesIO(prefixed), force=True, specific_tags=tags, stop_before_pixels=True)
        whole.decode()
        reference, identification = _reference(whole), _identification(whole)
    if reference.SOPClassUID not in _SOP_CLASSES:
        detail = (
            f"{image.uri} has a (0008,0016) SOPClassUID that no radiograph has; results can refer to CR, DX, MG, SC."
        )
        raise DecodeError(Fault.WRONG_MODALITY, detail)
    return Source(image, identification, reference, data)


def show(source: Source) -> Shown:
    """Decode the film of a source. Raises DecodeError as `decode` does."""
    encoded = read_header(source.data, limits=LimitsConfig())
    radiograph = decode(encoded, preprocess=SHOWN)
    if not isinstance(encoded.source, DicomImage) or not source.image.is_grey:
        return Shown(radiograph.pixels, inverted=False)
    samples = decode_samples(encoded.source, SHOWN).values
    steps = grey_steps(encoded.source, samples)
    used = dict(steps.voi).get(radiograph.voi_source)
    return Shown(
        radiograph.pixels,
        inverted=steps.inverted,
        table=used if isinstance(used, Lut) else None,
        window=_window(radiograph, samples, steps) if radiograph.voi_source == "percentiles" else None,
    )


def _window(radiograph: Radiograph, samples: NDArray[Any], steps: grey.GreySteps) -> tuple[float, float]:
    """The window by which values became grey: the straight line through what is neither black nor white."""
    step = max(1, min(samples.shape) // 512)
    part, shown = samples[::step, ::step], radiograph.pixels[::step, ::step].astype(np.float64)
    integers = part.dtype.kind in "iu"
    stored = (
        grey.stored_values(part, bits_stored=steps.bits_stored, high_bit=steps.high_bit, signed=steps.signed)
        if integers
        else part.astype(np.float64)
    )
    values = steps.modality(stored)
    shown = 1.0 - shown if steps.inverted else shown
    inside = (shown > 0.0) & (shown < 1.0)
    if not inside.any() or np.ptp(values[inside]) == 0.0:
        low, high = float(values.min()), float(values.max())
    else:
        first, last = values[inside].argmin(), values[inside].argmax()
        (v0, v1), (s0, s1) = values[inside][[first, last]], shown[inside][[first, last]]
        slope = (s1 - s0) / (v1 - v0)
        low = float(v0 - s0 / slope)
        high = low + float(1.0 / slope)
    return (low + high) / 2.0 + 0.5, high - low + 1.0


def _reference(whole: Dataset) -> Dataset:
    """The image's own attributes as far as results refer to them, and blanks for whose it is."""
    reference = Dataset()
    for keyword in _OF_THE_IMAGE:
        if keyword in whole:
            reference[keyword] = whole[keyword]
    if "RescaleSlope" in reference and not reference.get("RescaleType"):
        reference.RescaleType = "US"  # highdicom copies slope, intercept and type, or nothing
    for keyword in _IDENTIFICATION:
        if keyword not in _OPTIONAL:
            setattr(reference, keyword, "")
    reference.StudyDate = reference.StudyTime = None
    reference.StudyInstanceUID = whole.StudyInstanceUID
    return reference


def _identification(whole: Dataset) -> Dataset:
    """Patient and study; a date or a time that is none, or a code that is none, is left empty."""
    found = Dataset()
    for keyword, representation in _IDENTIFICATION.items():
        value = whole.get(keyword)
        if value is None and keyword in _OPTIONAL:
            continue
        usable = _usable(value, representation)
        element = DataElement(
            keyword, representation, usable, validation_mode=pydicom.config.IGNORE, already_converted=False
        )
        found[keyword] = element
    return found


def _usable(value: Any, representation: str) -> Any:
    """The value as it may be written under this VR, empty where it may not."""
    if value is None or isinstance(value, pydicom.multival.MultiValue):
        return ""
    if representation == "PN":
        return value if isinstance(value, PersonName) else ""
    text = str(value)
    if representation == "CS":
        return text if text in ("M", "F", "O") else ""
    if representation in ("DA", "TM"):
        return text if _reads(DA if representation == "DA" else TM, text) else ""
    return text[: _TEXT_LENGTHS.get(representation, 64)]


def _reads(kind: Callable[[str], Any], text: str) -> bool:
    """Whether a date or a time is one."""
    try:
        return kind(text) is not None
    except ValueError:
        return False
