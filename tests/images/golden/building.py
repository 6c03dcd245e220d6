"""Films, DICOM files and the standard's formulas in plain numpy, for cases.py and other tests. No code of cxr_ray."""

import io
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from tests.images.golden.references import Film

LOW, HIGH = 0.5, 99.5  # the default of preprocess.percentiles


def film(rows: int = 16, columns: int = 20, *, top: int = 4095) -> NDArray[np.uint16]:
    """All shades from 0 to `top`, no symmetry, and a texture that no neighbour repeats."""
    row, column = np.mgrid[:rows, :columns]
    ramp = (row * 3 + column * 2) / (3 * rows + 2 * columns - 5)
    values = ramp * 0.93 * top + (row * row * 7 + column * 13) % 97 / 97 * 0.07 * top
    values[0, 0], values[-1, -1] = 0, top
    return values.astype(np.uint16)


def header(pixels: NDArray[Any], *, bits_stored: int | None = None, **attributes: Any) -> Dataset:
    """A DX object with these samples, every attribute fixed; one that is None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    meta, bits = dataset.file_meta, 8 * pixels.dtype.itemsize
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = "1.2.3.5", "GOLDEN"  # pydicom would put its version
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "GOLDEN", "", "", ""
    dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored = bits, bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """The object as a file in `syntax`, whose pixel data it already has."""
    dataset.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    pydicom.dcmwrite(target, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return target.getvalue()


def dicom(pixels: NDArray[Any], *, bits_stored: int | None = 12, **attributes: Any) -> bytes:
    """An explicit little endian file of these samples."""
    return written(header(pixels, bits_stored=bits_stored, **attributes))


def table(entries: NDArray[Any], *, first: int, bits: int, signed: bool = False) -> list[Dataset]:
    """A Modality or VOI LUT Sequence of one item. Source: PS3.3 C.11.1.1, C.11.2.1.1."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return [item]


def linear(values: NDArray[Any], center: float, width: float) -> Film:
    """The pseudo-code of PS3.3 C.11.2.1.2.1 with ymin 0 and ymax 1."""
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    between = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.where(values <= low, 0.0, np.where(values > high, 1.0, between))


def stretched(values: NDArray[Any], counted: NDArray[Any] | None = None) -> Film:
    """Black and white at the outer half percent of the counted pixels, each end counted from its own side."""
    counted = np.asarray(values if counted is None else counted, dtype=np.float64).ravel()
    low = np.percentile(counted, LOW, method="inverted_cdf")
    high = -np.percentile(-counted, 100 - HIGH, method="inverted_cdf")
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def float_dicom(values: NDArray[Any], **attributes: Any) -> bytes:
    """A file with Float or Double Float Pixel Data. Source: PS3.3 C.7.6.24, C.7.6.25."""
    left_out = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation", "PixelData"))
    keyword = "FloatPixelData" if values.dtype.itemsize == 4 else "DoubleFloatPixelData"
    attributes |= {"BitsAllocated": 8 * values.dtype.itemsize, keyword: values.tobytes()}
    return dicom(film(*values.shape), **left_out, **attributes)
