"""A parsed DICOM object and the values of its attributes: plain text, numbers, UIDs and codes.

pydicom converts a value, and fails, only on access: these functions are that access, and what cannot be read is a
fault. Knows nothing of what the values are for.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import UID

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.header import Header, clean_code, clean_spacing, clean_uid, codec_border

_LARGEST = 1e30
"""No film has such a number; beyond it a product of two may be none any more."""


@dataclass(frozen=True, slots=True)
class DicomImage:
    """A parsed DICOM object with pixel data, not yet decoded."""

    header: Header
    transfer_syntax: UID
    dataset: pydicom.Dataset = field(repr=False)


def uid_of(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A UID, or None for anything that is none."""
    return clean_uid(text_of(dataset, keyword))


def code_of(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """A code string in capitals, None if absent, `NOT_CODED` for anything else."""
    return clean_code(text_of(dataset, keyword))


def spacing_of(dataset: pydicom.Dataset, keyword: str) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, None if absent or not usable."""
    return clean_spacing(optional_numbers_of(dataset, keyword))


def text_of(dataset: pydicom.Dataset, keyword: str) -> str | None:
    """The first value as text without padding; None when absent, empty or unreadable."""
    return next(iter(texts_of(dataset, keyword)), None)


def texts_of(dataset: pydicom.Dataset, keyword: str) -> tuple[str, ...]:
    """All values as text without padding; none when absent, empty or unreadable."""
    try:
        value = value_of(dataset, keyword)
    except DecodeError:
        return ()
    values = value if isinstance(value, pydicom.multival.MultiValue) else () if value is None else (value,)
    return tuple(str(part).strip(" \0") for part in values)


def number_of(dataset: pydicom.Dataset, keyword: str) -> float:
    """The value of a numeric attribute that no image can do without; raises CORRUPT when it is absent or several."""
    values = numbers_of(dataset, keyword)
    if len(values) != 1:
        raise DecodeError(Fault.CORRUPT, f"{keyword} has {len(values)} values instead of one; export the file again.")
    return values[0]


def numbers_of(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """All values of a numeric attribute, empty when absent; raises CORRUPT for what is no finite number."""
    value = value_of(dataset, keyword)
    with codec_border(f"Reading {keyword}"):
        values = () if value in (None, "") else tuple(float(part) for part in np.atleast_1d(value))
        if not all(math.isfinite(part) and abs(part) <= _LARGEST for part in values):
            raise ValueError
    return values


def optional_numbers_of(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """Like `numbers_of`, for attributes an image can do without: unreadable is absent."""
    try:
        return numbers_of(dataset, keyword)
    except DecodeError:
        return ()


def items_of(dataset: pydicom.Dataset, keyword: str) -> list[pydicom.Dataset]:
    """The items of a sequence, none when absent."""
    with codec_border(f"Reading {keyword}"):
        return list(dataset.get(keyword) or ())


def value_of(dataset: pydicom.Dataset, keyword: str) -> Any:
    """The converted value of one attribute; pydicom converts, and fails, only on access."""
    with codec_border(f"Reading {keyword}"):
        return dataset.get(keyword)


def name_of_uid(identifier: str | None) -> str:
    """The standard's name of a UID; a UID it does not know may be anybody's text."""
    name = UID(identifier).name if identifier else ""
    return name if name and name != identifier else "not a registered UID"


def first_frame(dataset: pydicom.Dataset) -> bytes:
    """The codestream of the first frame."""
    with codec_border("Reading the first frame"):
        return get_frame(dataset.PixelData, 0, number_of_frames=1)
