"""The study of agreement: signals against their definitions, verdicts in simulations, and inputs that define little."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_ray.evaluation.agreement.detection import ERROR_AUROC, detection, estimate
from cxr_ray.evaluation.agreement.signals import decide
from cxr_ray.evaluation.agreement.study import agreement_study
from cxr_ray.evaluation.agreement.verdicts import compared
from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.models import agreement

FINDINGS = ["effusion", "nodule", "cardiomegaly"]


def _cohort(seed=0, *, number=400, images_per_patient=2, members=5, informed=0.0):
    """Arrays of an ensemble whose probability is calibrated; with `informed` its spread knows more than that."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(-1.0, 1.5, (number, 3)) + np.array([0.0, -1.0, 0.5])
    probabilities = 1 / (1 + np.exp(-log_odds))
    thresholds = np.array([0.3, 0.2, 0.5])
    right = np.where(probabilities >= thresholds, probabilities, 1 - probabilities)
    sure = random.choice([-1.0, 1.0], (number, 3))
    correct = random.random((number, 3)) < right + informed * sure * np.minimum(right, 1 - right)
    width = 0.6 - 0.4 * informed * sure
    each = log_odds[:, None] + width[:, None] * random.normal(size=(number, members, 3))
    member_probabilities = 1 / (1 + np.exp(-each))
    return {
        "labels": ((probabilities >= thresholds) == correct).astype(float),
        "probabilities": probabilities,
        "thresholds": thresholds,
        "votes": (member_probabilities >= thresholds).sum(axis=1),
        "spread": member_probabilities.std(axis=1),
        "member_probabilities": member_probabilities,
        "map_agreement": None,
        "located": None,
        "patients": [f"p{image // images_per_patient}" for image in range(number)],
        "findings": FINDINGS,
    }


def _study(cohort, *, num_draws=50):
    return agreement_study(decide(**cohort), num_draws=num_draws, seed=0)


def _flat(cohort, name):
    return cohort[name][~np.isnan(cohort["labels"])]


def test_signals_follow_their_definitions():
    cohort = _cohort(number=40)
    cohort["labels"][3, 1] = np.nan
    decisions = decide(**cohort, num_members=None)
    p, members = _flat(cohort, "probabilities"), torch.from_numpy(cohort["member_probabilities"])
    thresholds = np.broadcast_to(cohort["thresholds"], (40, 3))[~np.isnan(cohort["labels"])]
    present = p >= thresholds
    bits = agreement.entropy(torch.from_numpy(p)).numpy()
    shared = agreement.entropy(members.mean(dim=1)) - agreement.entropy(members).mean(dim=1)
    signals = {name: signal.sureness for name, signal in decisions.signals.items()}
    assert len(p) == 119
    np.testing.assert_allclose(1 / (1 + np.exp(-signals["confidence"])), np.where(present, p, 1 - p), atol=1e-5)
    np.testing.assert_array_equal(np.argsort(signals["entropy"]), np.argsort(-bits))
    margin = np.where(present, (p - thresholds) / (1 - thresholds), (thresholds - p) / thresholds)
    np.testing.assert_allclose(signals["margin"], margin)
    np.testing.assert_allclose(
        signals["votes"], np.where(present, _flat(cohort, "votes"), 5 - _flat(cohort, "votes")) / 5
    )
    np.testing.assert_allclose(signals["mutual_information"], -shared.numpy()[~np.isnan(cohort["labels"])], atol=1e-6)


def test_confidence_of_stored_vote_shares_ties_as_the_votes_do():
    shares = np.array([[0.2], [0.4], [0.6], [0.8]], np.float32)
    decisions = decide(
        labels=np.zeros((4, 1)), probabilities=shares, thresholds=np.array([0.5]), votes=np.array([[1], [2], [3], [4]]),
        spread=np.zeros((4, 1)), member_probabilities=None, map_agreement=None, located=None, patients=list("abcd"),
        findings=["A"], num_members=5,
    )  # fmt: skip
    confidence, votes = (decisions.signals[name].sureness for name in ("confidence", "votes"))
    np.testing.assert_array_equal(np.unique(confidence, return_inverse=True)[1], [1, 0, 0, 1])
    np.testing.assert_array_equal(np.unique(votes, return_inverse=True)[1], [1, 0, 0, 1])


