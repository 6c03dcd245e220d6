"""Gaps between groups: what is picked as best and worst must not look different by the picking alone."""

from collections.abc import Sequence

import numpy as np
import pytest

from cxr_ray.evaluation.performance.measured import measure
from cxr_ray.evaluation.performance.subgroups import GROUP_MEASURES, Subgroup, gap_of

DRAWS = 200


def invented(sizes: Sequence[int], num_findings: int, *, prevalence: float, shift: float = 0.0) -> list[Subgroup]:
    """Groups of one-image patients for each of which the scores are as good, but for a `shift` in the first."""
    random = np.random.default_rng(7)
    group = np.repeat(np.arange(len(sizes)), sizes)
    labels = (random.random((len(group), num_findings)) < prevalence).astype(np.float32)
    latent = 1.5 * labels + random.normal(size=labels.shape) - 0.75 + shift * np.outer(group == 0, 1) * (labels - 0.5)
    return [
        Subgroup(
            "site",
            str(number),
            size,
            size,
            measure(
                np.where((group == number)[:, None], labels, np.float32(np.nan)),
                1 / (1 + np.exp(-latent)),
                thresholds=[0.5] * num_findings,
                patients=[str(image) for image in range(len(group))],
                findings=[str(f) for f in range(num_findings)],
                num_draws=DRAWS,
                seed=0,
            ),
            {},
        )
        for number, size in enumerate(sizes)
    ]


def by_finding(groups: list[Subgroup], name: str, f: int) -> list[Subgroup]:
    """The groups with one finding to be averaged over: a simulation of its own."""
    common = {name: (f,)}
    fields = ("column", "name", "num_images", "num_patients", "measured")
    return [Subgroup(*(getattr(group, field) for field in fields), common) for group in groups]


@pytest.mark.parametrize(("size", "prevalence"), [(40, 0.3), (20, 0.15)])
def test_gap_of_five_equal_groups_leaves_out_zero_in_one_of_twenty(size: int, prevalence: float) -> None:
    num_simulations = 50
    groups = invented([size] * 5, num_simulations, prevalence=prevalence)
    lows = []
    for name in GROUP_MEASURES:
        defined = np.all([group.measured.points[name].notna() for group in groups], axis=0)
        lows += [gap_of(by_finding(groups, name, f), name).interval.low for f in np.flatnonzero(defined)]
    stated = np.array(lows)[~np.isnan(lows)]
    assert len(stated) > 2 * num_simulations
    assert (stated > 0).mean() <= 0.06  # 0.3 with percentiles


def test_gap_of_two_groups_is_about_the_percentile_interval() -> None:
    groups = by_finding(invented([150, 150], 1, prevalence=0.4, shift=2.0), "auroc", 0)
    gap = gap_of(groups, "auroc")
    first, second = (group.measured.drawn["auroc"][:, 0] for group in groups)
    low, high = np.percentile(first - second, [2.5, 97.5])
    assert (gap.best, gap.worst) == ("0", "1")
    assert gap.interval.low > 0
    assert gap.interval.high - gap.interval.low == pytest.approx(high - low, rel=0.15)


def test_gap_of_groups_that_no_draw_moves_has_no_interval() -> None:
    labels = np.array([1.0, 0, 0, 1, 0, 0] * 10, np.float32)[:, None]
    probabilities = np.array([0.9, 0.1, 0.1, 0.2, 0.1, 0.1] * 10)[:, None]  # all positives of the second are missed
    groups = [
        Subgroup(
            "site",
            name,
            30,
            30,
            measure(
                np.where(inside[:, None], labels, np.float32(np.nan)),
                probabilities,
                thresholds=[0.5],
                patients=[str(image) for image in range(60)],
                findings=["Mass"],
                num_draws=DRAWS,
                seed=0,
            ),
            {"sensitivity": (0,)},
        )
        for name, inside in (("a", np.arange(60) % 6 < 3), ("b", np.arange(60) % 6 >= 3))
    ]
    gap = gap_of(groups, "sensitivity").interval
    assert gap.value == 1.0
    assert np.isnan([gap.low, gap.high]).all()
