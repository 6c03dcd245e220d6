from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.errors import FAULT_MEANINGS, ConfigError, Fault
from cxr_ray.evaluation.cohort import NUM_BINS, fault_groups, read_cohort, summarise
from tests.evaluation.invented import CONTRACT, FILMS, FINDINGS, STRANGE, Scored, faulted_row, scored_row, write_scores


def test_read_cohort_newest_row_of_each_image_in_order_of_uri(scored: Scored) -> None:
    cohort = read_cohort(scored.output)
    names = [STRANGE, "a.png", "b.png", "c.png", "gone.png", "negative.png"]
    uris = [scored.uri(name) for name in names]
    assert cohort.rows["uri"].tolist()[:6] == uris
    assert (cohort.num_scored, cohort.num_faulted) == (6, 3)
    np.testing.assert_array_equal(cohort.probabilities[:3, 0], np.array([0.6, 0.9, 0.7], np.float32))
    np.testing.assert_array_equal(cohort.votes[:3], [[2, 0, 2], [3, 0, 0], [2, 3, 0]])
    assert np.isnan(cohort.probabilities[6:]).all()


def test_read_cohort_several_ensembles_wants_a_choice(tmp_path: Path) -> None:
    numbers = FILMS["a.png"]
    other = replace(CONTRACT, ensemble_digest="f" * 16)
    write_scores(tmp_path, "a.parquet", [scored_row("/a.png", "1", numbers)])
    write_scores(tmp_path, "b.parquet", [scored_row("/b.png", "1", numbers, ensemble_digest="f" * 16)], other)
    with pytest.raises(ConfigError, match="ensembles"):
        read_cohort(str(tmp_path))
    assert read_cohort(str(tmp_path), ensemble_digest="f" * 16).rows["uri"].tolist() == ["/b.png"]


def test_fault_groups_most_frequent_first_with_meaning_and_examples(scored: Scored) -> None:
    corrupt, view = fault_groups(read_cohort(scored.output))
    assert (corrupt.code, corrupt.count, view.code, view.count) == ("corrupt", 2, "wrong_view", 1)
    assert view.meaning == FAULT_MEANINGS[Fault.WRONG_VIEW]
    assert view.examples == (("s3://bucket/side.dcm", "View Position (0018,5101) is 'LL'."),)


def test_fault_groups_many_rows_give_five_examples_and_an_unknown_code_no_meaning(tmp_path: Path) -> None:
    write_scores(tmp_path, "a.parquet", [faulted_row(f"/{name}", "of_the_future") for name in "abcdefg"])
    (group,) = fault_groups(read_cohort(str(tmp_path)))
    assert (group.count, group.examples) == (7, tuple((f"/{name}", "") for name in "abcde"))
    assert "does not know" in group.meaning


def test_summarise_counts_scored_rows_only(scored: Scored) -> None:
    mass, effusion, nodule = summarise(read_cohort(scored.output))
    assert [card.finding for card in (mass, effusion, nodule)] == list(FINDINGS)
    assert (mass.num_scored, mass.num_present, effusion.num_present, nodule.num_present) == (6, 4, 2, 1)
    assert mass.share_present == pytest.approx(4 / 6)
    assert mass.votes == (2, 0, 2, 2)
    assert mass.mean_spread == pytest.approx((0.02 + 0.2 + 0.05 + 0.1 + 0.03 + 0.01) / 6)
    assert mass.mean_spread_present == pytest.approx((0.02 + 0.2 + 0.1 + 0.03) / 4)
    assert len(mass.histogram) == NUM_BINS
    # 0.1 twice, 0.6, 0.7, 0.9, 0.95
    bins = np.flatnonzero(mass.histogram)
    assert bins.tolist() == [2, 15, 17, 22, 23]
    assert sum(mass.histogram) == 6


def test_summarise_nothing_scored_gives_nan(tmp_path: Path) -> None:
    write_scores(tmp_path, "a.parquet", [faulted_row("/a", "corrupt")])
    card = summarise(read_cohort(str(tmp_path)))[0]
    assert (card.num_scored, card.num_present, card.votes) == (0, 0, (0, 0, 0, 0))
    assert np.isnan([card.share_present, card.mean_spread, card.mean_spread_present]).all()
