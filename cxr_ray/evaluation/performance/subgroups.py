"""The measures of subgroups with their intervals, and the gap between the best and the worst of them.

Shapes: N images, F findings. Knows arrays and group names only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.evaluation.grouping import in_order
from cxr_ray.evaluation.labelled import Labelled
from cxr_ray.evaluation.performance.measured import Measured, measure
from cxr_ray.labels.tables import counted, listed, near

DEFAULT_COLUMNS = ("sex", "age", "view", "view_position", "manufacturer")
GROUP_MEASURES = ("auroc", "sensitivity", "specificity")
MIN_PATIENTS = 20  # below, an interval says little more than that there are few
_COUNTED = {
    "auroc": ("num_positives", "num_negatives"),
    "sensitivity": ("num_positives",),
    "specificity": ("num_negatives",),
}
_GAPS_NOTE = (
    "The best and the worst group are picked after looking, so the interval of a gap is wider: Student's t by Welch, at"
    " 5 % shared by all pairs of the column's groups (Bonferroni). Columns and measures are not counted."
)


@dataclass(frozen=True, slots=True)
class Subgroup:
    """One group; macro means are over the `common` findings, which all groups of its column define."""

    column: str
    name: str
    num_images: int
    num_patients: int
    measured: Measured
    common: dict[str, tuple[int, ...]]

    def macro(self, name: str) -> Interval:
        """The macro mean of a measure."""
        return self.measured.macro(name, self.common[name])

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        points = self.measured.points
        findings = {
            str(finding): {
                "num_positives": int(points["num_positives"].iloc[f]),
                **{name: self.measured.interval(f, name).to_dict() for name in GROUP_MEASURES},
            }
            for f, finding in enumerate(points.index)
        }
        macros = {f"macro_{name}": self.macro(name).to_dict() for name in GROUP_MEASURES}
        return {"num_images": self.num_images, "num_patients": self.num_patients, **macros, "findings": findings}

    def spread(self, name: str) -> tuple[float, float]:
        """Variance of the macro mean of a measure over the draws, and its degrees of freedom.

        These are the patients that the measure is about less one: positives of the `common` findings for sensitivity,
        negatives for specificity, the rarer of both for AUROC, but never more than the group has patients.
        """
        counts = self.measured.points.iloc[list(self.common[name])][list(_COUNTED[name])].to_numpy(float)
        about = counts.min(axis=1).sum() * self.num_patients / self.num_images
        drawn = self.measured.macro_draws(name, self.common[name])
        return float(np.nanvar(drawn, ddof=1)), max(1.0, min(about, self.num_patients) - 1.0)


@dataclass(frozen=True, slots=True)
class Gap:
    """A macro measure of the best group minus that of the worst, both by the values of the full sample.

    The interval holds for all pairs of groups together, since best and worst are picked after looking.
    """

    best: str
    worst: str
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**self.interval.to_dict(), "best": self.best, "worst": self.worst}


@dataclass(frozen=True, slots=True)
class Subgroups:
    """The groups of each column, its gaps by measure, and what could not be computed."""

    columns: dict[str, tuple[Subgroup, ...]]
    gaps: dict[str, dict[str, Gap]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The groups as plain values."""
        return {column: {group.name: group.to_dict() for group in groups} for column, groups in self.columns.items()}

    def gaps_to_dict(self) -> dict[str, Any]:
        """The gaps as plain values."""
        return {column: {name: gap.to_dict() for name, gap in gaps.items()} for column, gaps in self.gaps.items()}

    def lines(self) -> list[str]:
        """A table per column for people."""
        lines = []
        for column, groups in self.columns.items():
            width = max(len(column), len("best minus worst"), *(len(group.name) for group in groups))
            head = "".join(f"{f'macro {name}':>25}" for name in GROUP_MEASURES)
            lines += ["", f"{column:<{width}} {'images':>8} {'patients':>8}" + head]
            for group in groups:
                values = "".join(f"{group.macro(name).words():>25}" for name in GROUP_MEASURES)
                lines.append(f"{group.name:<{width}} {group.num_images:>8,} {group.num_patients:>8,}" + values)
            if gaps := self.gaps.get(column):
                found = (gaps[name].interval.words() if name in gaps else "undefined" for name in GROUP_MEASURES)
                lines.append(f"{'best minus worst':<{width}} {'':>8} {'':>8}" + "".join(f"{one:>25}" for one in found))
        return lines


