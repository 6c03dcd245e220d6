"""Members and combination rules side by side, as in the paper's tables, under the same draws of patients.

Shapes: N images, M members, F findings with labels, A findings of the ensemble, D draws. Source: Liz et al. 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.evaluation.labelled import Labelled
from cxr_ray.evaluation.metrics import LOWER_IS_BETTER, MEASURES
from cxr_ray.evaluation.performance.measured import Measured, difference, measure
from cxr_ray.models.ensemble import combine_probabilities

CTP, LABEL_WISE, MODE = "CTP", "PTC-lw", "PTC-mode"
OF_PROBABILITIES = ("brier", "calibration_error")  # measures that calibration alone changes
_ROUNDING = 1e-5  # float32 means of a few members in another order; any calibration moves some probability by more
_LABELS = {CTP: "mean of the probabilities", LABEL_WISE: "majority of votes per finding", MODE: "most common label set"}
Kind = Literal["member", "rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A member or a rule: macro means over the findings."""

    name: str
    label: str
    kind: Kind
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        values = {name: self.measured.macro(name).to_dict() for name in MEASURES}
        return {"label": self.label, "kind": self.kind, **values}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The members, then the rules, and for each measure that compares CTP minus the member that is best in it."""

    rules: tuple[Rule, ...]
    differences: dict[str, tuple[str, Interval]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The rows as plain values."""
        return {rule.name: rule.to_dict() for rule in self.rules}

    def differences_to_dict(self) -> dict[str, Any]:
        """The differences as plain values."""
        return {
            name: {**interval.to_dict(), "best_member": member} for name, (member, interval) in self.differences.items()
        }

    def lines(self) -> list[str]:
        """A table for people; no line where there is nothing to compare."""
        if not self.rules:
            return []
        shown = ("auroc", "average_precision", "f1", "f1_paper", "hamming")
        width = max(len(rule.name) for rule in self.rules)
        head = f"{'members and rules, macro':<{width}}"
        width = len(head)
        lines = ["", head + "".join(f"{name:>25}" for name in shown)]
        for rule in self.rules:
            lines.append(
                f"{rule.name:<{width}}" + "".join(f"{rule.measured.macro(name).words():>25}" for name in shown)
            )
        for name in ("auroc", "f1_paper"):
            if name in self.differences:
                member, interval = self.differences[name]
                lines.append(f"CTP minus the best member ({member}), {name}: {interval.words()}")
        return lines


def compare_rules(data: Labelled, *, num_draws: int, seed: int) -> Comparison:
    """Members, CTP, PTC-lw and PTC-mode against the labels; nothing but a note where members' rows are lacking.

    A member's probability counts as present at its own threshold, a majority is more than half of the members. The
    area under the curve of a voting rule is over its shares of votes, or over its decisions for PTC-mode.
    """
    members = data.all_member_probabilities
    if members is None:
        return Comparison((), {}, ())
    contract, known = data.contract, list(data.known)
    num_members = len(contract.members)
    levels = contract.member_thresholds
    each = np.full((num_members, len(contract.findings)), np.nan) if levels is None else np.array(levels)
    common = {"patients": data.patients.tolist(), "findings": data.findings, "num_draws": num_draws, "seed": seed}

    def rule(name: str, label: str, kind: Kind, scores: NDArray[Any], thresholds: Sequence[float]) -> Rule:
        """One row."""
        return Rule(name, label, kind, measure(data.labels, scores, thresholds=thresholds, **common))

    rows = [
        rule(name, f"member {name}", "member", members[:, m, known], each[m, known].tolist())
        for m, name in enumerate(contract.members)
    ]
    mean, limits, calibrated = _mean(data, members, each)
    majority = np.float32(num_members // 2 + 1) / np.float32(num_members)
    share = data.votes / np.float32(num_members)
    rows.append(rule(CTP, _LABELS[CTP], "rule", mean, limits))
    rows.append(rule(LABEL_WISE, _LABELS[LABEL_WISE], "rule", share, [float(majority)] * len(known)))
    if levels is not None:
        sets = _combined(members, each, "mode")[:, known]
        rows.append(rule(MODE, _LABELS[MODE], "rule", sets, [0.5] * len(known)))
    compared = [name for name in MEASURES if not (calibrated and name in OF_PROBABILITIES)]
    return Comparison(tuple(rows), _differences(rows, compared), tuple(_notes(data, calibrated=calibrated)))


def _mean(data: Labelled, members: NDArray[Any], thresholds: NDArray[Any]) -> tuple[NDArray[Any], list[float], bool]:
    """CTP's probabilities (N, F), thresholds, and whether they are calibrated, as the members' never are.

    They are the ensemble's own unless it combines in another way. The score table does not say whether these were
    calibrated; they were where they differ from the plain mean of the members.
    """
    known = list(data.known)
    plain = _combined(members, thresholds, "mean")[:, known]
    if data.contract.combination in ("mean", None):
        calibrated = not np.allclose(plain, data.probabilities, rtol=0.0, atol=_ROUNDING)
        return data.probabilities, list(data.thresholds), calibrated
    return plain, thresholds[:, known].mean(axis=0).tolist(), False


def _combined(members: NDArray[Any], thresholds: NDArray[Any], rule: Literal["mean", "mode"]) -> NDArray[Any]:
    """The members' probabilities (N, M, A) combined as the ensemble would, (N, A)."""
    # A copy: the column is read-only, and torch warns of what it might write to; one image has nothing to rearrange.
    stacked = torch.from_numpy(np.array(members.transpose(1, 0, 2), order="C"))
    levels = torch.from_numpy(thresholds.astype(np.float32))
    combined: NDArray[Any] = combine_probabilities(stacked, levels, rule=rule).numpy()
    return combined


def _differences(rows: Sequence[Rule], measures: Sequence[str]) -> dict[str, tuple[str, Interval]]:
    """CTP minus the member that is best in each of `measures`, under the same draws; none where no member has it."""
    ctp = next(row.measured for row in rows if row.name == CTP)
    found = {}
    for name in measures:
        sign = -1 if name in LOWER_IS_BETTER else 1
        values = {row.name: sign * row.measured.macro_value(name) for row in rows if row.kind == "member"}
        values = {member: value for member, value in values.items() if not np.isnan(value)}
        if values:
            best = next(row for row in rows if row.name == max(values, key=values.__getitem__))
            value, other = ctp.macro_value(name), best.measured.macro_value(name)
            drawn = best.measured.macro_draws(name)
            found[name] = (best.name, difference(value, other, ctp.macro_draws(name), drawn))
    return found


def _notes(data: Labelled, *, calibrated: bool) -> list[str]:
    """What a reader of the table has to know."""
    said = ["The best member is chosen on the same images, which favours it against CTP."]
    contract = data.contract
    if calibrated:
        said.append(
            "CTP is calibrated and the members are not, so their Brier scores and calibration errors stand side by side"
            " without a difference."
        )
    if contract.member_thresholds is None:
        said.append(
            "The scores were written before the members' thresholds were kept: members' decisions and PTC-mode are"
            " undefined; score again for them."
        )
    if contract.combination is None:
        said.append("The scores do not say how the ensemble combines its members; CTP, the default, is taken.")
    elif contract.combination != "mean":
        said.append(
            "The ensemble does not combine by CTP; CTP is uncalibrated, at the mean of the members' thresholds."
        )
    return said
