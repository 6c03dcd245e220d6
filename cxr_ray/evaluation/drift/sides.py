"""The two sets of scored rows that a comparison is about: which score files they are, and their columns.

Of more rows than are wanted every k-th is read, so that memory does not grow with the archive. Knows no statistics.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring import table
from cxr_ray.scoring.table import Contract

CATEGORIES = (
    "view_position",
    "manufacturer",
    "modality",
    "body_part_examined",
    "photometric_interpretation",
    "transfer_syntax_uid",
    "voi_source",
    "gate",
)
NUMBERS = ("rows", "columns", "pixel_spacing_mm")
_BATCH_ROWS = 4096
_NAMED = 5  # runs that a message names


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows: of the runs named on each side, and, with `before`, of the days before it and from it on."""

    reference_runs: tuple[str, ...] = ()
    current_runs: tuple[str, ...] = ()
    before: date | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One set of rows. `rows` holds at most `max_rows` of the `num_rows` there are, evenly spread over them.

    Its columns are status, fault, CATEGORIES, NUMBERS (spacing as one number, between the rows), and of each finding
    probability_, votes_, spread_ and map_agreement_ with its column suffix, null where there is none.
    """

    output: str
    runs: tuple[str, ...]
    num_rows: int
    rows: pa.Table


def choose_files(reference: str, current: str, contract: Contract, choice: Choice) -> tuple[list[str], list[str]]:
    """The score files of both sides under the ensemble of `contract`.

    Within one output, a side that is not named consists of all runs that the other one does not take.

    Raises:
        ConfigError: A run is not there, a side has no files, or both have the same.
    """
    before, after = (list(table.score_files(output, contract)) for output in (reference, current))
    if choice.before is not None:
        before = [uri for uri in before if _day_of(uri) < choice.before]
        after = [uri for uri in after if _day_of(uri) >= choice.before]
    before, after = _of_runs(before, choice.reference_runs), _of_runs(after, choice.current_runs)
    within_one = _place(reference) == _place(current)
    if within_one and choice.current_runs and not choice.reference_runs:
        before = _without(before, after)
    if within_one and choice.reference_runs and not choice.current_runs:
        after = _without(after, before)
    if len(_without(before, after)) < len(before):
        raise ConfigError(
            f"Both sides hold the same rows of {reference}; give a second output, or choose with --reference-run,"
            " --current-run or --reference-before."
        )
    for side, output, files in (("reference", reference, before), ("current", current, after)):
        if not files:
            raise ConfigError(f"No score file of {output} is left for the {side} side; choose other runs or days.")
    return before, after


def read_side(output: str, files: Sequence[str], contract: Contract, *, max_rows: int) -> Side:
    """Every k-th row of the score files of one ensemble, at most `max_rows`."""
    suffixes = [column_suffix(finding) for finding in contract.findings]
    scores = [f"{kind}_{suffix}" for kind in ("probability", "votes", "spread") for suffix in suffixes]
    names = ["status", "fault", "preprocess_digest", *CATEGORIES, *NUMBERS, *scores]
    rows = thinned_rows(files, contract, names, max_rows=max_rows)
    place = rows.schema.get_field_index("pixel_spacing_mm")
    # An empty list, of which list_element would make an error, becomes one null.
    between = pc.list_slice(rows["pixel_spacing_mm"], 0, 1, return_fixed_size_list=True)
    rows = rows.set_column(place, "pixel_spacing_mm", pc.list_element(between, 0))
    total = sum(_num_rows(uri) for uri in files)
    for name, values in map_agreements(files, contract, step=_step(total, max_rows)).items():
        rows = rows.append_column(name, values)
    return Side(output, tuple(sorted({table.run_of(uri) for uri in files})), total, rows)


def thinned_rows(files: Sequence[str], contract: Contract, names: Sequence[str], *, max_rows: int) -> pa.Table:
    """Columns of the rows of one ensemble in these score files, in order; of more than `max_rows` rows every k-th.

    A column that an older version did not write is null.
    """
    schema = table.schema(contract)
    parts = [pa.schema([schema.field(name) for name in names]).empty_table()]
    if files:
        filesystem, paths = storage.paths_on(files)
        rows = pds.dataset(paths, filesystem=filesystem, format="parquet", schema=schema)
        ours = pc.field("ensemble_digest") == contract.ensemble_digest
        step, skip = _step(rows.count_rows(filter=ours), max_rows), 0
        for batch in rows.to_batches(columns=list(names), filter=ours):
            taken = np.arange(skip, batch.num_rows, step)
            skip = (skip - batch.num_rows) % step
            parts.append(pa.Table.from_batches([batch.take(pa.array(taken))]))
    return pa.concat_tables(parts)


def map_agreements(files: Sequence[str], contract: Contract, *, step: int) -> dict[str, pa.Array]:
    """Agreement of the members' heat maps per finding, of every `step`-th row; null where no map was reported.

    Only two leaves of the reported findings are read: their heat maps would be most of the file.
    """
    names = [f"map_agreement_{column_suffix(finding)}" for finding in contract.findings]
    number = {finding: place for place, finding in enumerate(contract.findings)}
    parts, skip = [np.empty((0, len(names)), np.float32)], 0
    for uri in files:
        filesystem, path = storage.filesystem(uri)
        with filesystem.open_input_file(path) as file:
            leaves = [f"findings.list.element.{leaf}" for leaf in ("finding", "map_agreement")]
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=leaves):
                taken = pa.array(np.arange(skip, batch.num_rows, step))
                parts.append(_spread_out(batch["findings"].take(taken), number))
                skip = (skip - batch.num_rows) % step
    values = np.concatenate(parts)
    return {name: pa.array(values[:, place], from_pandas=True) for place, name in enumerate(names)}


def _spread_out(findings: pa.ListArray, number: dict[str, int]) -> NDArray[np.float32]:
    """One row (N, F) per list of reported findings, NaN for those not in it."""
    values = np.full((len(findings), len(number)), np.nan, np.float32)
    rows, said = pc.list_parent_indices(findings).to_numpy(), findings.flatten()
    places = np.array([number[name] for name in said.field("finding").to_pylist()], np.int64)
    values[rows, places] = said.field("map_agreement").to_numpy(zero_copy_only=False)
    return values


def _of_runs(files: list[str], wanted: Sequence[str]) -> list[str]:
    """The files of the wanted runs, all without any; raises ConfigError for a run that is not there."""
    runs = {table.run_of(uri) for uri in files}
    absent = [run for run in wanted if run not in runs]
    if absent:
        shown = ", ".join(sorted(runs)[-_NAMED:]) or "none"
        raise ConfigError(f"No score file is of the run {absent[0]!r}; the last runs here are {shown}.")
    return [uri for uri in files if table.run_of(uri) in wanted] if wanted else files


def _without(files: list[str], others: Sequence[str]) -> list[str]:
    """The files that are none of the others, by whatever path these were reached."""
    places = {_place(uri) for uri in others}
    return [uri for uri in files if _place(uri) not in places]


def _place(uri: str) -> str:
    """What a uri names: one and the same for all ways of writing a local path, links included."""
    return uri.rstrip("/") if storage.is_remote(uri) else os.path.realpath(storage.absolute(uri))


def _day_of(uri: str) -> date:
    """The day on which the run of a score file began; raises ConfigError when its name does not tell."""
    found = re.search(r"/date=(\d{4}-\d{2}-\d{2})/", uri)
    if found is None:
        raise ConfigError(f"The path of {uri} does not tell its day; choose with --reference-run.")
    return date.fromisoformat(found[1])


def _num_rows(uri: str) -> int:
    """Rows of a score file, from its footer."""
    filesystem, path = storage.filesystem(uri)
    return int(pq.read_metadata(path, filesystem=filesystem).num_rows)


def _step(num_rows: int, max_rows: int) -> int:
    """Every how many-th row is read."""
    return max(1, math.ceil(num_rows / max_rows))
