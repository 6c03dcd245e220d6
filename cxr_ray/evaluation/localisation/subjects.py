"""Images together with what is true of them, as the studies that score images again need them.

Which images are looked at is decided from the score table, the labels and the regions; pixels come one after the other
through the project's own door. Knows no model.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.evaluation.localisation.covering import Mask, covered, most_covered
from cxr_ray.evaluation.localisation.masks import LungMasks, Regions
from cxr_ray.images.intake import Intake, decode_images
from cxr_ray.images.preprocess import Placement
from cxr_ray.labels.findings import PRESENT
from cxr_ray.labels.manifest import truth_of
from cxr_ray.labels.matching import PATIENT_KEY, Counts, match, patients_of
from cxr_ray.labels.tables import read_table
from cxr_ray.scoring.table import SCORED, Contract, read_scores

_AT_ONCE = 64  # images asked of the storage together


@dataclass(frozen=True, slots=True)
class Subject:
    """One labelled image, decoded. Shapes: F findings of the ensemble, in its order; S input side."""

    uri: str
    patient: str
    pixels: NDArray[np.uint8]  # (S, S) model input
    placement: Placement  # original pixels = model input x scale + offset
    height: int  # of the original film, pixels
    width: int
    labels: NDArray[np.floating[Any]]  # (F,) 1, 0 or NaN
    lesions: NDArray[np.bool_] | None = None  # (F, S, S) where each finding is; None unless marked
    lungs: NDArray[np.bool_] | None = None  # (S, S); None unless marked


@dataclass(frozen=True, slots=True)
class Film:
    """One scored and labelled image, not decoded: what the score table and the labels say of it."""

    uri: str
    version: str
    patient: str
    placement: Placement
    height: int
    width: int
    labels: NDArray[np.float64]  # (F,) 1, 0 or NaN


@dataclass(frozen=True, slots=True)
class Films:
    """Every labelled image that has a score, in order of uri, and how labels and scores met."""

    films: tuple[Film, ...]
    counts: Counts
    clustered_by: str | None  # the column that names the patients
    notes: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width by uri."""
        return {film.uri: (film.height, film.width) for film in self.films}


def read_films(
    output: str,
    manifest: str,
    contract: Contract,
    *,
    uri_column: str = "uri",
    image_root: str | None = None,
    patient_column: str | None = None,
) -> Films:
    """Every labelled image that the ensemble of `contract` scored below `output`.

    Patients as in `patients_of`. A finding that the table lacks is NaN.

    Raises:
        ManifestError: The table is unusable, names an image twice, or none of its images is scored.
    """
    table = read_table(manifest)
    truth = truth_of(table, manifest, findings=contract.findings, uri_column=uri_column, image_root=image_root)
    wanted = ["uri", "object_version", "status", "placement", "rows", "columns", PATIENT_KEY]
    scores, _ = read_scores(output, wanted=wanted, ensemble_digest=contract.ensemble_digest)
    scored = (scores["status"].to_pandas() == SCORED).to_numpy(bool)
    found = match(truth.index, scores["uri"].to_pandas(), scored, manifest=manifest, output=output)
    kept = scores.filter(pa.array(found.taken))
    names = kept["uri"].to_pylist()
    stated, keys = table.set_axis(truth.index).loc[names], kept[PATIENT_KEY].to_pandas()
    patients = patients_of(stated, uris=names, keys=keys, column=patient_column, manifest=manifest)
    labels = truth.reindex(columns=list(contract.findings)).loc[names].to_numpy(np.float64)
    films = tuple(
        Film(
            uri=row["uri"],
            version=row["object_version"],
            patient=str(patients.names[number]),
            placement=Placement(**row["placement"]),
            height=row["rows"],
            width=row["columns"],
            labels=labels[number],
        )
        for number, row in enumerate(kept.to_pylist())
    )
    return Films(films, found.counts, patients.clustered_by, (*found.notes, *patients.notes))


def has_region(film: Film, marked: Collection[str]) -> bool:
    """Whether a film has a finding, and marks."""
    return film.uri in marked and bool((film.labels == PRESENT).any())


def choose(films: Iterable[Film], *, limit: int, seed: int) -> list[Film]:
    """At most `limit` films, patient by patient in an order drawn by `seed`; the last patient's may be cut short."""
    by_patient: dict[str, list[Film]] = {}
    for film in films:
        by_patient.setdefault(film.patient, []).append(film)
    patients = sorted(by_patient)
    order = np.random.default_rng(seed).permutation(len(patients))
    return [film for number in order for film in by_patient[patients[number]]][:limit]


def marks_of(film: Film, regions: Regions, findings: Sequence[str]) -> dict[int, Mask]:
    """The regions of the findings that a film has: {number of the finding: (H, W) bool}. Raises ManifestError."""
    present = {name for name, label in zip(findings, film.labels, strict=True) if label == PRESENT}
    return {findings.index(name): mask for name, mask in regions(film.uri).items() if name in present}


def read_subjects(
    films: Sequence[Film],
    *,
    findings: Sequence[str],
    preprocess: PreprocessConfig,
    regions: Regions | None = None,
    lungs: LungMasks | None = None,
) -> Iterator[Subject]:
    """Each film decoded, with its lesions and lungs in the model input; what can no longer be read is passed over."""
    intake = Intake(preprocess, LimitsConfig())
    for start in range(0, len(films), _AT_ONCE):
        part = films[start : start + _AT_ONCE]
        items = [(film.uri, film.version, None) for film in part]
        for film, decoded in zip(part, decode_images(items, intake, alone=False), strict=True):
            if decoded.pixels is not None and decoded.placement is not None:
                lesions = None if regions is None else _lesions(film, regions, findings, preprocess.size)
                chest = None if lungs is None else lungs(film.uri)
                seen = None if chest is None else most_covered(covered(chest, film.placement, size=preprocess.size))
                shown = (film.uri, film.patient, decoded.pixels, decoded.placement)
                yield Subject(*shown, film.height, film.width, film.labels, lesions, seen)


def _lesions(film: Film, regions: Regions, findings: Sequence[str], size: int) -> Mask | None:
    """The marked findings of a film in the model input, (F, S, S); None where none is marked."""
    marks = marks_of(film, regions, findings)
    if not marks:
        return None
    lesions = np.zeros((len(findings), size, size), bool)
    for number, mask in marks.items():
        lesions[number] = most_covered(covered(mask, film.placement, size=size))
    return lesions
