"""What a DICOM header says about the kind, the body part and the view of its image, in fixed codes.

The one place where descriptions and comments of a header are looked at: each is reduced to a code of terms.py on
the spot, and nothing else of it survives. Decides nothing: what is scored is said in gate.py.
"""

from collections.abc import Iterable

import pydicom

from cxr_ray.config import ImageKind
from cxr_ray.errors import DecodeError
from cxr_ray.images.dicom import terms, vendors, vocabulary
from cxr_ray.images.dicom.attributes import items_of, text_of, texts_of, uid_of
from cxr_ray.images.dicom.vocabulary import OTHER
from cxr_ray.images.header import Hint

HINT_KEYWORDS = [
    "ImageType",
    "ConversionType",
    "PresentationIntentType",
    "PatientOrientation",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "ViewCodeSequence",
    "AnatomicRegionSequence",
    "PerformedProtocolCodeSequence",
    "AcquisitionDeviceProcessingDescription",
    "ProtocolName",
    "SeriesDescription",
    "StudyDescription",
]

_DEVICE_TEXTS = ("AcquisitionDeviceProcessingDescription", "PerformedProtocolCodeSequence", "ProtocolName")
_TEXTS = (*_DEVICE_TEXTS[:2], "SeriesDescription", _DEVICE_TEXTS[2], "StudyDescription")
"""Descriptions from the most particular to this image to the least, which is that of all images of a study."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MAMMOGRAPHY = (
    *("1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2.1", "1.2.840.10008.5.1.4.1.1.13.1.3"),
    *("1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5"),
)
_FOR_PROCESSING = (
    *("1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2.1", "1.2.840.10008.5.1.4.1.1.1.3.1"),
    "1.2.840.10008.5.1.4.1.1.13.1.5",
)
_KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_DOCUMENTS = ("1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2")
_DIRECTORY = "1.2.840.10008.1.3.10"
_FILM_MODALITIES = ("CR", "DX", "DR", "RG", "XR")
_CAPTURED = ("DV", "DI", "WSD", "SD", "SI", "DRW", "SYN")
_PLANNING_VIEWS = ("LOCALIZER", "SCOUT", "TOPOGRAM")


def sop_class_of(dataset: pydicom.Dataset) -> str | None:
    """The SOP class, by the dataset or else by its meta header."""
    return uid_of(dataset, "SOPClassUID") or uid_of(dataset.file_meta, "MediaStorageSOPClassUID")


def is_directory(dataset: pydicom.Dataset) -> bool:
    """Whether the object is a DICOMDIR. Source: PS3.10 8.6."""
    return sop_class_of(dataset) == _DIRECTORY


def is_report(dataset: pydicom.Dataset) -> bool:
    """Whether the object is a structured report or an encapsulated document; a key object selection is neither.

    Source: PS3.4 B.5.
    """
    sop_class = sop_class_of(dataset) or ""
    if sop_class == _KEY_OBJECTS:
        return False
    return sop_class.startswith(_REPORTS) or sop_class in _DOCUMENTS or modality_of(dataset) in ("SR", "DOC")


def modality_of(dataset: pydicom.Dataset) -> str | None:
    """Modality as a defined term, None if absent, OTHER for anything else. Source: PS3.3 C.7.3.1.1.1."""
    return vocabulary.code_among(text_of(dataset, "Modality") or "", terms.MODALITIES)


def manufacturer_of(dataset: pydicom.Dataset) -> str | None:
    """The vendor that Manufacturer (0008,0070), free text, names; None if absent, OTHER for one not in vendors.py."""
    vendor = vendors.vendor_of(text_of(dataset, "Manufacturer"))
    return {vendors.NOT_STATED: None, vendors.OTHER: OTHER}.get(vendor, vendor)


def photometric_interpretation_of(dataset: pydicom.Dataset) -> str | None:
    """Photometric Interpretation as a defined term, None if absent, OTHER for anything else."""
    text = text_of(dataset, "PhotometricInterpretation") or ""
    return vocabulary.code_among(text, terms.PHOTOMETRIC_INTERPRETATIONS)


def body_part_of(dataset: pydicom.Dataset) -> Hint | None:
    """The body part: Body Part Examined, else the code of the region, else what the descriptions say.

    A value that is not understood gives way to all of these and is OTHER where they are silent too.
    """
    stated = vocabulary.read(_joined(dataset, "BodyPartExamined"))
    if stated.body_part:
        return Hint(stated.body_part, "BodyPartExamined")
    coded = _coded(dataset, "AnatomicRegionSequence", terms.BODY_PART_CODES)
    if coded:
        return Hint(coded, "AnatomicRegionSequence")
    for keyword in ("ViewPosition", *_TEXTS):
        said = vocabulary.read(_joined(dataset, keyword)).body_part
        if said:
            return Hint(said, keyword)
    return None if stated.silent else Hint(OTHER, "BodyPartExamined")


def view_of(dataset: pydicom.Dataset) -> Hint | None:
    """The view: View Position and the view's code, of which one that is not frontal wins, else the descriptions.

    The study's description is not asked: a study holds the lateral too. An image whose rows run from front to back is
    a lateral one; that they run from left to right says nothing, for it is written into laterals too.
    Source: PS3.3 C.7.6.1.1.1.
    """
    stated = [vocabulary.read_view_position(_utf_8(text)) for text in texts_of(dataset, "ViewPosition")]
    coded = _coded(dataset, "ViewCodeSequence", terms.VIEW_CODES)
    hints = [Hint(said.view, "ViewPosition") for said in stated if said.view]
    hints += [Hint(coded, "ViewCodeSequence")] if coded else []
    if hints:
        return next((hint for hint in hints if hint.code not in terms.FRONTAL_VIEWS), hints[0])
    for keyword in ("BodyPartExamined", *_TEXTS[:-1]):
        view = vocabulary.read(_joined(dataset, keyword)).view
        if view:
            return Hint(view, keyword)
    if (texts_of(dataset, "PatientOrientation") or ("",))[0] in ("A", "P"):
        return Hint("LATERAL", "PatientOrientation")
    return None if all(said.silent for said in stated) else Hint(OTHER, "ViewPosition")


def kinds_of(dataset: pydicom.Dataset) -> tuple[ImageKind, ...]:
    """Everything the header says the image is beside, or instead of, a radiograph of a patient."""
    said: dict[ImageKind, bool] = {
        "animal": _is_animal(dataset),
        "mammogram": modality_of(dataset) == "MG" or sop_class_of(dataset) in _MAMMOGRAPHY,
        "digitised_film": _is_digitised_film(dataset),
        "screenshot": _is_capture(dataset) and not _is_digitised_film(dataset),
        "localizer": any(part in value for value in _image_type(dataset)[2:] for part in _PLANNING_VIEWS),
        "for_processing": text_of(dataset, "PresentationIntentType") == "FOR PROCESSING"
        or sop_class_of(dataset) in _FOR_PROCESSING,
    }
    return tuple(kind for kind, is_so in said.items() if is_so)


def _is_capture(dataset: pydicom.Dataset) -> bool:
    """Whether pixels were captured from something: by SOP class, by Modality, or by Image Type and Conversion Type.

    Image Type DERIVED, SECONDARY alone is written into plain radiographs, after any processing.
    Source: PS3.3 C.8.6.1 for Conversion Type.
    """
    sop_class, modality = sop_class_of(dataset), modality_of(dataset)
    if (sop_class and f"{sop_class}.".startswith(f"{_SECONDARY_CAPTURE}.")) or modality == "SC":
        return True
    if modality == "OT" and sop_class is None:
        return True
    return "SECONDARY" in _image_type(dataset)[1:2] and text_of(dataset, "ConversionType") in _CAPTURED


def _is_digitised_film(dataset: pydicom.Dataset) -> bool:
    """Whether a secondary capture is a scanned film: how old archives hold their radiographs."""
    from_film = text_of(dataset, "ConversionType") == "DF" and modality_of(dataset) in _FILM_MODALITIES
    return from_film and _is_capture(dataset)


def _is_animal(dataset: pydicom.Dataset) -> bool:
    """Whether species, breed or a description name an animal; a horse in a free description may be an accident.

    Species and breed that name neither man nor animal (UNKNOWN, Adult) say nothing. Source: PS3.3 C.7.1.1.
    """
    organism = [_joined(dataset, keyword) for keyword in ("PatientSpeciesDescription", "PatientBreedDescription")]
    if any(vocabulary.read(text).animal and not vocabulary.names_human(text) for text in organism):
        return True
    codes = _code_values(dataset, "PatientSpeciesCodeSequence")
    if codes and not set(codes) & set(terms.HUMAN_CODES):
        return True
    named = {keyword: vocabulary.read(_joined(dataset, keyword)).animal for keyword in _TEXTS}
    return "SPECIES" in named.values() or "CREATURE" in (named[keyword] for keyword in _DEVICE_TEXTS)


def _image_type(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """The values of Image Type in capitals. Source: PS3.3 C.7.6.1.1.2."""
    return tuple(value.upper() for value in texts_of(dataset, "ImageType"))


def _coded(dataset: pydicom.Dataset, keyword: str, meanings: dict[str, str]) -> str | None:
    """What the first code value that is known means."""
    return next((meanings[code] for code in _code_values(dataset, keyword) if code in meanings), None)


def _code_values(dataset: pydicom.Dataset, keyword: str) -> list[str]:
    """The code values of a code sequence, none where it is absent or unreadable. Source: PS3.3 8.8."""
    values = [(text_of(item, "CodeValue") or text_of(item, "LongCodeValue")) for item in _items(dataset, keyword)]
    return [value for value in values if value]


def _items(dataset: pydicom.Dataset, keyword: str) -> Iterable[pydicom.Dataset]:
    """The items of a sequence that an image can do without: unreadable is absent."""
    try:
        return items_of(dataset, keyword)
    except DecodeError:
        return ()


def _joined(dataset: pydicom.Dataset, keyword: str) -> str:
    """All values of an attribute, or all meanings of a code sequence, as one text; empty when absent."""
    if keyword.endswith("Sequence"):
        return " ; ".join(text_of(item, "CodeMeaning") or "" for item in _items(dataset, keyword))
    return _utf_8(" ; ".join(texts_of(dataset, keyword)))


def _utf_8(text: str) -> str:
    """Text whose bytes were UTF-8 and were taken for Latin-1, as pydicom does with code strings."""
    try:
        return text if text.isascii() else text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
