"""Synthetic frontal chest radiographs with known findings and lesion masks: demo data and the tests' ground truth.

`make_phantom` draws one film, `write_archive` a folder of DICOM and PNG files in many encodings with labels and masks.
Drawing lies in anatomy.py, lesions.py and film.py, who has what in cohort.py; this module writes files. It knows
nothing of models or of how the project reads images. Not made from any person; of no use for medicine.
"""

import csv
import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

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

from cxr_ray.errors import ConfigError
from cxr_ray.images.anatomy import draw_body, draw_pose, place_grid
from cxr_ray.images.canvas import FILM_CM
from cxr_ray.images.cohort import assign_parts, draw_labels, films_per_patient, follow
from cxr_ray.images.film import draw_exposure, expose, open_field
from cxr_ray.images.lesions import FINDINGS as FINDINGS
from cxr_ray.images.lesions import draw_subject


@dataclass(frozen=True, slots=True)
class Phantom:
    """One synthetic film.

    Attributes:
        pixels: Grey values (H, W), 0..1, bright where dense.
        masks: Pixels that each finding changes (F, H, W), all False where it is absent.
        labels: 1 where a finding is present, else 0 (F,).
        sex: "F" or "M".
        age: Years.
        view_position: "PA" or, for the looser bedside pose, "AP".
    """

    pixels: NDArray[np.float32]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int8]
    sex: str
    age: int
    view_position: str


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


# Streams of random numbers that are independent of each other; lesions.py uses the numbers below 100.
_STREAMS = {"labels": 100, "body": 101, "pose": 102, "exposure": 103, "noise": 104}

_SMALLEST_SIDE = 64

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


def make_phantom(seed: int, *, side: int = 384, present: tuple[str, ...] | None = None) -> Phantom:
    """Draw one film.

    Args:
        seed: Fixes everything; the same seed with other findings is the same patient in the same pose.
        side: Height of the film in pixels, at least 64; the width is 0.85 to 1.1 of it.
        present: Names of the findings to draw; None draws them by prevalence.

    Returns:
        The film.

    Raises:
        ConfigError: A name in `present` is not in FINDINGS, or `side` is too small.
    """
    if present is None:
        labels = draw_labels(_rng(seed, "labels"), 1)[0]
        present = tuple(name for name, label in zip(FINDINGS, labels, strict=True) if label)
    return draw_film(seed, seed, side, present)


def _rng(seed: int, stream: str) -> np.random.Generator:
    """Random numbers of one purpose."""
    return np.random.default_rng((seed, _STREAMS[stream]))


def draw_film(patient_seed: int, film_seed: int, side: int, present: tuple[str, ...]) -> Phantom:
    """Draw a film of a patient: body and lesions follow `patient_seed`; pose, exposure and noise `film_seed`."""
    unknown = sorted(set(present) - set(FINDINGS))
    if unknown or side < _SMALLEST_SIDE:
        raise ConfigError(
            f"A phantom needs findings out of {', '.join(FINDINGS)} and a side of at least {_SMALLEST_SIDE} pixels, "
            f"not {', '.join(unknown) or side}."
        )
    body = draw_body(_rng(patient_seed, "body"))
    pose_rng = _rng(film_seed, "pose")
    pose = draw_pose(pose_rng)
    # The film is at least as wide as the lungs, with 1.2 cm to spare.
    lungs = 2 * (body.half_width * pose.scale + 1.2) / FILM_CM
    grid = place_grid(side, round(side * min(max(pose_rng.uniform(0.85, 1.1), lungs), 1.1)), pose)
    subject = draw_subject(grid, body, pose, present, patient_seed)
    exposure = draw_exposure(_rng(film_seed, "exposure"))
    pixels = expose(subject.soft, subject.bone, exposure, _rng(film_seed, "noise"), pitch=FILM_CM / side)
    pixels = pixels.astype(np.float32, copy=False)
    masks = np.zeros((len(FINDINGS), *pixels.shape), dtype=np.bool_)
    seen = open_field(pixels.shape, exposure)
    for name, mask in subject.masks.items():
        masks[FINDINGS.index(name)][seen] = mask[seen]
    labels = np.array([name in present for name in FINDINGS], dtype=np.int8)
    return Phantom(pixels, masks, labels, body.sex, body.age, pose.view_position)


