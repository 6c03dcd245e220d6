"""What a DICOM header says about the way from sample to grey, in the plain numbers of grey.py and shutter.py.

Source: PS3.3 C.7.6.3 (pixels), C.11.1 (modality), C.11.2 (VOI), C.11.6 (presentation), C.7.6.11 (display shutter),
C.8.7.3 (collimator).
"""

from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images import grey, transfer
from cxr_ray.images.dicom.attributes import (
    DicomImage,
    code_of,
    items_of,
    number_of,
    numbers_of,
    optional_numbers_of,
    texts_of,
    value_of,
)
from cxr_ray.images.dicom.codecs import JPEG, NATIVE
from cxr_ray.images.dicom.shutter import Mask, Opening, outside
from cxr_ray.images.header import PIXEL_DATA_KEYWORDS


def grey_steps(image: DicomImage, samples: NDArray[Any]) -> grey.GreySteps:
    """Everything the header says about the way from `samples` to grey."""
    dataset = image.dataset
    signed = optional_numbers_of(dataset, "PixelRepresentation") == (1,)
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
        or code_of(dataset, "PresentationLUTShape") == "INVERSE",
    )


def closed(
    image: DicomImage, shape: tuple[int, int], *, device: Literal["Shutter", "Collimator"], step: int = 1
) -> Mask | None:
    """The pixels (H, W) outside the display shutter or the X-ray collimator, None where the header has none.

    `step` as in shutter.outside. Numbers that cannot be read are taken for absent, and so is a shape without them.
    """
    if f"{device}Shape" not in image.dataset:
        return None
    return outside(_opening(image.dataset, device), shape, step=step)


def _opening(dataset: pydicom.Dataset, device: str) -> Opening:
    """What the shapes that are named leave free."""
    shapes = {text.upper() for text in texts_of(dataset, f"{device}Shape")}
    edges = tuple(
        value
        for edge in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
        for value in optional_numbers_of(dataset, f"{device}{edge}Edge")
    )
    circle = tuple(
        value
        for keyword in (f"CenterOfCircular{device}", f"RadiusOfCircular{device}")
        for value in optional_numbers_of(dataset, keyword)
    )
    vertices = optional_numbers_of(dataset, f"VerticesOfThePolygonal{device}")
    return Opening(
        rectangle=(edges[0], edges[1], edges[2], edges[3]) if "RECTANGULAR" in shapes and len(edges) == 4 else None,
        circle=(circle[0], circle[1], circle[2]) if "CIRCULAR" in shapes and len(circle) == 3 else None,
        polygon=tuple(zip(vertices[::2], vertices[1::2], strict=False)) if "POLYGONAL" in shapes else (),
    )


def _bits(image: DicomImage, samples: NDArray[Any], *, signed: bool) -> tuple[int, int]:
    """Bits Stored and High Bit of `samples`: the header's where words were handed through unseen.

    JPEG-LS and JPEG 2000 carry their precision and pydicom extends the sign by it, so there all bits count, as they
    do in unsigned JPEG. A High Bit other than the default occurs in old native files only.
    """
    width = 8 * samples.dtype.itemsize
    native = image.transfer_syntax in (*NATIVE, uid.RLELossless)
    if samples.dtype.kind == "f" or not (native or (signed and image.transfer_syntax in JPEG)):
        return width, width - 1
    bits_stored = int(number_of(image.dataset, "BitsStored"))
    high_bit = int((*optional_numbers_of(image.dataset, "HighBit"), bits_stored - 1)[0])
    return bits_stored, high_bit if native and bits_stored <= high_bit + 1 <= width else bits_stored - 1


def _modality(dataset: pydicom.Dataset, *, signed: bool) -> transfer.Rescale | transfer.Lut:
    """The modality transformation: the LUT, else the rescale, else none. Source: PS3.3 C.11.1."""
    for item in items_of(dataset, "ModalityLUTSequence"):
        return _lut(item, dataset, signed=signed)
    slope = (*numbers_of(dataset, "RescaleSlope"), 1.0)[0]
    intercept = (*numbers_of(dataset, "RescaleIntercept"), 0.0)[0]
    if slope == 0.0:
        raise DecodeError(Fault.CORRUPT, "(0028,1053) RescaleSlope is 0, which makes all pixels equal; correct it.")
    return transfer.Rescale(slope, intercept)


def _padding(dataset: pydicom.Dataset, *, signed: bool) -> tuple[float, float] | None:
    """Inclusive range of stored values that mean "no data"."""
    keyword = next(keyword for keyword in PIXEL_DATA_KEYWORDS if keyword in dataset)
    prefix = keyword.removesuffix("Data") + "Padding"
    value = optional_numbers_of(dataset, f"{prefix}Value")
    if not value:
        return None
    limit = optional_numbers_of(dataset, f"{prefix}RangeLimit") or value
    bits = int(number_of(dataset, "BitsAllocated")) if keyword == "PixelData" else None
    return grey.padding_range(value[0], limit[0], bits_allocated=bits, signed=signed)


def _voi_luts(dataset: pydicom.Dataset, *, signed: bool) -> tuple[tuple[str, transfer.Voi], ...]:
    """The first VOI LUT, or nothing where there is none that can be used. Source: PS3.3 C.11.2."""
    try:
        return tuple(("lut", _lut(item, dataset, signed=signed)) for item in items_of(dataset, "VOILUTSequence")[:1])
    except DecodeError:
        return ()


def _windows(dataset: pydicom.Dataset) -> tuple[tuple[str, transfer.Voi], ...]:
    """The first of the windows, or nothing where its numbers make no window. Source: PS3.3 C.11.2."""
    centers, widths = (optional_numbers_of(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    if not centers or not widths:
        return ()
    window = transfer.window(centers[0], widths[0], function=code_of(dataset, "VOILUTFunction") or "LINEAR")
    return (("window", window),) if window else ()


def _lut(item: pydicom.Dataset, dataset: pydicom.Dataset, *, signed: bool) -> transfer.Lut:
    """The table of a Modality or VOI LUT item of `dataset`; `signed`: its inputs may be negative."""
    descriptor, data = numbers_of(item, "LUTDescriptor"), value_of(item, "LUTData")
    words = data if isinstance(data, bytes) else np.array(numbers_of(item, "LUTData"), dtype=np.float64)
    if len(descriptor) == 3 and len(words) > 1 and _are_words(words) and _are_words(np.array(descriptor)):
        num_entries, first, bits = (int(part) for part in descriptor)
        if 1 <= bits <= 16:
            entries = words if isinstance(words, bytes) else words.astype(np.int64)
            little_endian = bool(dataset.original_encoding[1])
            return transfer.lut(num_entries, first, bits, entries, little_endian=little_endian, signed=signed)
    detail = "(0028,3002) LUTDescriptor or (0028,3006) LUTData is incomplete or out of range; export the file again."
    raise DecodeError(Fault.CORRUPT, detail)


def _are_words(values: bytes | NDArray[np.float64]) -> bool:
    """Whether numbers can be words of 16 bits, with or without a sign; bytes always are."""
    return isinstance(values, bytes) or bool(((values >= -(2**15)) & (values < 2**16)).all())
