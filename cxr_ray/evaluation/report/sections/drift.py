"""What moved between two runs: scores, agreement and header fields, overall and by group."""

from collections.abc import Mapping
from typing import Any

from cxr_ray.evaluation.report.sections.blocks import Cell, Section, Table, Words, notes, spoken

Document = Mapping[str, Any]
_HEADS = ("What", "PSI", "of it by chance", "KS", "Reference", "Current", "Verdict")


def section(drift: Document) -> Section:
    """The verdict, the shifts of all rows, of the header and of every group."""
    runs = " against ".join(
        f"`{run['output']}` ({run['rows']:,} rows)" for run in (drift["current"], drift["reference"])
    )
    header = drift["header"]
    return Section(
        "drift",
        "Drift",
        [
            Words(drift["verdict"], "warning" if drift["drifted"] else "verdict"),
            Words(f"{runs}. A distribution counts as drifted when its PSI is above {drift['max_psi']:g}."),
            Table("Scores and agreement", _HEADS, [_row(shift) for shift in drift["overall"]]),
            *([Table("Header fields", _HEADS, [_row(shift) for shift in header])] if header else []),
            *(
                block
                for column, groups in drift["groups"].items()
                for name, group in groups.items()
                for block in _group(f"{spoken(column)} {name}", group)
            ),
            *notes(drift),
        ],
    )


def _group(name: str, group: Document) -> list[Words | Table]:
    """One group: its shifts that count, or why there are none."""
    if group["shifts"] is None:
        return [Words(f"{name}: {group['missing']}", "warning")]
    counts = f"{group['reference_rows']:,} rows then, {group['current_rows']:,} now"
    moved = [_row(shift) for shift in group["shifts"] if shift["drifted"]]
    if not moved:
        return [Words(f"{name} ({counts}): nothing drifted.")]
    return [Table(f"{name}: {counts}; what drifted", _HEADS, moved)]


def _row(shift: Document) -> list[Cell]:
    """One distribution."""
    what = spoken(shift["measure"]) + (f" of {spoken(shift['finding'])}" if shift["finding"] else "")
    numbers = [_number(shift[name]) for name in ("psi", "chance", "ks", "reference", "current")]
    return [what, *numbers, "drifted" if shift["drifted"] else "stable"]


def _number(value: Any) -> Cell:
    """A number with three digits; text as it is."""
    return f"{value:.3f}" if isinstance(value, float) else value
