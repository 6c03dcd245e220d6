"""One scored image as the objects for the PACS need it. Knows no DICOM."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.images.preprocess import Placement
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import Contract

ROW_COLUMNS = [
    *("uri", "object_version", "scored_at", "sop_instance_uid", "study_instance_uid"),
    *("photometric_interpretation", "rows", "columns", "placement", "findings"),
]
_GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ensemble says of one finding. Coordinates are original pixels; None where there is no heat map."""

    finding: str
    probability: float
    threshold: float
    votes: int
    spread: float
    present: bool
    heatmap: bytes | None = None
    peak: tuple[float, float] | None = None  # row, column
    box: tuple[float, float, float, float] | None = None  # top, left, bottom, right


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """A row of the score table: the image, and an answer for each finding in the contract's order."""

    uri: str
    object_version: str
    scored_at: datetime
    sop_instance_uid: str
    study_instance_uid: str
    photometric_interpretation: str | None
    rows: int
    columns: int
    placement: Placement
    answers: tuple[Answer, ...]

    @property
    def present(self) -> tuple[Answer, ...]:
        """The answers at or above their threshold."""
        return tuple(answer for answer in self.answers if answer.present)

    @property
    def mapped(self) -> tuple[Answer, ...]:
        """The answers with a heat map to show."""
        return tuple(answer for answer in self.present if answer.heatmap is not None)

    @property
    def placed(self) -> tuple[Answer, ...]:
        """The answers with a box."""
        return tuple(answer for answer in self.present if answer.box is not None)

    @property
    def is_grey(self) -> bool:
        """Whether a grayscale presentation state can apply to it."""
        return self.photometric_interpretation in _GREY


def wanted_columns(contract: Contract) -> list[str]:
    """The columns of the score table that `image_of` reads."""
    kinds = ("probability", "votes", "spread")
    return [*ROW_COLUMNS, *(f"{kind}_{column_suffix(finding)}" for finding in contract.findings for kind in kinds)]


def image_of(row: Mapping[str, Any], contract: Contract) -> ScoredImage:
    """A scored row as an image. Heat map, peak and box stay only with what is at or above its threshold.

    A map of what was not found has no place in a PACS, where it would be taken for a finding.
    """
    reported = {found["finding"]: found for found in row["findings"] or []}
    probabilities = np.array([row[f"probability_{column_suffix(name)}"] for name in contract.findings], np.float32)
    present = at_or_above(probabilities[None], contract.thresholds)[0]
    answers = [
        Answer(
            finding=name,
            probability=_shortest(probabilities[f]),
            threshold=_shortest(np.float32(contract.thresholds[f])),
            votes=int(row[f"votes_{column_suffix(name)}"]),
            spread=_shortest(np.float32(row[f"spread_{column_suffix(name)}"])),
            present=bool(present[f]),
            **(_located(reported.get(name)) if present[f] else {}),
        )
        for f, name in enumerate(contract.findings)
    ]
    known = {key: row[key] for key in ROW_COLUMNS if key not in ("placement", "findings")}
    return ScoredImage(**known, placement=Placement(**row["placement"]), answers=tuple(answers))


def _located(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the heat map adds to an answer; nothing without one, and no place where the map is empty."""
    if found is None or found["heatmap"] is None:
        return {}
    box, row, column = found["box"], found["peak_row"], found["peak_column"]
    return {
        "heatmap": found["heatmap"],
        "peak": None if row is None or column is None else (row, column),
        "box": None if box is None else (box["top"], box["left"], box["bottom"], box["right"]),
    }


def _shortest(value: np.floating[Any]) -> float:
    """The shortest number that is this float32: 0.7, not 0.699999988, which is longer than DICOM's DS takes."""
    return float(str(value))
