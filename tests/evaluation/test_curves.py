import numpy as np
import pytest
from sklearn.metrics import auc

from cxr_ray.evaluation.performance.curves import MAX_POINTS, curves, thinned


def test_curves_thinned_keep_their_ends_and_their_area():
    random = np.random.default_rng(0)
    labels = (random.random((5_000, 1)) < 0.3).astype(float)
    scores = (random.random((5_000, 1)) + 0.4 * labels) / 1.4
    patients = [str(number) for number in range(5_000)]
    found = curves(labels, scores, patients=patients, findings=["Mass"], num_draws=0, seed=0)["Mass"]
    roc, pr = np.array(found["roc"]), np.array(found["pr"])
    assert len(roc) <= MAX_POINTS
    assert len(pr) <= MAX_POINTS
    positives, negatives = scores[labels == 1], scores[labels == 0]
    pairs = (positives[:, None] > negatives[None]).mean()
    assert auc(roc[:, 0], roc[:, 1]) == pytest.approx(pairs, abs=2e-3)
    assert (roc[0].tolist(), roc[-1].tolist()) == ([0, 0], [1, 1])
    assert pr[0].tolist() == [0, 1]
    assert (np.diff(roc, axis=0) >= 0).all()


def test_thinned_short_curve_stays_as_it_is():
    assert thinned([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]) == [[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]


def test_curves_interval_of_a_bin_is_by_patient():
    random = np.random.default_rng(1)
    owner = np.repeat(np.arange(10), 40)
    labels = np.column_stack([(owner % 2).astype(float), np.full(400, np.nan)])
    scores = random.random((400, 2))
    alone, together = (
        curves(labels, scores, patients=[str(n) for n in names], findings=["Mass", "Nodule"], num_draws=300, seed=0)
        for names in (np.arange(400), owner)
    )
    assert alone["Nodule"] == {"roc": [], "pr": [], "reliability": []}
    widths = [[one["high"] - one["low"] for one in found["Mass"]["reliability"]] for found in (alone, together)]
    # Of 40 images about half are positive: 2 x 1.96 x sqrt(0.25 / 40); 10 patients say no more than 10 images.
    assert np.mean(widths[0]) == pytest.approx(3.92 * np.sqrt(0.25 / 40), rel=0.1)
    assert np.mean(widths[1]) > 1.7 * np.mean(widths[0])
