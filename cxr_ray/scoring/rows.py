"""From decoded images and ensemble scores to rows of the score table. Knows no Ray, no files and no network.

Shapes: B images of a batch, M members, F findings, S input side, G heat-map grid.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import ndimage

from cxr_ray.images.preprocess import Placement
from cxr_ray.labels.findings import column_suffix
from cxr_ray.models.ensemble import Scores
from cxr_ray.scoring import table
from cxr_ray.scoring.decoding import BEFORE_SCORES
from cxr_ray.scoring.table import BOX, FINDING, SCORED, Contract

Heatmaps = Literal["positive", "all", "none"]
Array = npt.NDArray[Any]
_BOX_LEVEL = 0.5  # of the map's maximum: the region around the peak that the box encloses


def stack_pixels(decoded: pa.Table, *, size: int) -> tuple[Array, Array]:
    """Model inputs (B, 1, S, S) uint8 of the images without a fault, and their row numbers (B,)."""
    rows = np.flatnonzero(np.asarray(decoded["status"]) == SCORED)
    pixels = decoded["pixels"].take(pa.array(rows)).to_pylist()
    images = np.frombuffer(b"".join(pixels), np.uint8).reshape(len(rows), 1, size, size)
    return images, rows


def score_rows(
    decoded: pa.Table, rows: Array, scores: Scores | None, contract: Contract, *, run_id: str, heatmaps: Heatmaps
) -> pa.Table:
    """The score table of a batch: `scores`, on the CPU, belong to the row numbers `rows`; all others are faulted."""
    total = decoded.num_rows
    columns: dict[str, Any] = {column.name: decoded[column.name] for column in BEFORE_SCORES}
    if scores is not None:
        columns |= _score_columns(scores, rows, total, contract)
        reported = _reported(scores, contract, heatmaps)
        columns["findings"] = _findings_column(decoded, rows, scores, contract, reported)
        columns["member_heatmaps"] = _member_heatmaps_column(rows, scores, total, reported)
    now = datetime.now(UTC)
    constants = {
        "ensemble_digest": contract.ensemble_digest,
        "preprocess_digest": contract.preprocess_digest,
        "run_id": run_id,
        "scored_at": now,
    }
    schema = table.schema(contract)
    arrays = []
    for field in schema:
        value = [constants[field.name]] * total if field.name in constants else columns.get(field.name)
        arrays.append(pa.nulls(total, field.type) if value is None else _typed(value, field.type))
    return pa.table(arrays, schema=schema)


def _typed(value: Any, kind: pa.DataType) -> Any:
    """A column as the Arrow type the schema wants."""
    return value.cast(kind) if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value, kind)


def _score_columns(scores: Scores, rows: Array, total: int, contract: Contract) -> dict[str, pa.Array]:
    """The columns with one number per finding, and the members' probabilities."""
    columns: dict[str, pa.Array] = {}
    per_finding: dict[str, tuple[Array, type]] = {
        "probability": (scores.probabilities.numpy(), np.float32),
        "votes": (scores.votes.numpy(), np.int8),
        "spread": (scores.spread.numpy(), np.float32),
    }
    absent = np.ones(total, bool)
    absent[rows] = False
    for prefix, (values, kind) in per_finding.items():
        for index, finding in enumerate(contract.findings):
            column: Array = np.zeros(total, kind)
            column[rows] = values[:, index]
            columns[f"{prefix}_{column_suffix(finding)}"] = pa.array(column, mask=absent)
    members = scores.member_probabilities.permute(1, 0, 2).flatten(1).float().numpy()
    listed: list[Array | None] = [None] * total
    for row, values in zip(rows, members, strict=True):
        listed[row] = values
    columns["member_probabilities"] = pa.array(listed, pa.list_(pa.float32()))
    return columns


def _reported(scores: Scores, contract: Contract, heatmaps: Heatmaps) -> Array:
    """Which findings of which image are reported, (B, F)."""
    positive: Array = scores.probabilities.numpy() >= np.array(contract.thresholds, np.float32)
    return np.ones_like(positive) if heatmaps == "all" else positive


