import numpy as np
import pytest

from cxr_ray.evaluation.bootstrap import Interval, drawn_weights
from cxr_ray.evaluation.localisation.measures import (
    MEASURES,
    against_best,
    mean_interval,
    measure,
    segment,
    summarise,
    verdict,
)
from cxr_ray.images.preprocess import Placement

PLACE = Placement(2.0, 0.0, 2.0, 0.0)  # a film of 32 x 32 pixels in an input of 16 x 16


def measured(cells, lesion, placement=PLACE, height=32, width=32):
    heatmap = np.zeros((4, 4), np.uint8)
    for (row, column), value in cells.items():
        heatmap[row, column] = value
    values = measure(heatmap, lesion, placement=placement, height=height, width=width)
    return dict(zip(MEASURES, values.tolist(), strict=True))


def square(top, left, bottom, right):
    lesion = np.zeros((16, 16), bool)
    lesion[top:bottom, left:right] = True
    return lesion


def test_measure_map_on_its_lesion_has_the_overlaps_of_the_box():
    found = measured({(1, 2): 255, (1, 3): 128, (3, 0): 127}, square(4, 8, 8, 12))
    # Half of 255 is 127.5: the box is the two cells rows 4 to 8, columns 8 to 16, of which the lesion is half.
    assert (found["pointing_game"], found["hit_rate"]) == (1.0, 1.0)
    assert found["iou"] == pytest.approx(16 / 32)
    assert found["iobb"] == pytest.approx(16 / 32)


def test_measure_map_beside_its_lesion_misses():
    found = measured({(0, 0): 255}, square(8, 8, 16, 16))
    assert found == dict.fromkeys(MEASURES, 0.0)


def test_measure_peak_just_beside_is_a_hit_within_three_percent_of_the_film():
    # The middle of cell (1, 2) of 4 is (6, 10); 0.03 of 400 film pixels are 12, so 0.48 of an input pixel of 25.
    place = Placement(25.0, 0.0, 25.0, 0.0)
    lesion = square(6, 10, 7, 11)
    near = measured({(1, 2): 255}, lesion, place, 400, 400)
    assert near["pointing_game"] == 1.0
    shifted = np.roll(lesion, -1, axis=0)  # pixel 5 covers [5, 6): the peak at 6.0 lies on its edge, not in it
    beside = measured({(1, 2): 255}, shifted, place, 400, 400)
    assert (beside["pointing_game"], beside["pointing_game_tolerant"]) == (0.0, 1.0)
    far = measured({(1, 2): 255}, np.roll(lesion, -2, axis=0), place, 400, 400)
    assert (far["pointing_game"], far["pointing_game_tolerant"]) == (0.0, 0.0)


def test_measure_margin_that_pads_the_film_takes_no_part():
    # A film of 32 x 16 pixels in the middle of the input: the margin is columns 0 to 4 and 12 to 16.
    place = Placement(2.0, 0.0, 2.0, -8.0)
    heatmap = np.zeros((16, 16), np.uint8)
    heatmap[:, :4], heatmap[:, 4:8] = 255, 100
    values = measure(heatmap, square(0, 4, 8, 8), placement=place, height=32, width=16)
    found = dict(zip(MEASURES, values.tolist(), strict=True))
    assert found["hit_rate"] == 1.0
    # On the film Otsu parts 100 from 0: columns 4 to 8, of whose 64 pixels the lesion is half. With the margin it would
    # part 255 from 100 (0.75 x 0.25 x 221.7^2 = 9213 between the classes, against 0.5 x 0.5 x 177.5^2 = 7877).
    assert found["miou"] == pytest.approx(32 / 64)


def test_measure_peak_of_the_interpolated_map_leans_to_the_brighter_neighbours():
    # Of the strongest cell, rows 4 to 8 and columns 8 to 12, pixel (5, 9) lies nearest to the neighbours of 128 above
    # and to the left: 0.875 x (0.875 x 255 + 0.125 x 128) + 0.125 x 0.875 x 128 = 223.2 beside 209.2 at (5, 10).
    # The cell's middle is in pixel (6, 10), its first pixel is (4, 8).
    cells = {(1, 2): 255, (1, 1): 128, (0, 2): 128}
    assert measured(cells, square(5, 9, 6, 10))["hit_rate"] == 1.0
    for row, column in ((6, 10), (4, 8)):
        assert measured(cells, square(row, column, row + 1, column + 1))["hit_rate"] == 0.0


