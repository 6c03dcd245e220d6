"""DICOM sources of several kinds, and an invented score folder about them."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid

from cxr_ray import storage
from cxr_ray.images.phantom import Encoding, Item, Phantom, encode
from cxr_ray.images.preprocess import Placement
from cxr_ray.scoring.rows import locate
from tests.evaluation.invented import CONTRACT, FINDINGS, GRID, SIZE, reported, scored_row, write_scores

NAME, PATIENT, BIRTH, PHYSICIAN = "Müller-Sécret^Łucja", "SECRET-4711", "19530217", "Hausarzt^Geheim"
KINDS = {
    "dx": Encoding("dcm", 12, 200, 3500),
    "monochrome1": Encoding("dcm", 12, 150, 3700, inverted=True),
    "cr signed with slope": Encoding(
        "dcm", 12, -1500, 3000, uid.ImplicitVRLittleEndian, "CR", signed=True, slope=0.5, intercept=900.0
    ),
    "jpeg 2000": Encoding("dcm", 12, 100, 3900, uid.JPEG2000Lossless),
    "jpeg baseline": Encoding("dcm", 8, 0, 255, uid.JPEGBaseline8Bit, "CR"),
    "no window": Encoding("dcm", 12, 200, 3500),
    "no window, monochrome1": Encoding("dcm", 12, 200, 3500, inverted=True),
    "lut": Encoding("dcm", 12, 200, 3500),
    "bare": Encoding("dcm", 12, 200, 3500, modality="CR"),
}
HIGH, LOW = (0.93, 0.71, 0.123456), (0.1, 0.2, 0.3)
VOTES, SPREAD = (3, 2, 0), (0.02, 0.1, 0.0123)


@dataclass(frozen=True, slots=True)
class Archive:
    """A score folder about some DICOM files; `rows` by the name of the file."""

    output: str
    files: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)


def source(phantom: Phantom, kind: str, *, seed: int) -> bytes:
    """A film of this kind with a secret patient; the seed makes the UIDs."""
    data = encode(phantom, Item(kind, PATIENT, "train", (), 1, seed, KINDS[kind]))
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientBirthDate, dataset.ReferringPhysicianName = NAME, BIRTH, PHYSICIAN
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber = "20260314", "081500", "ACC-1"
    if kind.startswith("no window") or kind == "lut":
        del dataset.WindowCenter, dataset.WindowWidth
    if kind == "lut":
        table = pydicom.Dataset()
        table.add_new("LUTDescriptor", "US", [4096, 0, 12])
        table.add_new("LUTData", "OW", (4095 * np.linspace(0, 1, 4096) ** 2).astype("<u2").tobytes())
        dataset.VOILUTSequence = [table]
    if kind == "bare":
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PatientOrientation", "PatientName", "PatientID"):
            delattr(dataset, keyword)
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            delattr(dataset, keyword)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def heatmap(row: int, column: int) -> np.ndarray:
    """A hill around one cell."""
    y, x = np.mgrid[:GRID, :GRID]
    return np.rint(255 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3.0)).astype(np.uint8)


def row_of(path: Path, *, probabilities: tuple[float, ...] = HIGH, **changes: Any) -> dict[str, Any]:
    """The row of a DICOM file as scoring would write it, with the given scores and invented maps."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    rows, columns = int(header.Rows), int(header.Columns)
    scale = max(rows, columns) / SIZE
    offsets = [-(SIZE - side / scale) / 2 * scale for side in (rows, columns)]
    placement = Placement(scale, offsets[0], scale, offsets[1])
    found = []
    for f, name in enumerate(FINDINGS):
        if probabilities[f] >= CONTRACT.thresholds[f]:
            cells = heatmap(2 + f, 1 + 2 * f)
            place = locate(cells, SIZE, placement, rows, columns)
            found.append(reported(name, probabilities[f], VOTES[f], heatmap=cells.tobytes(), **place))
    row = scored_row(str(path), storage.stat(str(path)).version, (probabilities, VOTES, SPREAD))
    row |= {
        "sop_instance_uid": str(header.SOPInstanceUID),
        "series_instance_uid": str(header.SeriesInstanceUID),
        "study_instance_uid": str(header.StudyInstanceUID),
        "photometric_interpretation": str(header.PhotometricInterpretation),
        "rows": rows,
        "columns": columns,
        "placement": {name: getattr(placement, name) for name in Placement.__slots__},
        "findings": found,
    }
    return {**row, **changes}


def write_archive(folder: Path, files: dict[str, bytes], more: list[dict[str, Any]], **rows: Any) -> Archive:
    """The files, and a score folder with a row for each of them and `more`."""
    (folder / "files").mkdir(parents=True)
    for name, data in files.items():
        (folder / "files" / name).write_bytes(data)
    written = {name: row_of(folder / "files" / name, **rows) for name in files}
    write_scores(folder / "out", "first.parquet", [*written.values(), *more])
    return Archive(str(folder / "out"), folder / "files", written)