def _findings_column(decoded: pa.Table, rows: Array, scores: Scores, contract: Contract, reported: Array) -> pa.Array:
    """The reported findings of every scored image, null for faulted ones."""
    on_cpu = _to_numpy(scores)
    listed: list[list[dict[str, Any]] | None] = [None] * decoded.num_rows
    for number, row in enumerate(rows):
        film = _film(decoded, int(row))
        listed[row] = [
            _finding(on_cpu, number, int(index), contract, film) for index in np.flatnonzero(reported[number])
        ]
    return pa.array(listed, pa.list_(FINDING))


def _member_heatmaps_column(rows: Array, scores: Scores, total: int, reported: Array) -> pa.Array | None:
    """The members' maps of the reported findings of every scored image; None when they were not kept."""
    if scores.member_maps is None:
        return None
    maps = _as_bytes(scores.member_maps.permute(1, 2, 0, 3, 4).numpy())  # (B, F, M, G, G)
    listed: list[list[bytes] | None] = [None] * total
    for number, row in enumerate(rows):
        listed[row] = [maps[number, index].tobytes() for index in np.flatnonzero(reported[number])]
    return pa.array(listed, pa.list_(pa.binary()))


def _to_numpy(scores: Scores) -> dict[str, Array | None]:
    """Everything a finding is made of, maps as bytes 0..255."""
    tensors = {name: getattr(scores, name) for name in ("probabilities", "votes", "map_agreement", "peaks", "maps")}
    arrays = {name: None if tensor is None else tensor.numpy() for name, tensor in tensors.items()}
    spread = None if scores.map_spread is None else scores.map_spread.numpy()
    for name, values in (("heatmap", arrays["maps"]), ("heatmap_spread", spread)):
        arrays[name] = None if values is None else _as_bytes(values)
    return arrays


def _as_bytes(maps: Array) -> Array:
    """Maps of 0..1 as 0..255."""
    return np.rint(maps * 255.0).astype(np.uint8)


def _film(decoded: pa.Table, row: int) -> tuple[Placement, int, int]:
    """Placement, rows and columns of one image."""
    placement = Placement(**decoded["placement"][row].as_py())
    return placement, decoded["rows"][row].as_py(), decoded["columns"][row].as_py()


def _finding(
    scores: dict[str, Any], number: int, index: int, contract: Contract, film: tuple[Placement, int, int]
) -> dict[str, Any]:
    """One reported finding of one image as plain values."""
    found: dict[str, Any] = {
        "finding": contract.findings[index],
        "probability": float(scores["probabilities"][number, index]),
        "votes": int(scores["votes"][number, index]),
    }
    if scores["maps"] is None:
        return found
    heatmap = scores["maps"][number, index]
    agreement = float(scores["map_agreement"][number, index])
    found |= {
        "map_agreement": None if np.isnan(agreement) else agreement,
        "peak": float(scores["peaks"][number, index]),
        "heatmap": scores["heatmap"][number, index].tobytes(),
        "heatmap_spread": scores["heatmap_spread"][number, index].tobytes(),
    }
    if heatmap.max() > 0:
        found |= locate(heatmap, contract.size, *film)
    return found


def locate(heatmap: Array, size: int, placement: Placement, rows: int, columns: int) -> dict[str, Any]:
    """Peak and box of a heat map (G, G), in pixels of the original film of rows x columns.

    The box encloses the region around the peak that reaches half the maximum. Both are clipped to the film, since
    the map also covers the margin that pads the film to a square.
    """
    cell = size / heatmap.shape[0]
    peak = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    regions, _ = ndimage.label(heatmap >= _BOX_LEVEL * heatmap.max(), structure=np.ones((3, 3)))
    inside = np.argwhere(regions == regions[peak])
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    row, column = placement.point_on_film(
        float(peak[0] + 0.5) * cell, float(peak[1] + 0.5) * cell, rows=rows, columns=columns
    )
    edges = (float(top) * cell, float(left) * cell, float(bottom) * cell, float(right) * cell)
    box = placement.box_on_film(edges, rows=rows, columns=columns)
    return {
        "peak_row": min(row, rows - 0.5),
        "peak_column": min(column, columns - 0.5),
        "box": dict(zip(BOX.names, box, strict=True)),
    }