def choose_columns(groups: pd.DataFrame, ungrouped: Mapping[str, str], asked: Sequence[str]) -> tuple[str, ...]:
    """The columns asked for, or those of DEFAULT_COLUMNS that there are.

    Raises ConfigError for one that there is not, or that cannot group; `ungrouped` says why.
    """
    known = list(map(str, groups.columns))
    for column in asked:
        if column in ungrouped:
            raise ConfigError(
                f"--by {column} cannot group the images: {ungrouped[column]}; choose from {', '.join(known) or 'none'}."
            )
        if column not in known:
            raise ConfigError(
                f"--by {column} is no column that can group the images{near(column, known)}; there are"
                f" {', '.join(known) or 'none'}."
            )
    return tuple(asked) or tuple(column for column in DEFAULT_COLUMNS if column in groups.columns)


def compare_groups(data: Labelled, columns: Sequence[str], *, num_draws: int, seed: int) -> Subgroups:
    """Each group of each column that has at least MIN_PATIENTS patients; the others are named in a note.

    All groups are measured under the same draws of all patients, so that the gap of two has an interval.
    """
    found: dict[str, tuple[Subgroup, ...]] = {}
    gaps: dict[str, dict[str, Gap]] = {}
    notes: list[str] = []
    for column in columns:
        names = data.groups[column].to_numpy(str)
        patients = {name: len(set(data.patients[names == name])) for name in sorted(set(names) - {""}, key=in_order)}
        few = [f"{name} ({count})" for name, count in patients.items() if count < MIN_PATIENTS]
        kept = [name for name, count in patients.items() if count >= MIN_PATIENTS]
        if few:
            notes.append(f"{column}: too few patients (below {MIN_PATIENTS}) to say anything of {listed(few)}.")
        if "" in names:
            notes.append(f"{column}: not stated for {counted(int((names == '').sum()), 'image')}.")
        if not kept:
            continue
        measured = {name: _measured(data, names == name, num_draws, seed) for name in kept}
        common = {one: _common(measured.values(), one) for one in GROUP_MEASURES}
        if any(len(chosen) < len(data.findings) for chosen in common.values()):
            notes.append(f"{column}: macro AUROC is over the {len(common['auroc'])} findings that every group defines.")
        found[column] = tuple(
            Subgroup(column, name, int((names == name).sum()), patients[name], values, common)
            for name, values in measured.items()
        )
        if gap := {one: gap_of(found[column], one) for one in GROUP_MEASURES if len(kept) > 1 and common[one]}:
            gaps[column] = gap
    return Subgroups(found, gaps, (*notes, _GAPS_NOTE) if gaps and num_draws else tuple(notes))


def _measured(data: Labelled, inside: NDArray[np.bool_], num_draws: int, seed: int) -> Measured:
    """The measures of one group: outside it no label is stated."""
    return measure(
        np.where(inside[:, None], data.labels, np.float32(np.nan)),
        data.probabilities,
        thresholds=data.thresholds,
        patients=data.patients.tolist(),
        findings=data.findings,
        num_draws=num_draws,
        seed=seed,
    )


def _common(groups: Any, name: str) -> tuple[int, ...]:
    """The findings for which all groups define a measure: macro means over others would not compare."""
    defined = np.all([group.points[name].notna().to_numpy() for group in groups], axis=0)
    return tuple(np.flatnonzero(defined).tolist())


def gap_of(groups: Sequence[Subgroup], name: str) -> Gap:
    """The gap of one measure between the best and the worst of at least two groups that all define it.

    The interval is the value and t standard deviations of its draws to either side, NaN where fewer than half of the
    draws define it, or where none of them moves it: groups of all or none right.

    Source: Bonferroni's inequality over all pairs; Welch 1947 for t, since a few patients with a finding say little of
    how far a measure strays. Percentiles cannot do it: of 1,000 draws none is as rare as a pair's share of 5 %.
    """
    values = [group.measured.macro_value(name, group.common[name]) for group in groups]
    best, worst = groups[int(np.argmax(values))], groups[int(np.argmin(values))]
    value = max(values) - min(values)
    drawn = np.subtract(*(group.measured.macro_draws(name, group.common[name]) for group in (best, worst)))
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < max(2, len(drawn) / 2) or defined.std() == 0.0:
        return Gap(best.name, worst.name, Interval(value, float("nan"), float("nan")))
    (one, freedom), (other, freedom_of_other) = best.spread(name), worst.spread(name)
    freedom = (one + other) ** 2 / (one**2 / freedom + other**2 / freedom_of_other)
    num_pairs = len(groups) * (len(groups) - 1) / 2
    half = float(student.ppf(1.0 - 0.025 / num_pairs, freedom) * defined.std(ddof=1))
    return Gap(best.name, worst.name, Interval(value, max(-1.0, value - half), min(1.0, value + half)))
