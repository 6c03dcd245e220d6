"""A phantom film as a DICOM or PNG file, in as many encodings as archives hold. Knows nothing of how they are read."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cxr_ray.images.phantom.canvas import FILM_CM
from cxr_ray.images.phantom.drawing import Phantom
from cxr_ray.images.phantom.lesions import FINDINGS as FINDINGS


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to write a film; `offset` and `span` map grey 0..1 to stored values, `slope` and `intercept` follow."""

    suffix: str
    bits: int
    offset: int
    span: int
    syntax: UID = ExplicitVRLittleEndian
    modality: str = "DX"
    inverted: bool = False
    signed: bool = False
    slope: float = 1.0
    intercept: float = 0.0


ENCODINGS = (
    Encoding("dcm", 12, 200, 3500),
    Encoding("dcm", 12, 150, 3700, inverted=True),
    Encoding("dcm", 12, -1500, 3000, ImplicitVRLittleEndian, "CR", signed=True, slope=0.5, intercept=900.0),
    Encoding("png", 8, 0, 255),
    Encoding("dcm", 12, 0, 4095, RLELossless),
    Encoding("dcm", 12, 100, 3900, JPEG2000Lossless),
    Encoding("dcm", 12, 0, 4000, JPEGLSLossless, "CR"),
    Encoding("dcm", 8, 0, 255, JPEGBaseline8Bit, "CR"),
    Encoding("dcm", 14, 1000, 12000, DeflatedExplicitVRLittleEndian),
    Encoding("png", 16, 0, 65535),
    Encoding("dcm", 15, 2000, 20000, inverted=True),
    Encoding("dcm", 10, 0, 1023, ImplicitVRLittleEndian, "CR"),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One film of an archive that is to be written."""

    name: str
    patient_id: str
    part: str
    present: tuple[str, ...]
    patient_seed: int
    film_seed: int
    encoding: Encoding

    @property
    def uri(self) -> str:
        """Path of the image relative to the archive."""
        return f"images/{self.name}.{self.encoding.suffix}"

    @property
    def masks(self) -> str:
        """Path of the masks relative to the archive."""
        return f"masks/{self.name}.png"

    @property
    def lungs(self) -> str:
        """Path of the mask of the lungs relative to the archive."""
        return f"lungs/{self.name}.png"


def encode(phantom: Phantom, item: Item) -> bytes:
    """The film as a file in the encoding of `item`."""
    encoding = item.encoding
    grey = 1.0 - phantom.pixels if encoding.inverted else phantom.pixels
    stored = np.rint(grey * encoding.span + encoding.offset)
    kind = f"{'i' if encoding.signed else 'u'}{1 if encoding.bits == 8 else 2}"
    pixels = stored.astype(kind)
    buffer = io.BytesIO()
    if encoding.suffix == "png":
        # Level 3 is twice as fast as 1 for 16-bit noise (zlib's lazy match), and smaller.
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    else:
        _dicom(phantom, item, pixels).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicom(phantom: Phantom, item: Item, pixels: NDArray[np.integer]) -> Dataset:
    """A DICOM object with the pixels of a film, compressed as `item.encoding` says."""
    encoding = item.encoding
    dataset = _header(phantom, item)
    _describe_pixels(dataset, encoding, pixels.shape)
    if encoding.syntax == JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=97)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = round(pixels.nbytes / buffer.tell(), 2)
        dataset.LossyImageCompressionMethod = "ISO_10918_1"
        dataset.file_meta.TransferSyntaxUID = encoding.syntax
        return dataset
    dataset.PixelData = pixels.tobytes()
    if encoding.syntax.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(encoding.syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = encoding.syntax
    return dataset


def _header(phantom: Phantom, item: Item) -> Dataset:
    """Patient, study, series and acquisition attributes (PS3.3 A.2 and A.26); all identifiers follow from the seeds."""
    encoding = item.encoding
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    is_dx = encoding.modality == "DX"
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation if is_dx else ComputedRadiographyImageStorage
    unique = (str(item.patient_seed), str(item.film_seed))
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[*unique, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*unique, "series"])
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[*unique, "instance"])
    dataset.PatientName, dataset.PatientID = "PHANTOM^", item.patient_id
    dataset.PatientSex, dataset.PatientAge, dataset.PatientBirthDate = phantom.sex, f"{phantom.age:03d}Y", ""
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.ReferringPhysicianName = dataset.Manufacturer = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Modality, dataset.BodyPartExamined = encoding.modality, "CHEST"
    dataset.ViewPosition, dataset.PatientOrientation = phantom.view_position, ["L", "F"]
    dataset.ImageType, dataset.BurnedInAnnotation = ["DERIVED", "PRIMARY"], "NO"
    dataset.LossyImageCompression = "00"
    spacing = [round(10 * FILM_CM / phantom.pixels.shape[0], 6)] * 2
    dataset.PixelSpacing = dataset.ImagerPixelSpacing = spacing
    if is_dx:
        dataset.PresentationIntentType, dataset.ImageLaterality = "FOR PRESENTATION", "U"
        dataset.PixelIntensityRelationship = "LOG"
        dataset.PixelIntensityRelationshipSign = 1 if encoding.inverted else -1
        dataset.PresentationLUTShape = "INVERSE" if encoding.inverted else "IDENTITY"
    return dataset


def _describe_pixels(dataset: Dataset, encoding: Encoding, shape: tuple[int, ...]) -> None:
    """Fill in the image pixel module and the window that maps `offset`..`offset + span` to black..white."""
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, int(encoding.signed)
    dataset.PhotometricInterpretation = "MONOCHROME1" if encoding.inverted else "MONOCHROME2"
    dataset.BitsAllocated = 8 if encoding.bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = encoding.bits, encoding.bits - 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = encoding.slope, encoding.intercept, "US"
    low = encoding.offset * encoding.slope + encoding.intercept
    high = low + encoding.span * encoding.slope
    # PS3.3 C.11.2.1.2.1: width w around c is black at c - 0.5 - (w - 1) / 2 and white at c - 0.5 + (w - 1) / 2.
    dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2 + 0.5, high - low + 1
