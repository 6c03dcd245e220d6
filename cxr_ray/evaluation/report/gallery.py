"""The report's gallery: which images are shown, and everything one panel says about its image.

A panel is the paper's figure: radiograph with heat map, finding, probability and inter-model agreement. Radiographs
are read again through the project's own door. Knows no HTML.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
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
from cxr_ray.evaluation.report.overlay import (
    FILM_SIDE,
    SMALL_FILM_SIDE,
    STRIP_SIDE,
    data_uri,
    film_jpeg,
    heat_on_film,
    heat_png,
)
from cxr_ray.images.packed import archives, members
from cxr_ray.images.preprocess import Placement
from cxr_ray.images.radiograph import decode, read_header
from cxr_ray.labels.findings import PRESENT
from cxr_ray.scoring.table import Contract, rows_of

MAX_READINGS = 12  # findings of one image with a picture of their own; keeps the file small when all are reported
_READERS = 4  # films read at the same time: hides an object store's latency, and bounds the memory they take
_MANY = 120  # films; beyond, they are made smaller, so that 500 of them stay below 20 MB
_SPREAD_GAIN = 2  # a spread of 0.5, the largest there can be, takes the upper end of the colour scale
_DETAILS = [
    *("uri", "object_version", "scored_at", "view_position", "rows", "columns", "placement"),
    *("findings", "member_heatmaps"),
]


STATUSES = (
    *("positive", "true positive", "false positive"),
    *("negative", "true negative", "false negative"),
)


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
    status: str  # such as `true positive`; `positive` or `negative` where the truth is not stated
    map_agreement: float | None = None
    heat: str | None = None  # data uri
    strip: str | None = None  # data uri of a picture of frames side by side: each member's map, then the spread map
    frames: tuple[str, ...] = ()  # what the frames of the strip show
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
    num_more: int  # findings beyond MAX_READINGS


def select(
    probabilities: NDArray[np.floating[Any]],
    thresholds: Sequence[float],
    *,
    max_images: int,
    labels: NDArray[np.floating[Any]] | None = None,
) -> list[tuple[int, int]]:
    """Rows to show, each with the finding it was chosen for.

    In every round each finding adds its strongest positive that is not shown yet, so that rare findings are not
    crowded out. With `labels` it also adds its clearest miss (a false negative of low probability), and the image
    without any positive, by truth too, that came closest to its threshold. Ties go to the earlier row.

    Args:
        probabilities: (N, F); a row of NaN is never chosen.
        thresholds: (F,).
        max_images: Most rows to choose.
        labels: (N, F), 1, 0 or NaN.
    """
    present = at_or_above(probabilities, thresholds)
    queues = [(f, _order(-probabilities[:, f], present[:, f])) for f in range(present.shape[1])]
    if labels is not None and present.shape[1]:
        missed = (labels == PRESENT) & ~present & ~np.isnan(probabilities)
        queues += [(f, _order(probabilities[:, f], missed[:, f])) for f in range(present.shape[1])]
        clear = ~(present | (labels == PRESENT) | np.isnan(probabilities)).any(axis=1) & (labels == 0).any(axis=1)
        above = np.where(labels == 0, probabilities - np.asarray(thresholds), -np.inf)
        closest = above.argmax(axis=1)
        queues += [(f, _order(-above[:, f], clear & (closest == f))) for f in range(present.shape[1])]
    return _in_turn(queues, max_images)


def _order(key: NDArray[np.floating[Any]], wanted: NDArray[np.bool_]) -> list[int]:
    """The wanted rows by rising key."""
    rows = np.flatnonzero(wanted)
    return [int(row) for row in rows[np.argsort(key[rows], kind="stable")]]


def _in_turn(queues: Sequence[tuple[int, list[int]]], most: int) -> list[tuple[int, int]]:
    """One row of every queue in turn, none twice, each with the number of its queue."""
    chosen: dict[int, int] = {}
    waiting = [(f, iter(rows)) for f, rows in queues]
    while waiting:
        left = []
        for f, rows in waiting:
            row = next((row for row in rows if row not in chosen), None)
            if row is not None and len(chosen) < most:
                chosen[row] = f
                left.append((f, rows))
        waiting = left
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
    side = FILM_SIDE if len(chosen) <= _MANY else SMALL_FILM_SIDE
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        films = list(readers.map(partial(_film, side=side), [details[row] for row, _ in chosen]))
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


def _film(details: Mapping[str, Any], *, side: int) -> Film:
    """Read, decode and shrink one radiograph to `side` pixels; a file that is gone or broken becomes a notice."""
    uri, rows, columns = details["uri"], details["rows"], details["columns"]
    try:
        data = archives.fetch(uri, "", limits=LimitsConfig())
        pixels = decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig(size=side)).pixels
    except (StorageError, DecodeError) as error:
        return Film(None, rows or 1, columns or 1, error.detail)
    notice = None if _unchanged(uri, details["object_version"]) else "The file has changed since it was scored."
    height, width = (rows, columns) if rows and columns else pixels.shape
    return Film(data_uri(film_jpeg(pixels, side=side), "image/jpeg"), height, width, notice)


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
    reported = _reported(details)
    labels = _labels(truth, details["uri"], contract.findings)
    present = at_or_above(cohort.probabilities[row], contract.thresholds)
    indices = [
        f
        for f, finding in enumerate(contract.findings)
        if present[f] or finding in reported or labels[finding] or f == chosen_for
    ]
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
            status=status(bool(present[f]), labels[contract.findings[f]]),
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
    )


def status(present: bool, truth: bool | None) -> str:
    """What a decision was: `true positive` and so on, or `positive` and `negative` without truth."""
    called = "positive" if present else "negative"
    return called if truth is None else f"{'true' if truth == present else 'false'} {called}"


def _reported(details: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The reported findings of one image by name, each with the maps of its members where they were kept."""
    found = details["findings"] or []
    maps = details["member_heatmaps"] or [None] * len(found)
    return {values["finding"]: {**values, "member_maps": own} for values, own in zip(found, maps, strict=True)}


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
        grid = (-1, contract.grid, contract.grid)
        lay = partial(
            heat_on_film, placement=Placement(**placement), model_side=contract.size, film=(film.height, film.width)
        )
        heat = lay(np.frombuffer(found["heatmap"], np.uint8).reshape(grid)[0])
        values["heat"] = data_uri(heat_png(heat), "image/png")
        own = np.frombuffer(found["member_maps"] or b"", np.uint8).reshape(grid)
        spread = np.frombuffer(found["heatmap_spread"] or b"", np.uint8).reshape(grid)
        doubled = np.minimum(spread.astype(np.uint16) * _SPREAD_GAIN, 255).astype(np.uint8)
        frames = [lay(cells, side=STRIP_SIDE) for cells in (*own, *doubled)]
        if frames:
            values["strip"] = data_uri(heat_png(np.hstack(frames)), "image/png")
            values["frames"] = (*contract.members[: len(own)], *["spread"] * len(spread))
    return values