def write_archive(
    folder: Path, *, num_images: int, seed: int = 0, side: int = 384, processes: int | None = None
) -> Path:
    """Write an archive: images/*.dcm and *.png, masks/*.png and, last, labels.csv.

    Processes are started by spawning: a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        folder: Where; made if absent.
        num_images: Films; 1 to 3 of each patient.
        seed: Fixes every byte.
        side: Height of the films in pixels.
        processes: Worker processes; None takes one per CPU, 1 starts none.

    Returns:
        Path of labels.csv.

    Raises:
        ConfigError: `num_images` or `side` is too small.
    """
    items = plan_archive(num_images, seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = folder / "labels.csv"
    table.unlink(missing_ok=True)
    write = partial(_write_item, folder=folder, side=side)
    workers = min(processes or os.cpu_count() or 1, num_images)
    if workers == 1:
        _keep_freed_memory()
        rows = [write(item) for item in items]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_keep_freed_memory) as pool:
            rows = list(pool.map(write, items, chunksize=8))
    unfinished = table.with_suffix(".part")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(table)
    return table


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed arrays instead of handing it back to the kernel each time.

    Freeing one large block raises glibc's threshold for that (mallopt(3), M_MMAP_THRESHOLD), which saves the page
    faults of every later array: 38 ms of CPU per film become 26. Elsewhere it does nothing.
    """
    np.ones(24 * 2**20, dtype=np.uint8)


def read_masks(path: Path) -> NDArray[np.bool_]:
    """Read one file of masks/: (F, H, W), in the order of FINDINGS."""
    with Image.open(path) as image:
        bits = np.asarray(image, dtype=np.uint8)
    return np.stack([(bits >> f) & 1 for f in range(len(FINDINGS))]).astype(np.bool_)


def plan_archive(
    num_images: int, seed: int, *, shares: tuple[float, float, float] = (0.72, 0.10, 0.18)
) -> tuple[Item, ...]:
    """Decide patients, findings, parts and encodings of an archive; pure.

    Raises:
        ConfigError: `num_images` is below 1.
    """
    if num_images < 1:
        raise ConfigError(f"An archive needs at least 1 image, not {num_images}.")
    rng = np.random.default_rng((seed, 0))
    films = films_per_patient(num_images, rng)
    labels = [follow(first, count, rng) for first, count in zip(draw_labels(rng, len(films)), films, strict=True)]
    parts = assign_parts(np.stack([rows.sum(axis=0) for rows in labels]), np.array(films), shares)
    seeds = rng.integers(2**31, size=num_images + len(films)).tolist()
    return tuple(
        Item(
            name=f"p{patient:05d}_{film}",
            patient_id=f"P{patient:05d}",
            part=parts[patient],
            present=tuple(name for name, label in zip(FINDINGS, labels[patient][film], strict=True) if label),
            patient_seed=seeds[num_images + patient],
            film_seed=seeds[index],
            encoding=ENCODINGS[index % len(ENCODINGS)],
        )
        for index, (patient, film) in enumerate(_visits(films))
    )


def _visits(films: list[int]) -> Iterator[tuple[int, int]]:
    """Patient and film number of every image."""
    return ((patient, film) for patient, count in enumerate(films) for film in range(count))


def _write_item(item: Item, *, folder: Path, side: int) -> dict[str, str | int]:
    """Draw and write one film and its masks; returns its row of labels.csv."""
    phantom = draw_film(item.patient_seed, item.film_seed, side, item.present)
    (folder / item.uri).write_bytes(encode(phantom, item))
    bits = np.packbits(phantom.masks, axis=0, bitorder="little")[0]
    Image.fromarray(bits).save(folder / item.masks, "PNG", compress_level=1)
    row: dict[str, str | int] = {
        "uri": item.uri,
        "patient_id": item.patient_id,
        "part": item.part,
        "sex": phantom.sex,
        "age": phantom.age,
        "view_position": phantom.view_position,
        "masks": item.masks,
    }
    return row | {name: int(label) for name, label in zip(FINDINGS, phantom.labels, strict=True)}


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
