import numpy as np
import pytest

from cxr_ray.evaluation.localisation.faithfulness import area, blurred, curves, order_of, summarise


def test_curves_of_a_linear_score_are_the_sums_of_the_pixels_taken():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (16, 16)).astype(np.uint8)
    weights = random.random((16, 16)) / 255 / 256
    heatmap = random.permutation(256).reshape(16, 16).astype(np.uint8)

    def score(images):
        return np.stack([np.zeros(len(images)), (images * weights).sum(axis=(1, 2))], axis=1)

    found = curves(score, pixels, 1, [heatmap], num_steps=4, seed=0)[0]
    blank = blurred(pixels).astype(float)
    for step in range(5):
        image, other = pixels.astype(float), blank.copy()
        for value in range(256):
            if value >= 256 - step * 64:  # the strongest first
                place = tuple(np.argwhere(heatmap == value)[0])
                image[place], other[place] = blank[place], pixels[place]
        assert found[0, step] == pytest.approx((image * weights).sum())
        assert found[1, step] == pytest.approx((other * weights).sum())


def test_curves_the_map_of_the_pixels_that_count_falls_first():
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4:8, 8:12] = 255
    marked = np.zeros((4, 4), np.uint8)
    marked[1, 2] = 255
    elsewhere = np.zeros((4, 4), np.uint8)
    elsewhere[3, 0] = 255

    def score(images):
        return images[:, 4:8, 8:12].mean(axis=(1, 2), keepdims=True)[:, :, 0] / 255

    right, wrong = curves(score, pixels, 0, [marked, elsewhere], num_steps=8, seed=0)
    assert area(right[0]) < area(wrong[0])
    assert area(right[1]) > area(wrong[1])
    assert right[0, 0] == wrong[0, 0] == 1.0
    assert right[0, -1] == wrong[0, -1] == right[1, 0] == wrong[1, 0]


def test_order_of_equal_cells_is_drawn_and_not_from_the_top():
    flat = order_of(np.zeros((4, 4), np.uint8), 16, seed=0)
    assert sorted(flat.tolist()) == list(range(256))
    assert 90 < flat[:128].mean() < 165


def test_area_is_numpy_s_trapezoid_over_shares():
    curve = np.random.default_rng(0).random((3, 2, 11))
    np.testing.assert_allclose(area(curve), np.trapezoid(curve, np.linspace(0, 1, 11), axis=-1))


def test_summarise_leaves_pairs_without_a_map_out():
    found = np.full((3, 2, 3), np.nan)
    found[0], found[1] = 0.5, 1.0
    values = summarise(found, np.ones((4, 3)))
    assert values["deletion"] == [[0.0, 0.75], [0.5, 0.75], [1.0, 0.75]]
    assert values["insertion_auc"]["value"] == pytest.approx(0.75)
