"""Drift between two sets of scored rows: two outputs, or two runs or spans of days of one.

Scores, agreement of the members, faults and header fields, overall and per group of rows. The statistics are those of
distributions.py, the same that a nightly job looks at; which rows are read is said in sides.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray.config import DriftConfig
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.drift.distributions import (
    CERTAINTY,
    Shift,
    category_shift,
    equal_bins,
    fault_shift,
    own_bins,
    value_shift,
    vote_shift,
)
from cxr_ray.evaluation.drift.sides import CATEGORIES, NUMBERS, Choice, Side, choose_files, read_side
from cxr_ray.labels.findings import column_suffix
from cxr_ray.scoring.table import SCORED, Contract, choose_contract

NOT_STATED = "not stated"
BY = ("view_position", "manufacturer")
_FARTHEST = 12  # shifts that the printed table shows

Bins = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class GroupShifts:
    """The shifts within one group of rows, or the sentence why there are none."""

    reference_rows: int
    current_rows: int
    shifts: tuple[Shift, ...] = ()
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One set of rows against another; `groups` is by column and by its value."""

    reference: Side
    current: Side
    max_psi: float
    overall: tuple[Shift, ...]
    header: tuple[Shift, ...]
    groups: dict[str, dict[str, GroupShifts]]
    notes: tuple[str, ...]

    @property
    def named(self) -> dict[str, Shift]:
        """Every shift by what moved and where, such as `votes of Mass (view_position PA)`."""
        found = {shift.name: shift for shift in (*self.overall, *self.header)}
        for column, groups in self.groups.items():
            for name, group in groups.items():
                found |= {f"{shift.name} ({column} {name})": shift for shift in group.shifts}
        return found

    @property
    def drifted(self) -> dict[str, Shift]:
        """The shifts that are drift, farthest first."""
        beyond = [(name, shift) for name, shift in self.named.items() if shift.drifted(self.max_psi)]
        return dict(sorted(beyond, key=lambda item: -item[1].psi))

    @property
    def verdict(self) -> str:
        """The comparison in one sentence."""
        drifted = self.drifted
        if not drifted:
            return f"No drift in {len(self.named):,} comparisons (PSI at most {self.max_psi:g}, or within chance)."
        name, shift = next(iter(drifted.items()))
        return (
            f"Drift in {len(drifted):,} of {len(self.named):,} comparisons, farthest {name}"
            f" (PSI {shift.psi:.2f}, {_change(shift)})."
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "reference": _side(self.reference),
            "current": _side(self.current),
            "max_psi": self.max_psi,
            "overall": [self._plain(shift) for shift in self.overall],
            "groups": {
                column: {
                    name: {
                        "reference_rows": group.reference_rows,
                        "current_rows": group.current_rows,
                        "shifts": None if group.missing else [self._plain(shift) for shift in group.shifts],
                        "missing": group.missing,
                    }
                    for name, group in groups.items()
                }
                for column, groups in self.groups.items()
            },
            "header": [self._plain(shift) for shift in self.header],
            "drifted": list(self.drifted),
            "verdict": self.verdict,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people: both sides, what moved farthest, groups that were not compared, the verdict, the notes."""
        farthest = sorted(self.named.items(), key=lambda item: -item[1].psi)[:_FARTHEST]
        width = max(len(name) for name, _ in farthest)
        rows = [
            f"{name:<{width}} {shift.psi:>7.3f} {shift.chance:>7.3f} {'' if shift.ks is None else f'{shift.ks:.3f}':>6}"
            f"  {_change(shift)}{'  DRIFT' if shift.drifted(self.max_psi) else ''}"
            for name, shift in farthest
        ]
        missing = [
            f"{column} {name}: {group.missing}"
            for column, groups in self.groups.items()
            for name, group in groups.items()
            if group.missing
        ]
        sides = [
            f"{word}: {side.num_rows:,} rows of {len(side.runs)} runs in {side.output}"
            for word, side in (("reference", self.reference), ("current", self.current))
        ]
        head = f"{'what moved farthest':<{width}} {'PSI':>7} {'chance':>7} {'KS':>6}  reference -> current"
        return [*sides, head, *rows, *missing, *self.notes, self.verdict]

    def _plain(self, shift: Shift) -> dict[str, Any]:
        """One shift as plain values."""
        return {**asdict(shift), "drifted": shift.drifted(self.max_psi)}


def compare_outputs(
    reference: str,
    current: str,
    *,
    config: DriftConfig,
    choice: Choice | None = None,
    by: Sequence[str] = BY,
    ensemble_digest: str | None = None,
) -> Comparison:
    """Compare the score tables of two outputs, or of two choices of runs of one output.

    Raises:
        ConfigError: No scores, several ensembles and none chosen, two ensembles, two ways of preprocessing, no rows on
            a side, fewer than `config.min_rows` scored ones, or a column in `by` that is not in CATEGORIES.
    """
    unknown = [column for column in by if column not in CATEGORIES]
    if unknown:
        raise ConfigError(f"Rows cannot be grouped by {unknown[0]!r}; choose from {', '.join(CATEGORIES)}.")
    contracts = [choose_contract(output, ensemble_digest) for output in (reference, current)]
    if contracts[0].ensemble_digest != contracts[1].ensemble_digest:
        raise ConfigError(
            f"{reference} holds scores of the ensemble {contracts[0].ensemble_digest}, {current} of"
            f" {contracts[1].ensemble_digest}: scores of two ensembles differ without any drift; score both with one."
        )
    files = choose_files(reference, current, contracts[0], choice or Choice())
    sides = [
        read_side(output, chosen, contracts[0], max_rows=config.max_rows)
        for output, chosen in zip((reference, current), files, strict=True)
    ]
    return compare_sides(sides[0], sides[1], contracts[0], config=config, by=by)


def compare_sides(
    reference: Side, current: Side, contract: Contract, *, config: DriftConfig, by: Sequence[str] = BY
) -> Comparison:
    """Compare two sets of rows of one ensemble; raises ConfigError as `compare_outputs`."""
    tables = reference.rows, current.rows
    ways = {digest for rows in tables for digest in rows["preprocess_digest"].unique().to_pylist()}
    if len(ways) > 1:
        raise ConfigError(
            f"The rows went through {len(ways)} ways of preprocessing ({', '.join(sorted(ways))}), which moves scores"
            " without any drift; score both sides with one version."
        )
    few = _too_few(*tables, config.min_rows)
    if few:
        raise ConfigError(f"Nothing is compared, for {few}; choose more runs or days, or lower --min-rows.")
    overall = _score_shifts(*tables, contract, config)
    groups = {column: _groups(*tables, column, contract, config) for column in by}
    header = _header_shifts(*tables, config)
    number = len(overall) + len(header) + sum(len(g.shifts) for found in groups.values() for g in found.values())
    return Comparison(
        reference, current, config.max_psi, overall, header, groups, _notes((reference, current), number, config)
    )


def _score_shifts(reference: pa.Table, current: pa.Table, contract: Contract, config: DriftConfig) -> tuple[Shift, ...]:
    """Faults, and each finding's probability, votes, spread and, where enough maps are stored, map agreement."""
    sides = reference, current
    scored = [_scored(rows) for rows in sides]
    counts = [(some.num_rows, rows.num_rows - some.num_rows) for some, rows in zip(scored, sides, strict=True)]
    shifts = [fault_shift(counts[0], counts[1])]
    for finding in contract.findings:
        suffix = column_suffix(finding)
        votes = [rows[f"votes_{suffix}"].to_numpy() for rows in scored]
        shifts.append(vote_shift(finding, votes[0], votes[1], len(contract.members)))
        for measure in ("probability", "spread", "map_agreement"):
            moved = _values(measure, f"{measure}_{suffix}", finding, scored, equal_bins, config)
            shifts += [] if moved is None else [moved]
    return tuple(shifts)


def _header_shifts(reference: pa.Table, current: pa.Table, config: DriftConfig) -> tuple[Shift, ...]:
    """Fault codes and header fields over all rows, the faulted included, whose headers tell why they fault."""
    sides = reference, current
    shifts = [category_shift(column, *(_counts(rows, column) for rows in sides)) for column in ("fault", *CATEGORIES)]
    for column in NUMBERS:
        moved = _values(column, column, None, sides, own_bins, config)
        shifts += [] if moved is None else [moved]
    return tuple(shifts)


def _values(
    measure: str, column: str, finding: str | None, sides: Sequence[pa.Table], bins: Bins, config: DriftConfig
) -> Shift | None:
    """The shift of a column of numbers; None where a side has fewer than `min_rows` of them."""
    values = [rows[column].drop_null().to_numpy() for rows in sides]
    if min(len(side) for side in values) < config.min_rows:
        return None
    return value_shift(measure, finding, values[0], values[1], edges=bins(values[0], config.num_bins))


def _groups(
    reference: pa.Table, current: pa.Table, column: str, contract: Contract, config: DriftConfig
) -> dict[str, GroupShifts]:
    """The shifts of scores within each value of `column`."""
    found = {}
    for name in sorted({*_counts(reference, column), *_counts(current, column)}):
        chosen = [rows.filter(pc.equal(_stated(rows, column), name)) for rows in (reference, current)]
        few = _too_few(chosen[0], chosen[1], config.min_rows)
        shifts = () if few else _score_shifts(chosen[0], chosen[1], contract, config)
        found[name] = GroupShifts(chosen[0].num_rows, chosen[1].num_rows, shifts, few)
    return found


def _notes(sides: tuple[Side, Side], number: int, config: DriftConfig) -> tuple[str, ...]:
    """What to know when reading the table."""
    by_chance = number * (1 - CERTAINTY)
    notes = [
        f"{number:,} comparisons at {1 - CERTAINTY:.1%} each: without any drift about {by_chance:.1f} of them pass"
        f" their level of chance, and fewer a PSI of {config.max_psi:g} too; one alone just above both is no finding.",
        "The level of chance takes rows to be independent: many images of few patients move more than it says.",
    ]
    thinned = [side for side in sides if side.rows.num_rows < side.num_rows]
    notes += [f"Of {side.num_rows:,} rows in {side.output} {side.rows.num_rows:,} were compared." for side in thinned]
    if any(side.rows["manufacturer"].null_count == side.rows.num_rows for side in sides):
        notes.append(
            "A side states no manufacturer: older versions did not write it, and no PNG, JPEG or TIFF has one."
        )
    return tuple(notes)


def _too_few(reference: pa.Table, current: pa.Table, min_rows: int) -> str | None:
    """Which side has fewer scored rows than it takes, in words; None when both have enough."""
    rows = {"the reference has": _scored(reference).num_rows, "the current side has": _scored(current).num_rows}
    few = [f"{side} {number:,}" for side, number in rows.items() if number < min_rows]
    return f"{' and '.join(few)} scored rows, it takes {min_rows:,}" if few else None


def _scored(rows: pa.Table) -> pa.Table:
    """The rows with a score."""
    return rows.filter(pc.equal(rows["status"], SCORED))


def _stated(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of categories, in which nothing is a category too."""
    return rows[column].fill_null("none" if column == "fault" else NOT_STATED)


def _counts(rows: pa.Table, column: str) -> dict[str, int]:
    """Rows of each category."""
    return {item["values"]: item["counts"] for item in _stated(rows, column).value_counts().to_pylist()}


def _side(side: Side) -> dict[str, Any]:
    """One side as plain values; `rows` are all there are, `compared` those that were read."""
    return {
        "output": side.output,
        "runs": list(side.runs),
        "rows": side.num_rows,
        "compared": side.rows.num_rows,
        "scored": _scored(side.rows).num_rows,
    }


def _change(shift: Shift) -> str:
    """Both means, or the share of the category that moved most."""
    moved = f"{shift.reference:.3f} -> {shift.current:.3f}"
    return f"{shift.category} {moved}" if shift.category else moved
