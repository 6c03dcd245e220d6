"""What the invented score folder of these tests consists of: rows, films, faults and run manifests."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import Contract, encode, schema

FINDINGS = ("Mass", "Pleural_effusion", "Nodule / other (small)")
HEIGHT, WIDTH, GRID, SIZE = 90, 60, 6, 48
PLACEMENT = {"row_scale": 1.875, "row_offset": 0.0, "column_scale": 1.875, "column_offset": -15.0}
CONTRACT = Contract(
    findings=FINDINGS,
    members=("one", "two", "three"),
    grid=GRID,
    size=SIZE,
    thresholds=(0.5, 0.4, 0.7),
    ensemble_digest="e" * 16,
    preprocess_digest="p" * 16,
)
STRANGE = "<script>alert(1)<img src=x onerror=alert(2)>.png"
# Name of the film: probabilities, votes and spreads in the order of FINDINGS. 0.7 reaches its threshold of 0.7.
FILMS = {
    "a.png": ((0.9, 0.1, 0.2), (3, 0, 0), (0.02, 0.01, 0.01)),
    "b.png": ((0.7, 0.8, 0.1), (2, 3, 0), (0.2, 0.05, 0.01)),
    "c.png": ((0.1, 0.45, 0.2), (0, 1, 0), (0.05, 0.3, 0.01)),
    STRANGE: ((0.6, 0.2, 0.7), (2, 0, 2), (0.1, 0.01, 0.15)),
    "gone.png": ((0.95, 0.1, 0.1), (3, 0, 0), (0.03, 0.01, 0.01)),
    "negative.png": ((0.1, 0.1, 0.1), (0, 0, 0), (0.01, 0.01, 0.01)),
}
FAULTS = (
    ("s3://bucket/<script>alert(3)</script>.dcm", "corrupt", "Pixel Data (7FE0,0010) <b>ends</b> early."),
    ("s3://bucket/broken.dcm", "corrupt", "Pixel Data (7FE0,0010) ends early."),
    ("s3://bucket/side.dcm", "wrong_view", "View Position (0018,5101) is 'LL'."),
)
STARTED = datetime(2026, 3, 14, 2, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scored:
    """A score folder and the films it is about."""

    output: str
    films: Path

    def uri(self, name: str) -> str:
        return str(self.films / name)


def heatmap() -> bytes:
    """A map with its maximum in the cell (4, 2)."""
    cells = np.full((GRID, GRID), 20, np.uint8)
    cells[4, 2] = 255
    return cells.tobytes()


def reported(finding: str, probability: float, votes: int, **changes: Any) -> dict[str, Any]:
    """One struct of the `findings` column; the peak is the middle of cell (4, 2) on the film."""
    return {
        "finding": finding,
        "probability": probability,
        "votes": votes,
        "map_agreement": 0.5,
        "peak": 2.0,
        "peak_row": 67.5,
        "peak_column": 22.5,
        "box": {"top": 60.0, "left": 15.0, "bottom": 75.0, "right": 30.0},
        "heatmap": heatmap(),
        "heatmap_spread": bytes(GRID * GRID),
        **changes,
    }


def scored_row(uri: str, version: str, numbers: tuple[tuple[float, ...], ...], **changes: Any) -> dict[str, Any]:
    """A scored row with a reported finding for every probability at or above its threshold."""
    probabilities, votes, spread = numbers
    columns = {
        f"{kind}_{column_suffix(finding)}": values[f]
        for kind, values in (("probability", probabilities), ("votes", votes), ("spread", spread))
        for f, finding in enumerate(FINDINGS)
    }
    positive = [f for f in range(len(FINDINGS)) if probabilities[f] >= CONTRACT.thresholds[f]]
    return {
        **provenance(uri, version),
        **columns,
        "status": "scored",
        "view_position": "PA",
        "rows": HEIGHT,
        "columns": WIDTH,
        "placement": PLACEMENT,
        "findings": [reported(FINDINGS[f], probabilities[f], votes[f]) for f in positive],
        **changes,
    }


def provenance(uri: str, version: str) -> dict[str, Any]:
    """The columns that every row has."""
    return {
        "uri": uri,
        "object_version": version,
        "ensemble_digest": CONTRACT.ensemble_digest,
        "preprocess_digest": CONTRACT.preprocess_digest,
        "run_id": "run-2",
        "scored_at": STARTED,
    }


def faulted_row(uri: str, code: str, detail: str | None = None) -> dict[str, Any]:
    """A row without a score."""
    return {**provenance(uri, "1"), "status": "faulted", "fault": code, "fault_detail": detail}


def write_scores(output: Path, name: str, rows: list[dict[str, Any]], contract: Contract = CONTRACT) -> None:
    """One score file."""
    (output / "scores").mkdir(parents=True, exist_ok=True)
    (output / "scores" / name).write_bytes(encode(pa.Table.from_pylist(rows, schema=schema(contract))))


def film(seed: int) -> Image.Image:
    """Two dark lungs in a bright body, with some noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    lungs = sum(np.exp(-(((x - c) / 10) ** 2) - ((y - 45) / 25) ** 2) for c in (16, 44))
    grey = 200 - 150 * lungs + np.random.default_rng(seed).normal(0, 5, (HEIGHT, WIDTH))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def write_run(output: Path, run_id: str, *, started_at: str, digest: str = CONTRACT.ensemble_digest) -> None:
    """A run manifest of 10 listed, 6 scored, 3 faulted and 1 done."""
    manifest = {
        "run_id": run_id,
        "started_at": started_at,
        "wall_seconds": 3723.0,
        "counts": {"listed": 10, "already_done": 1, "scored": 6, "faulted": 3},
        "ensemble": {"digest": digest},
    }
    (output / "runs").mkdir(exist_ok=True)
    (output / "runs" / f"{run_id}.json").write_text(json.dumps(manifest))
