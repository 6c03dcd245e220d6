"""Decisions in groups, by votes or by quantiles of a signal: how often right, how well calibrated, how well located.

Shapes: J decisions, K groups, P patients, d draws. Knows arrays only; what is undefined is NaN.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cxr_ray.evaluation.agreement.selective import Integers, quantile_bins, ratio, summed
from cxr_ray.evaluation.agreement.signals import Decisions
from cxr_ray.evaluation.bootstrap import Floats, Interval


@dataclass(frozen=True, slots=True)
class Group:
    """Decisions alike in a signal, between `low` and `high`; `votes` when that is what they are grouped by.

    Accuracy is the share of right decisions; the calibration error is the expected one in ten bins of equal count (in
    fewer when there are not 50 decisions for each), whose draws lie above it the more, the smaller the group; located
    is the share of maps whose peak lies in the lesion, of `num_located` maps.
    """

    votes: int | None
    low: float
    high: float
    num_decisions: int
    accuracy: Interval
    calibration_error: Interval
    located: Interval
    num_located: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, `located` None without a map."""
        values = asdict(self)
        votes, low, high = (values.pop(name) for name in ("votes", "low", "high"))
        count = values.pop("num_located")
        values["located"] = {**values["located"], "count": count} if count else None
        return {**({"low": low, "high": high} if votes is None else {"votes": votes}), **values}

    def line(self) -> str:
        """A line of the table for people."""
        name = f"{self.low:.3f} to {self.high:.3f}" if self.votes is None else str(self.votes)
        located = f"{self.located.words()} of {self.num_located:,}" if self.num_located else "no maps"
        return (
            f"{name:<26} {self.num_decisions:>9,} {self.accuracy.words():>22} {self.calibration_error.words():>22}"
            f" {located:>22}"
        )


@dataclass(frozen=True, slots=True)
class GroupMeasures:
    """Groups 0..K - 1 of decisions as sums by patient, and what names them."""

    heads: list[dict[str, Any]]  # votes, low, high and the counts of each
    right: Any  # sparse (K, P)
    every: Any  # sparse (K, P)
    hits: Any  # sparse (K, P), maps that point at the lesion
    maps: Any  # sparse (K, P)
    gaps: Any  # sparse (bins, P), probability less label
    group_of_bin: Any  # sparse (K, bins), ones

    def measure(self, weights: Floats) -> Floats:
        """Accuracy, calibration error and located share (3 K, d), each for all groups."""
        every = self.every @ weights
        gaps = self.group_of_bin @ np.abs(self.gaps @ weights)
        return np.concatenate(
            [ratio(self.right @ weights, every), ratio(gaps, every), ratio(self.hits @ weights, self.maps @ weights)]
        )

    def groups(self, interval: Callable[[int], Interval], distance: Callable[[int], Interval]) -> list[Group]:
        """The groups, given how the interval of a row of `measure` is made, and of one that is a mean distance."""
        number = len(self.heads)
        return [
            Group(
                **head,
                accuracy=interval(k),
                calibration_error=distance(number + k),
                located=interval(2 * number + k),
            )
            for k, head in enumerate(self.heads)
        ]


def by_value(decisions: Decisions, values: Integers) -> GroupMeasures:
    """A group for each value (J,) that occurs, such as the votes."""
    present, group = np.unique(values, return_inverse=True)
    names = [{"votes": int(value)} for value in present]
    return _measures(decisions, values.astype(np.float64), np.arange(len(values)), group, names)


def groups_of(decisions: Decisions, values: Floats, *, num_bins: int) -> GroupMeasures:
    """Groups of about equal count by values (J,), NaN in none; ties stay together."""
    chosen = np.flatnonzero(~np.isnan(values))
    group = quantile_bins(values[chosen], np.zeros(len(chosen), dtype=np.int64), most=num_bins, least=1)
    return _measures(decisions, values, chosen, group, [{"votes": None}] * (int(group.max(initial=-1)) + 1))


def _measures(
    decisions: Decisions, values: Floats, chosen: Integers, group: Integers, names: list[dict[str, Any]]
) -> GroupMeasures:
    """The measures of the chosen decisions (C,) with their group (C,)."""
    owner, number = decisions.owner[chosen], decisions.num_patients
    shape = (len(names), number)
    hit = decisions.located[chosen]
    mapped = ~np.isnan(hit)
    gap = decisions.probability[chosen] - decisions.truth[chosen]
    bins = quantile_bins(decisions.probability[chosen], group, most=10, least=50)
    num_bins = int(bins.max(initial=-1)) + 1
    cells = np.unique(np.stack([bins, group]), axis=1)
    heads = [
        {
            **name,
            "low": float(values[chosen][group == k].min()),
            "high": float(values[chosen][group == k].max()),
            "num_decisions": int((group == k).sum()),
            "num_located": int(mapped[group == k].sum()),
        }
        for k, name in enumerate(names)
    ]
    return GroupMeasures(
        heads=heads,
        right=summed(group, owner, shape, np.where(decisions.wrong[chosen], 0.0, 1.0)),
        every=summed(group, owner, shape),
        hits=summed(group[mapped], owner[mapped], shape, hit[mapped]),
        maps=summed(group[mapped], owner[mapped], shape),
        gaps=summed(bins, owner, (num_bins, number), gap),
        group_of_bin=summed(cells[1], cells[0], (len(names), num_bins)),
    )