def test_study_equals_scikit_learn_together_and_per_finding_with_missing_labels():
    cohort = _cohort(1)
    cohort["labels"][np.random.default_rng(2).random((400, 3)) < 0.2] = np.nan
    study = _study(cohort)
    stated = ~np.isnan(cohort["labels"])
    present = cohort["probabilities"] >= cohort["thresholds"]
    wrong, sureness = (cohort["labels"] == 1) != present, -cohort["spread"]
    assert (study.num_decisions, study.num_errors) == (stated.sum(), (wrong & stated).sum())
    assert study.error_rate.value == pytest.approx(wrong[stated].mean())
    spread = study.signals["spread"]
    assert spread.error_auroc.value == pytest.approx(roc_auc_score(wrong[stated], -sureness[stated]))
    each = [roc_auc_score(wrong[stated[:, f], f], -sureness[stated[:, f], f]) for f in range(3)]
    assert spread.macro.value == pytest.approx(np.mean(each))
    assert spread.error_auroc.low < spread.error_auroc.value < spread.error_auroc.high
    right = np.where(present, cohort["probabilities"], 1 - cohort["probabilities"])
    assert study.findings["nodule"].confidence.value == pytest.approx(
        roc_auc_score(wrong[stated[:, 1], 1], -right[stated[:, 1], 1]), abs=1e-4
    )


def test_verdict_names_the_better_one_whichever_it_is():
    plain = _study(_cohort(3, number=1500))
    assert plain.difference_from_confidence.high < 0
    assert "predicts errors worse than confidence" in plain.verdict
    informed = _cohort(3, number=1500, informed=0.9)
    informed["probabilities"] = np.where(informed["probabilities"] >= informed["thresholds"], 0.7, 0.1)
    better = _study(informed)
    assert better.difference_from_confidence.low > 0
    assert (
        f"{better.signals[better.best_agreement_signal].label} predicts errors better than confidence" in better.verdict
    )
    same = _cohort(4)
    same |= {"probabilities": same["votes"] / 5, "thresholds": np.full(3, 0.5), "member_probabilities": None}
    same["spread"] = np.zeros((400, 3))
    equal = _study(same)
    assert equal.best_agreement_signal == "votes"
    assert equal.difference_from_confidence.to_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert "not distinguishably better or worse than confidence" in equal.verdict


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Interval(0.02, 0.01, 0.03), "errors better than"),
        (Interval(0.02, -0.01, 0.05), "errors not distinguishably better or worse than"),
        (Interval(-0.02, -0.05, 0.01), "errors not distinguishably better or worse than"),
        (Interval(-0.02, -0.03, -0.01), "errors worse than"),
    ],
)
def test_compared_says_better_or_worse_only_when_the_interval_does(gap, words):
    result = replace(_study(_cohort(0, number=40), num_draws=5).signals["votes"], difference=gap)
    sentence = compared(result)
    assert words in sentence
    assert gap.words() in sentence


def test_partial_is_positive_only_where_the_members_know_more_than_the_probability():
    informed = _study(_cohort(5, number=2000, informed=0.9), num_draws=100).signals["spread"]
    plain = _study(_cohort(5, number=2000), num_draws=100).signals["spread"]
    assert informed.partial.low > 0.05
    assert plain.partial.low < 0 < plain.partial.high
    assert "more often right" in informed.partial_note


def test_signal_that_only_tells_findings_apart_is_nothing_within_them():
    cohort = _cohort(6, number=1500)
    random = np.random.default_rng(7)
    probabilities = np.broadcast_to([0.45, 0.1, 0.02], (1500, 3))
    cohort["probabilities"] = probabilities
    cohort["labels"] = (random.random((1500, 3)) < probabilities).astype(float)
    cohort["thresholds"] = np.full(3, 0.5)
    cohort["spread"] = np.array([0.3, 0.2, 0.1]) + random.normal(0, 0.001, (1500, 3))
    spread = _study(cohort).signals["spread"]
    assert spread.error_auroc.low > 0.75
    assert spread.within_finding.low < 0.5 < spread.within_finding.high
    assert spread.partial.low < 0 < spread.partial.high


