"""The report's gallery: which images are shown, and everything one panel says about its image.

A panel is the paper's figure: radiograph with heat map, finding, probability and inter-model agreement. Radiographs
are read again through the project's own door. Knows no HTML.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, StorageError
from cxr_ray.evaluation.cohort import Cohort
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.evaluation.overlay import FILM_SIDE, data_uri, film_jpeg, heat_on_film, heat_png
from cxr_ray.images.packed import archives, members
from cxr_ray.images.preprocess import Placement
from cxr_ray.images.radiograph import decode, read_header
from cxr_ray.labels.findings import PRESENT
from cxr_ray.scoring.table import Contract, rows_of

MAX_READINGS = 12  # findings of one image with a picture of their own; keeps the file small when all are reported
_READERS = 4  # films read at the same time: hides an object store's latency, and bounds the memory they take
_SHOWN = PreprocessConfig(size=FILM_SIDE)
_DETAILS = ["uri", "object_version", "scored_at", "view_position", "rows", "columns", "placement", "findings"]


@dataclass(frozen=True, slots=True)
class Film:
    """A radiograph as it can be shown: its picture, or the sentence why there is none."""

    picture: str | None  # data uri
    height: int
    width: int
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What the ensemble says of one finding in one image. Coordinates are original pixels; absent parts are None."""

    finding: str
    probability: float
    threshold: float
    present: bool
    votes: int
    spread: float
    truth: bool | None
    map_agreement: float | None = None
    heat: str | None = None  # data uri
    peak: tuple[float, float] | None = None  # row, column
    box: Mapping[str, float] | None = None  # top, left, bottom, right


@dataclass(frozen=True, slots=True)
class Panel:
    """One image of the gallery: its film and its readings by falling probability."""

    uri: str
    view_position: str | None
    film: Film
    readings: tuple[Reading, ...]
    shown: int  # the reading the image was chosen for
    num_more: int  # reported findings beyond MAX_READINGS
    missed: tuple[tuple[str, float], ...]  # present in truth, below threshold: finding and probability


def select(
    probabilities: NDArray[np.floating[Any]], thresholds: Sequence[float], *, max_images: int
) -> list[tuple[int, int]]:
    """Rows to show, each with the finding it was chosen for: the strongest positives of each finding in turn.

    In every round each finding adds its strongest image that is not shown yet, so that rare findings are not crowded
    out. Ties go to the earlier row. Probabilities are (N, F); a row of NaN is never chosen.
    """
    present = at_or_above(probabilities, thresholds)
    queues = []
    for f in range(present.shape[1]):
        rows = np.flatnonzero(present[:, f])
        order = rows[np.argsort(-probabilities[rows, f], kind="stable")]
        queues.append((f, iter(order[:max_images].tolist())))
    chosen: dict[int, int] = {}
    while queues:
        waiting = []
        for f, queue in queues:
            row = next((row for row in queue if row not in chosen), None)
            if row is not None and len(chosen) < max_images:
                chosen[row] = f
                waiting.append((f, queue))
        queues = waiting
    return list(chosen.items())


def panels(
    output: str, cohort: Cohort, chosen: Sequence[tuple[int, int]], *, truth: pd.DataFrame | None = None
) -> list[Panel]:
    """The panels of the chosen rows, in their order; films that cannot be read any more say why.

    `truth` holds labels 1, 0 or NaN, indexed by uri, with a column for each finding it knows.
    """
    if not chosen:
        return []
    details = _details(output, cohort, [row for row, _ in chosen])
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        films = list(readers.map(_film, [details[row] for row, _ in chosen]))
    return [_panel(cohort, row, f, film, details[row], truth) for (row, f), film in zip(chosen, films, strict=True)]