def test_measure_empty_map_is_zero_in_all():
    assert measured({}, square(0, 0, 16, 16)) == dict.fromkeys(MEASURES, 0.0)


def test_measure_map_of_one_half_of_the_film_has_the_overlap_of_its_segment():
    heatmap = np.zeros((16, 16), np.uint8)
    heatmap[:, :8] = 255
    lesion = square(0, 0, 8, 16)
    values = measure(heatmap, lesion, placement=PLACE, height=32, width=32)
    assert values[MEASURES.index("miou")] == pytest.approx(64 / 192)


def test_segment_threshold_separates_the_classes_best_of_all():
    heatmap = np.random.default_rng(0).normal([[0.2]] * 12 + [[0.8]] * 5, 0.1, (17, 13))
    grey = (255 * (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())).astype(np.uint8)

    def between(threshold):
        low, high = grey[grey <= threshold], grey[grey > threshold]
        return 0.0 if not len(low) or not len(high) else len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(range(256), key=between)
    np.testing.assert_array_equal(segment(heatmap), grey > best)
    assert not segment(np.full((4, 5), 0.3)).any()


def test_mean_interval_equals_a_bootstrap_by_loops():
    patients = ["a", "a", "b", "c", "d", "e", "e"]
    values = np.array([1.0, 0.0, np.nan, 1.0, 0.5, 0.25, 0.0])
    (weights,) = drawn_weights(patients, num_draws=200, seed=3)
    means = []
    for draw in weights:
        chosen = [value for value, often in zip(values, draw, strict=True) for _ in range(int(often))]
        chosen = [value for value in chosen if not np.isnan(value)]
        means.append(np.mean(chosen) if chosen else np.nan)
    found = mean_interval(values, weights)
    assert found.value == pytest.approx(np.nanmean(values))
    np.testing.assert_allclose((found.low, found.high), np.nanpercentile(means, [2.5, 97.5]))


def test_summarise_counts_maps_and_shares_of_iobb():
    values = np.zeros((4, 6))
    values[:, MEASURES.index("iobb")] = [0.05, 0.3, 0.8, np.nan]
    found = summarise(values, np.ones((10, 4)))
    assert found["num_maps"] == 3
    assert [found["iobb"][t]["value"] for t in ("0.1", "0.25", "0.5", "0.75", "0.9")] == pytest.approx(
        [2 / 3, 2 / 3, 1 / 3, 1 / 3, 0.0]
    )


def test_against_best_members_of_equal_worth_are_not_made_better_by_choosing():
    # Ten members and the ensemble are the same coin: the best in hindsight would seem ahead by about 0.1.
    random = np.random.default_rng(5)
    patients = [str(number) for number in range(300)]
    gains = []
    for trial in range(40):
        coins = random.integers(0, 2, (300, 11)).astype(float)
        weights = np.ones((2, 300))
        found = against_best(coins[:, 0], coins[:, 1:], patients=patients, weights=weights, seed=trial)
        gains.append(found.value)
    assert np.mean(gains) == pytest.approx(0.0, abs=0.02)


def test_against_best_compares_with_the_better_member_of_the_same_pairs():
    patients = [str(number) for number in range(60)]
    ensemble = np.tile([1.0, 1.0, 0.0], 20)
    members = np.stack([np.zeros(60), np.tile([1.0, 0.0, 0.0], 20)], axis=1)
    weights = np.concatenate(list(drawn_weights(patients, num_draws=300, seed=0)))
    found = against_best(ensemble, members, patients=patients, weights=weights, seed=0)
    assert found.value == pytest.approx(1 / 3)
    assert 0.2 < found.low < 1 / 3 < found.high < 0.5


def test_verdict_says_what_the_intervals_say():
    better, unclear, worse = Interval(0.1, 0.05, 0.2), Interval(0.1, -0.05, 0.2), Interval(-0.1, -0.2, -0.05)
    assert "better in pointing game (0.100 (0.050 to 0.200)) and not shown to differ in mIoU" in verdict(
        better, unclear, num_members=3
    )
    assert "worse in pointing game" in verdict(worse, better, num_members=3)
    assert verdict(better, better, num_members=1).startswith("The ensemble has one member")