def test_interval_of_the_error_auroc_covers_the_truth_at_its_rate_with_alike_images():
    def cohort(seed, patients):
        random = np.random.default_rng(seed)
        probabilities = np.repeat(random.uniform(0.02, 0.98, (patients, 1)), 4, axis=0)
        labels = np.repeat(random.random((patients, 1)) < probabilities[::4], 4, axis=0).astype(float)
        return {
            "labels": labels, "probabilities": probabilities, "thresholds": np.array([0.5]),
            "votes": np.zeros_like(labels), "spread": np.minimum(probabilities, 1 - probabilities),
            "member_probabilities": None, "map_agreement": None, "located": None,
            "patients": [str(image // 4) for image in range(4 * patients)], "findings": ["A"],
        }  # fmt: skip

    def found(seed, patients, num_draws):
        arrays = cohort(seed, patients)
        decisions = decide(**arrays, num_members=None)
        sureness = decisions.signals["spread"].sureness
        measures = {"spread": detection(decisions, sureness, np.arange(len(sureness)), with_partial=False)}
        estimates = estimate(measures, decisions.num_patients, num_draws=num_draws, seed=seed)
        return estimates["spread"].interval(ERROR_AUROC)

    truth = found(0, 40_000, 1).value
    covered = 0
    for seed in range(1, 201):
        auroc = found(seed, 100, 200)
        covered += auroc.low <= truth <= auroc.high
    assert 180 <= covered <= 198  # 190 of 200 at 95 %


def test_map_agreement_is_compared_on_the_decisions_that_have_maps_and_located_is_counted():
    cohort = _cohort(8)
    present = cohort["probabilities"] >= cohort["thresholds"]
    wrong = (cohort["labels"] == 1) != present
    random = np.random.default_rng(1)
    overlap = np.where(present, random.random((400, 3)) - 0.3 * wrong, np.nan)
    located = np.where(present & ~wrong, (overlap > 0.5), np.nan)
    study = _study(cohort | {"map_agreement": overlap, "located": located})
    maps = study.signals["map_agreement"]
    assert (maps.num_decisions, maps.num_errors) == (present.sum(), wrong[present].sum())
    auroc = roc_auc_score(wrong[present], -overlap[present])
    confidence = roc_auc_score(wrong[present], -cohort["probabilities"][present])
    assert maps.confidence.value == pytest.approx(confidence, abs=1e-4)
    assert maps.difference.value == pytest.approx(auroc - confidence, abs=1e-4)
    assert study.best_agreement_signal != "map_agreement"
    assert "map agreement predicts errors" in study.verdict
    plain = study.to_dict()
    rows = plain["by_map_agreement"]
    assert sum(row["num_decisions"] for row in rows) == present.sum()
    chosen = (overlap >= rows[0]["low"]) & (overlap <= rows[0]["high"]) & ~np.isnan(located)
    assert rows[0]["located"]["count"] == chosen.sum()
    assert [row["located"]["value"] for row in rows][-1] == 1.0
    assert any(note.startswith(f"Map agreement exists for {present.sum():,}") for note in plain["notes"])


def test_by_votes_holds_accuracy_and_calibration_of_each_number_of_votes():
    cohort = _cohort(9)
    study = _study(cohort)
    present = cohort["probabilities"] >= cohort["thresholds"]
    assert [group.votes for group in study.by_votes] == [0, 1, 2, 3, 4, 5]
    for group in study.by_votes:
        chosen = cohort["votes"] == group.votes
        assert group.num_decisions == chosen.sum()
        assert group.accuracy.value == pytest.approx((present == cohort["labels"])[chosen].mean())
        p, truth = cohort["probabilities"][chosen], cohort["labels"][chosen]
        order = np.argsort(p)
        number = max(1, min(10, len(p) // 50))
        bins = [order[np.arange(len(p)) * number // len(p) == k] for k in range(number)]
        error = sum(abs((p[b] - truth[b]).sum()) for b in bins) / len(p)
        assert group.calibration_error.value == pytest.approx(error)
        assert group.to_dict()["located"] is None
    assert sum(group.num_decisions for group in study.by_spread) == 1200
    assert max(group.num_decisions for group in study.by_spread) == 240


def test_no_errors_are_nan_and_said():
    cohort = _cohort(10, number=60)
    cohort["labels"] = (cohort["probabilities"] >= cohort["thresholds"]).astype(float)
    study = _study(cohort)
    plain = study.to_dict()
    assert plain["signals"]["confidence"]["error_auroc"] == {"value": None, "low": None, "high": None}
    assert plain["signals"]["votes"]["aurc"]["value"] == 0.0
    assert study.best_agreement_signal is None
    assert study.verdict == "Of 180 decisions none is wrong, so nothing can be said of what predicts an error."
    assert "Without a wrong decision, and so undefined: effusion, nodule, cardiomegaly." in study.notes
    json.dumps(plain, allow_nan=False)
    assert any("undefined" in line for line in study.lines())


def test_one_member_has_no_agreement_and_no_best_signal():
    cohort = _cohort(11, members=1)
    cohort["votes"] = (cohort["probabilities"] >= cohort["thresholds"]).astype(int)
    study = _study(cohort)
    assert study.num_members == 1
    assert study.best_agreement_signal is None
    assert study.signals["votes"].error_auroc.value == 0.5
    assert np.isnan(study.signals["spread"].partial.value)
    assert "no agreement signal varies" in study.verdict
    assert "The ensemble has one member, so there is no agreement to measure." in study.notes
    json.dumps(study.to_dict(), allow_nan=False)


def test_no_stated_label_is_no_decision():
    cohort = _cohort(12, number=30)
    cohort["labels"] = np.full((30, 3), np.nan)
    study = _study(cohort | {"map_agreement": np.full((30, 3), np.nan)})
    assert study.num_decisions == 0
    assert study.by_votes == []
    json.dumps(study.to_dict(), allow_nan=False)
    assert study.lines()


def test_lines_hold_every_signal_every_vote_and_the_verdict():
    study = _study(_cohort(13))
    lines = study.lines()
    for signal in study.signals.values():
        (line,) = [line for line in lines if line.startswith(f"{signal.label} ") and signal.error_auroc.words() in line]
        assert signal.aurc.words() in line
    assert [line.split()[0] for line in lines if line[0].isdigit()][1:] == ["0", "1", "2", "3", "4", "5"]
    assert study.verdict in lines
    start = next(number for number, line in enumerate(lines) if line.startswith("errors found"))
    best = study.signals[study.best_agreement_signal]
    side_by_side = [best.confidence, best.error_auroc, best.difference]
    for line, interval in zip(lines[start + 1 : start + 4], side_by_side, strict=True):
        assert interval.words() in line
    assert lines[start + 2].startswith(f"by {best.label}, best of agreement ")
    assert max(len(line) for line in lines[:-3] if line != study.verdict) <= 135


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels", lambda grid: np.where(grid == 1, 2.0, grid), "labels must be"),
        ("probabilities", lambda grid: np.where(grid > 0.9, np.nan, grid), "leave images without a score out"),
        ("votes", lambda grid: grid + 1, "6 votes of 5 members"),
        ("spread", lambda grid: -grid, "must not be negative"),
        ("spread", lambda grid: grid[:, :2], "labels are"),
        ("thresholds", lambda grid: grid[:2], "thresholds have shape"),
        ("member_probabilities", lambda grid: grid.transpose(1, 0, 2), "member probabilities are"),
        ("patients", lambda names: names[1:], "399 patients"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name, change, message):
    cohort = _cohort(0)
    with pytest.raises(ValueError, match=message):
        _study(cohort | {name: change(cohort[name])})
