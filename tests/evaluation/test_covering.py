import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.evaluation.localisation.covering import covered, lengths, most_covered
from cxr_ray.images.preprocess import Placement


def by_loops(mask, placement, size):
    """Each cell's covered area, pixel by pixel."""
    shares = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            top, left = (
                i * placement.row_scale + placement.row_offset,
                j * placement.column_scale + placement.column_offset,
            )
            for row, column in np.argwhere(mask):
                down = max(0.0, min(top + placement.row_scale, row + 1) - max(top, row))
                across = max(0.0, min(left + placement.column_scale, column + 1) - max(left, column))
                shares[i, j] += down * across / (placement.row_scale * placement.column_scale)
    return shares


@pytest.mark.parametrize(
    "placement", [Placement(3.3, -4.0, 2.7, 0.0), Placement(0.6, 0.0, 0.8, -1.3), Placement(2.0, 0.0, 2.0, 0.0)]
)
def test_covered_equals_areas_added_up_by_loops(placement):
    mask = np.random.default_rng(0).random((13, 17)) < 0.3
    np.testing.assert_allclose(covered(mask, placement, size=7), by_loops(mask, placement, 7), atol=1e-12)


def test_most_covered_nodule_smaller_than_a_cell_is_one_cell_in_its_place():
    mask = np.zeros((2500, 2000), bool)
    mask[1253:1256, 401:404] = True  # 9 pixels of a cell of 125
    placement = Placement(11.16, 0.0, 11.16, -250.0)
    found = np.argwhere(most_covered(covered(mask, placement, size=224)))
    assert found.tolist() == [[1254 // 11.16, (402 + 250) // 11.16]]


def test_most_covered_line_between_two_cells_keeps_its_area():
    mask = np.zeros((40, 40), bool)
    mask[6:10] = True  # cells of 8: two rows of a half each, that a cut above one half would lose
    assert most_covered(covered(mask, Placement(8.0, 0.0, 8.0, 0.0), size=5)).sum() == round(4 * 40 / 64)


def test_most_covered_nothing_marked_stays_empty():
    assert not most_covered(covered(np.zeros((9, 8), bool), Placement(2.0, 0.0, 2.0, 0.0), size=4)).any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 30), st.floats(0.5, 9.0))
def test_most_covered_area_is_that_of_the_film_within_half_a_cell(top, height, left, width, scale):
    mask = np.zeros((60, 60), bool)
    mask[top : top + height, left : left + width] = True
    size = int(np.ceil(60 / scale))
    found = most_covered(covered(mask, Placement(scale, 0.0, scale, 0.0), size=size)).sum()
    assert found >= 1
    assert abs(found - max(1.0, mask.sum() / scale**2)) <= 0.5 + 1e-6


def test_lengths_of_a_stretch_over_four_cells():
    np.testing.assert_allclose(lengths(0.25, 2.5, 4), [0.75, 1.0, 0.5, 0.0])
