"""The score table as one CSV file without heat maps, for a spreadsheet or a statistics program.

Written batch by batch, so that memory does not grow with the archive. Text that a spreadsheet would take for
a formula begins with an apostrophe. Knows no DICOM.
"""

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pds

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import BOX, Contract, choose_contract, rows_of, schema, score_files

_IDENTITY = (
    *("uri", "object_version", "sop_instance_uid", "series_instance_uid", "study_instance_uid", "patient_key"),
    *("modality", "view_position", "rows", "columns", "status", "fault", "fault_detail"),
)
_SCORES = ("probability", "votes", "spread")
_PLACES = ("peak_row", "peak_column", "box_top", "box_left", "box_bottom", "box_right")
_PROVENANCE = ("ensemble_digest", "run_id", "scored_at")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what OWASP's note on CSV injection lists
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Flat:
    """A CSV file that was written."""

    path: str
    num_rows: int
    num_columns: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"path": self.path, "num_rows": self.num_rows, "num_columns": self.num_columns}

    def lines(self) -> list[str]:
        """One line for people."""
        return [f"{self.path}: {self.num_rows:,} rows of {self.num_columns:,} columns."]


def export_csv(output: str, target: str, *, ensemble_digest: str | None = None) -> Flat:
    """Write the current row of every image of one ensemble below `output` to a local file, whole or not at all.

    Peak and box are those of reported findings, in pixels of the original; a float32 has its shortest decimal form.
    Raises ConfigError: there are no scores, several ensembles and none was chosen, or `target` cannot be written.
    """
    if storage.is_remote(target):
        raise ConfigError(f"--csv writes a local file, not {target}; choose a path, and copy the file.")
    contract = choose_contract(output, ensemble_digest)
    header = [*_IDENTITY, *_finding_columns(contract), *_PROVENANCE]
    path = Path(target).absolute()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("x", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            num_rows = 0
            for row in _current_rows(output, contract):
                writer.writerow([_cell(value) for value in _values(row, contract)])
                num_rows += 1
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); choose another --csv file.") from error
    finally:
        partial.unlink(missing_ok=True)
    return Flat(str(path), num_rows, len(header))


def _finding_columns(contract: Contract) -> list[str]:
    """The columns of all findings: their scores, then the places of their heat maps."""
    return [*_score_columns(contract), *(f"{place}_{s}" for s in _suffixes(contract) for place in _PLACES)]


def _score_columns(contract: Contract) -> list[str]:
    """Probability, votes and spread of each finding, as the score table calls them."""
    return [f"{kind}_{suffix}" for suffix in _suffixes(contract) for kind in _SCORES]


def _suffixes(contract: Contract) -> list[str]:
    """How columns name the findings."""
    return [column_suffix(finding) for finding in contract.findings]


def _current_rows(output: str, contract: Contract) -> Iterator[dict[str, Any]]:
    """The newest row of every uri in the order of the files; of all rows only repeated uris are held."""
    newest = _newest_of_repeated(output, contract)
    filesystem, paths = storage.paths_on(list(score_files(output, contract)))
    rows = pds.dataset(paths, filesystem=filesystem, format="parquet", schema=schema(contract))
    columns = [*_IDENTITY, *_score_columns(contract), *_PROVENANCE, "findings"]
    chosen = pc.field("ensemble_digest") == contract.ensemble_digest
    for batch in rows.to_batches(columns=columns, filter=chosen, batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
            if newest.get(row["uri"], row["scored_at"]) == row["scored_at"]:
                yield row


def _newest_of_repeated(output: str, contract: Contract) -> dict[str, datetime]:
    """When the current row was made, for every uri with older rows beside it."""
    keys = rows_of(output, wanted=["uri", "scored_at"], contract=contract)
    groups = keys.group_by("uri").aggregate([("scored_at", "max"), ("scored_at", "count")])
    repeated = groups.filter(pc.greater(groups["scored_at_count"], 1))
    return dict(zip(repeated["uri"].to_pylist(), repeated["scored_at_max"].to_pylist(), strict=True))


def _values(row: Mapping[str, Any], contract: Contract) -> Iterator[Any]:
    """The cells of one row, in the header's order."""
    yield from (row[name] for name in _IDENTITY)
    yield from (_shortest(row[name]) for name in _score_columns(contract))
    reported = {found["finding"]: found for found in row["findings"] or []}
    for finding in contract.findings:
        found = reported.get(finding, {})
        box = found.get("box") or {}
        places = (found.get("peak_row"), found.get("peak_column"), *(box.get(edge) for edge in BOX.names))
        yield from (_shortest(value) for value in places)
    yield from (row[name] for name in _PROVENANCE)


def _shortest(value: float | int | None) -> float | int | None:
    """The shortest decimal form of a float32: 0.7, not 0.699999988."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    """A value as CSV holds it: nothing for null, ISO 8601 for times, and no text that a spreadsheet would run."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