def _details(output: str, cohort: Cohort, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Placement, size and reported findings of some rows; the heat maps of all others are never held."""
    keys = {(cohort.rows["uri"].iloc[row], cohort.rows["scored_at"].iloc[row]): row for row in rows}
    chosen = pc.field("uri").isin([uri for uri, _ in keys])
    scores = rows_of(output, wanted=_DETAILS, contract=cohort.contract, where=chosen)
    found = {}
    for values in scores.to_pylist():
        row = keys.get((values["uri"], pd.Timestamp(values["scored_at"])))
        if row is not None:
            found[row] = values
    return found


def _film(details: Mapping[str, Any]) -> Film:
    """Read, decode and shrink one radiograph; a file that is gone or broken becomes a notice."""
    uri, rows, columns = details["uri"], details["rows"], details["columns"]
    try:
        data = archives.fetch(uri, "", limits=LimitsConfig())
        pixels = decode(read_header(data, limits=LimitsConfig()), preprocess=_SHOWN).pixels
    except (StorageError, DecodeError) as error:
        return Film(None, rows or 1, columns or 1, error.detail)
    notice = None if _unchanged(uri, details["object_version"]) else "The file has changed since it was scored."
    height, width = (rows, columns) if rows and columns else pixels.shape
    return Film(data_uri(film_jpeg(pixels), "image/jpeg"), height, width, notice)


def _unchanged(uri: str, version: str) -> bool:
    """Whether the storage still holds the version that was scored; true where it does not tell."""
    try:
        return storage.stat(members.split(uri)[0]).version == version
    except StorageError:
        return True


def _panel(
    cohort: Cohort, row: int, chosen_for: int, film: Film, details: Mapping[str, Any], truth: pd.DataFrame | None
) -> Panel:
    """The panel of one row."""
    contract = cohort.contract
    reported = {found["finding"]: found for found in details["findings"] or []}
    labels = _labels(truth, details["uri"], contract.findings)
    present = at_or_above(cohort.probabilities[row], contract.thresholds)
    indices = [f for f, finding in enumerate(contract.findings) if present[f] or finding in reported]
    indices.sort(key=lambda f: (f != chosen_for, -cohort.probabilities[row, f]))
    kept = sorted(indices[:MAX_READINGS], key=lambda f: -cohort.probabilities[row, f])
    readings = [
        Reading(
            finding=contract.findings[f],
            probability=float(cohort.probabilities[row, f]),
            threshold=contract.thresholds[f],
            present=bool(present[f]),
            votes=int(cohort.votes[row, f]),
            spread=float(cohort.spread[row, f]),
            truth=labels[contract.findings[f]],
            **_map(reported.get(contract.findings[f]), details, contract, film),
        )
        for f in kept
    ]
    return Panel(
        uri=details["uri"],
        view_position=details["view_position"],
        film=film,
        readings=tuple(readings),
        shown=kept.index(chosen_for),
        num_more=len(indices) - len(kept),
        missed=tuple(
            (finding, float(cohort.probabilities[row, f]))
            for f, finding in enumerate(contract.findings)
            if labels[finding] and not present[f]
        ),
    )


def _labels(truth: pd.DataFrame | None, uri: str, findings: Iterable[str]) -> dict[str, bool | None]:
    """The truth of one image; None where it is not stated."""
    if truth is None or uri not in truth.index:
        return dict.fromkeys(findings)
    stated = truth.loc[[uri]].iloc[0]
    return {finding: None if pd.isna(label := stated.get(finding)) else label == PRESENT for finding in findings}


def _map(found: Mapping[str, Any] | None, details: Mapping[str, Any], contract: Contract, film: Film) -> dict[str, Any]:
    """What the heat map of one finding adds to its reading; nothing without a map, no picture without a film."""
    if found is None or found["heatmap"] is None:
        return {}
    values: dict[str, Any] = {"map_agreement": found["map_agreement"], "box": found["box"]}
    if found["peak_row"] is not None and found["peak_column"] is not None:
        values["peak"] = (found["peak_row"], found["peak_column"])
    placement = details["placement"]
    if film.picture is not None and placement is not None:
        heatmap = np.frombuffer(found["heatmap"], np.uint8).reshape(contract.grid, contract.grid)
        film_size = (film.height, film.width)
        heat = heat_on_film(heatmap, Placement(**placement), model_side=contract.size, film=film_size)
        values["heat"] = data_uri(heat_png(heat), "image/png")
    return values
