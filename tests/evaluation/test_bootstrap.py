"""Intervals by drawing patients: every draw against scikit-learn on the repeated images, and coverage of clusters."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_ray.evaluation import bootstrap
from cxr_ray.evaluation.metrics import MEASURES, finding_metrics
from cxr_ray.evaluation.performance import measured


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_metrics_equal_scikit_learn_on_repeated_images(ties):
    random = np.random.default_rng(3)
    truth, scores = random.random(37) < 0.4, random.random(37)
    scores = np.round(scores, 1) if ties else scores
    weights = random.integers(0, 4, (6, 37)).astype(float)
    aurocs = bootstrap.weighted_auroc(truth, scores, weights)
    precisions = bootstrap.weighted_average_precision(truth, scores, weights)
    for number, row in enumerate(weights.astype(int)):
        labels, values = np.repeat(truth, row), np.repeat(scores, row)
        assert aurocs[number] == pytest.approx(roc_auc_score(labels, values))
        assert precisions[number] == pytest.approx(average_precision_score(labels, values))


def test_draw_patients_stay_whole_and_a_seed_repeats():
    patients = ["a"] * 3 + ["b"] * 2 + ["c"]
    (weights,) = bootstrap.drawn_weights(patients, num_draws=50, seed=1)
    assert (weights[:, :3] == weights[:, :1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 3] + weights[:, 5] == 3).all()
    (again,) = bootstrap.drawn_weights(patients, num_draws=50, seed=1)
    np.testing.assert_array_equal(weights, again)


def test_intervals_many_alike_images_of_a_patient_do_not_narrow_them():
    random = np.random.default_rng(0)
    truth = (random.random((60, 1)) < 0.5).astype(float)
    scores = np.clip(0.25 * truth + 0.7 * random.random((60, 1)), 0, 1)
    owner = np.arange(60)
    once, tenfold, naive = (
        bootstrap.intervals(
            np.repeat(truth, times, axis=0),
            np.repeat(scores, times, axis=0),
            thresholds=(0.5,),
            patients=[str(name) for name in names],
            findings=("A",),
        ).loc["A", ["auroc_low", "auroc_high"]]
        for times, names in ((1, owner), (10, np.repeat(owner, 10)), (10, np.arange(600)))
    )
    widths = [float(bounds["auroc_high"] - bounds["auroc_low"]) for bounds in (once, tenfold, naive)]
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] < 0.5 * widths[0]


def test_intervals_undefined_finding_is_nan_and_macro_is_over_the_others():
    random = np.random.default_rng(1)
    labels = np.column_stack([random.integers(0, 2, 40), np.zeros(40), np.full(40, np.nan)]).astype(float)
    frame = bootstrap.intervals(
        labels,
        random.random((40, 3)),
        thresholds=(0.5, 0.5, 0.5),
        patients=[str(number // 2) for number in range(40)],
        findings=("A", "B", "C"),
        num_draws=200,
    )
    assert frame.loc[["B", "C"]].isna().all(axis=None)
    np.testing.assert_allclose(frame.loc["macro"], frame.loc["A"])


def test_percentiles_mostly_undefined_draws_give_no_interval():
    values = np.column_stack([np.linspace(0, 1, 100), np.linspace(0, 1, 100)])
    values[:40, 0] = values[:60, 1] = np.nan
    low, high = bootstrap.percentiles(values)
    assert not np.isnan([low[0], high[0]]).any()
    assert np.isnan([low[1], high[1]]).all()


def test_draw_in_blocks_equals_one_block_of_the_same_patients(monkeypatch):
    random = np.random.default_rng(2)
    labels, scores = random.integers(0, 2, (20, 2)).astype(float), random.random((20, 2))
    arguments = {"thresholds": (0.5, 0.5), "patients": [str(n) for n in range(20)], "num_draws": 9}
    whole = bootstrap.draw(labels, scores, **arguments)
    monkeypatch.setattr(bootstrap, "_VALUES_AT_ONCE", 80)
    for metric, values in bootstrap.draw(labels, scores, **arguments).items():
        np.testing.assert_allclose(values, whole[metric])


def grid(seed, *, num_images=60, ties=True):
    """Labels with unstated ones, one finding of one class and one without labels; scores, with ties; patients."""
    random = np.random.default_rng(seed)
    labels = random.choice([0.0, 1.0, np.nan], (num_images, 5), p=[0.5, 0.3, 0.2])
    labels[:, 3], labels[:, 4] = np.where(np.isnan(labels[:, 3]), np.nan, 0.0), np.nan
    scores = random.random((num_images, 5)).astype(np.float32)
    patients = [f"p{number}" for number in random.integers(0, 20, num_images)]
    return labels, np.round(scores, 1) if ties else scores, patients


@pytest.mark.parametrize("ties", [False, True])
def test_draw_every_measure_equals_that_of_the_rows_drawn(ties):
    labels, scores, patients = grid(5, ties=ties)
    thresholds = (0.5, 0.3, 0.7, 0.5, 0.5)
    drawn = bootstrap.draw(labels, scores, thresholds=thresholds, patients=patients, num_draws=12, seed=4)
    (weights,) = bootstrap.drawn_weights(patients, num_draws=12, seed=4)
    for number, row in enumerate(weights.astype(int)):
        repeated = np.repeat(np.arange(len(row)), row)
        expected = finding_metrics(labels[repeated], scores[repeated], thresholds, list("ABCDE"))
        # The bins of the calibration error stay those of the full sample: another reference, below.
        for measure in {*MEASURES, "prevalence"} - {"calibration_error"}:
            np.testing.assert_allclose(drawn[measure][number], expected[measure], err_msg=measure)


@pytest.mark.parametrize("ties", [False, True])
def test_draw_calibration_error_keeps_the_bins_of_the_full_sample(ties):
    labels, scores, patients = grid(6, ties=ties)
    drawn = bootstrap.draw(labels, scores, thresholds=(0.5,) * 5, patients=patients, num_draws=7, seed=1)
    (weights,) = bootstrap.drawn_weights(patients, num_draws=7, seed=1)
    stated = np.flatnonzero(~np.isnan(labels[:, 0]))
    ordered = np.sort(scores[stated, 0])
    places = [int(np.flatnonzero(ordered == score)[0]) * 10 // len(ordered) for score in scores[stated, 0]]
    parts = [stated[np.array(places) == number] for number in range(10)]
    for number, row in enumerate(weights):
        gaps = [abs(sum(row[image] * (scores[image, 0] - labels[image, 0]) for image in part)) for part in parts]
        assert drawn["calibration_error"][number, 0] == pytest.approx(sum(gaps) / row[stated].sum())
    assert np.isnan(drawn["calibration_error"][:, 4]).all()


def test_draw_everyone_once_gives_the_values_themselves():
    labels, scores, _ = grid(7)
    drawn = bootstrap.draw(labels, scores, thresholds=(0.5,) * 5, patients=["one"] * 60, num_draws=1)
    points = finding_metrics(labels, scores, [0.5] * 5, list("ABCDE"))
    for measure in MEASURES:
        np.testing.assert_allclose(drawn[measure][0], points[measure], err_msg=measure)


def test_draw_none_gives_no_draws_and_a_group_leaves_the_draws_of_the_others_alone():
    labels, scores, patients = grid(8)
    arguments = {"thresholds": (0.5,) * 5, "patients": patients, "seed": 2}
    assert bootstrap.draw(labels, scores, num_draws=0, **arguments)["auroc"].shape == (0, 5)
    masked = labels.copy()
    masked[:30, 1:] = np.nan
    whole, part = (bootstrap.draw(truth, scores, num_draws=9, **arguments) for truth in (labels, masked))
    np.testing.assert_array_equal(whole["mcc"][:, 0], part["mcc"][:, 0])
    assert not np.array_equal(whole["mcc"][:, 1], part["mcc"][:, 1])


def test_intervals_macro_with_a_rare_finding_is_over_the_draws_that_hold_it():
    # One finding told perfectly, one of two positives whose AUROC is near 0: draws without these two have a macro of 1,
    # which is no macro of both.
    random = np.random.default_rng(5)
    labels = np.zeros((200, 2))
    labels[:100, 0], labels[:2, 1] = 1.0, 1.0
    scores = np.column_stack([labels[:, 0] * 0.5 + 0.4 * random.random(200), 0.1 + 0.5 * random.random(200)])
    scores[:2, 1] = 0.15
    arguments = {"thresholds": (0.5, 0.5), "patients": [str(n) for n in range(200)], "findings": ("A", "B")}
    frame = bootstrap.intervals(labels, scores, **arguments)
    value = finding_metrics(labels, scores, (0.5, 0.5), ("A", "B"))["auroc"].mean()
    assert frame.loc["macro", "auroc_low"] < value < frame.loc["macro", "auroc_high"] < 0.65


def test_interval_of_distance_makes_up_for_what_noise_adds():
    found = bootstrap.Interval.of_distance(0.05, np.linspace(0.05, 0.09, 401))
    assert (found.low, found.high) == pytest.approx((0.011, 0.049))
    assert bootstrap.Interval.of_distance(0.02, np.linspace(0.03, 0.09, 401)).low == 0.0
    assert np.isnan(bootstrap.Interval.of_distance(float("nan"), np.linspace(0, 1, 9)).low)
    assert np.isnan(bootstrap.Interval.of_distance(0.1, np.full(9, np.nan)).high)


def test_intervals_hold_the_truth_of_rare_findings_their_mean_and_their_calibration_at_the_nominal_rate():
    # Two findings, 5 and 10 % of 600 patients; scores are N(d x label, 1), probabilities the true posterior less a
    # half in the logit, so that the true calibration error is the mean of |p - posterior| wherever that has one sign.
    # 200 simulations: 4 standard deviations (1.54 %) below and 3 above 0.95. The calibration error is held less often,
    # as said at Interval.of_distance.
    random = np.random.default_rng(17)
    separation, shares, repeats, shift = 1.5, np.array([0.05, 0.10]), 200, 0.5
    auroc = norm.cdf(separation / np.sqrt(2))

    def drawn_sample(number):
        truth = random.random((number, 2)) < shares
        values = separation * truth + random.normal(size=(number, 2))
        logits = np.log(shares / (1 - shares)) + separation * values - separation**2 / 2
        posterior, said = (1 / (1 + np.exp(-logits - move)) for move in (0.0, -shift))
        return truth.astype(float), said, posterior

    truth, said, posterior = drawn_sample(400_000)
    error = np.abs(said - posterior).mean(axis=0)
    precision = [average_precision_score(truth[:, f], said[:, f]) for f in range(2)]
    names, held = [str(number) for number in range(600)], dict.fromkeys(("auroc", "macro", "precision", "error"), 0)
    for number in range(repeats):
        truth, said, _ = drawn_sample(600)
        found = measured.measure(
            truth,
            said,
            thresholds=(0.3, 0.3),
            patients=names,
            findings=("A", "B"),
            num_draws=300,
            seed=number,
        )
        checked = {
            "auroc": (found.interval(0, "auroc"), auroc),
            "macro": (found.macro("auroc"), auroc),
            "precision": (found.macro("average_precision"), np.mean(precision)),
            "error": (found.macro("calibration_error"), error.mean()),
        }
        for name, (interval, value) in checked.items():
            held[name] += interval.low <= value <= interval.high
    rates = {name: count / repeats for name, count in held.items()}
    assert all(0.89 <= rates[name] <= 0.995 for name in ("auroc", "macro", "precision")), rates
    assert rates["error"] >= 0.85, rates


def test_intervals_of_clustered_patients_hold_the_true_values_at_their_nominal_rate():
    # Patients of three alike images; a score is N(d x label, 1) with a part common to the patient, so that AUROC is
    # Phi(d / sqrt 2), sensitivity at c is Phi(d - c), specificity Phi(c), whatever the correlation. Of 300 simulations
    # a 95 % interval misses Binomial(300, 0.05); percentile intervals of 80 patients run a little short. 0.90 to 0.985
    # is 4 standard deviations (1.26 %) below and 2.8 above; drawing images would make them short by a root of three.
    random = np.random.default_rng(11)
    separation, cut, repeats = 1.2, 0.6, 300
    true = {
        "auroc": norm.cdf(separation / np.sqrt(2)),
        "sensitivity": norm.cdf(separation - cut),
        "specificity": norm.cdf(cut),
    }
    owner = np.repeat(np.arange(80), 3)
    held = dict.fromkeys(true, 0)
    for number in range(repeats):
        truth = (random.random(80) < 0.5)[owner]
        noise = np.sqrt(0.7) * random.normal(size=80)[owner] + np.sqrt(0.3) * random.normal(size=240)
        scores = norm.cdf(separation * truth + noise)[:, None]
        drawn = bootstrap.draw(
            truth[:, None].astype(float),
            scores,
            thresholds=(norm.cdf(cut),),
            patients=[str(name) for name in owner],
            num_draws=400,
            seed=number,
        )
        for measure, value in true.items():
            (low,), (high,) = bootstrap.percentiles(drawn[measure])
            held[measure] += low <= value <= high
    shares = {measure: count / repeats for measure, count in held.items()}
    assert all(0.90 <= share <= 0.985 for share in shares.values()), shares
