"""Masks of shutters and collimators against plain geometry and matplotlib, and what becomes of the pixels outside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from numpy.testing import assert_array_equal

from cxr_ray.images.dicom.shutter import Opening, outside
from tests.images.golden.building import dicom, float_dicom

EDGES = {"LeftVerticalEdge": 6, "RightVerticalEdge": 40, "UpperHorizontalEdge": 4, "LowerHorizontalEdge": 55}
INSIDE = (slice(3, 55), slice(5, 40))
OUTSIDE = np.pad(np.zeros((52, 35), bool), ((3, 7), (5, 7)), constant_values=True)


def rectangle(device: str, **changed: object) -> dict[str, object]:
    """The attributes of a rectangular shutter or collimator on a film of 62 x 47."""
    edges = {f"{device}{edge}": value for edge, value in {**EDGES, **changed}.items()}
    return {f"{device}Shape": "RECTANGULAR", **edges}


def test_outside_rectangle_edges_count_from_one_and_are_inside():
    mask = outside(Opening(rectangle=(2, 4, 3, 5)), (6, 7))
    expected = np.ones((6, 7), bool)
    expected[2:5, 1:4] = False
    assert_array_equal(mask, expected)


def test_outside_circle_by_the_distance_of_centres():
    mask = outside(Opening(circle=(4.0, 5.0, 2.0)), (8, 9))
    row, column = np.mgrid[1:9, 1:10]
    assert_array_equal(mask, np.hypot(row - 4, column - 5) > 2)


@given(
    st.lists(st.tuples(st.integers(-5, 30), st.integers(-5, 36)), min_size=3, max_size=3, unique=True),
    st.floats(0.01, 0.49),
)
def test_outside_polygon_equals_matplotlib(corners, off):
    vertices = tuple((row + off, column + off / 2) for row, column in corners)
    row, column = np.mgrid[1:26, 1:32]
    points = np.column_stack([row.ravel(), column.ravel()])
    near = Polygon(vertices).contains_points(points, radius=1e-6) != Polygon(vertices).contains_points(
        points, radius=-1e-6
    )
    inside = Polygon(vertices).contains_points(points).reshape(row.shape)
    mask = outside(Opening(polygon=vertices), row.shape)
    if inside.mean() < 0.05 or inside.all():
        assert mask is None
    else:
        clear = ~near.reshape(row.shape)
        assert_array_equal(mask[clear], ~inside[clear])


def test_outside_several_shapes_only_what_is_common_stays():
    shapes = {"rectangle": (2, 6, 1, 9), "circle": (5.0, 5.0, 4.0), "polygon": ((0, 0), (0, 12), (12, 0))}
    alone = [outside(Opening(**{name: numbers}), (9, 8)) for name, numbers in shapes.items()]
    assert_array_equal(outside(Opening(**shapes), (9, 8)), np.logical_or.reduce(alone))


@given(step=st.sampled_from([1, 2, 4, 8]), rows=st.integers(40, 70), columns=st.integers(40, 70))
def test_outside_of_a_reduced_film_is_every_nth_pixel_of_the_mask(step, rows, columns):
    opening = Opening(rectangle=(5, 31, 9, 38), circle=(22, 19, 21))
    whole = outside(opening, (rows, columns))
    reduced = outside(opening, (-(-rows // step), -(-columns // step)), step=step)
    assert_array_equal(reduced, whole[::step, ::step])


@pytest.mark.parametrize(
    "opening",
    [
        Opening(),
        Opening(rectangle=(1, 20, 1, 30)),
        Opening(rectangle=(0, 0, 0, 0)),
        Opening(rectangle=(20, 1, 30, 1)),
        Opening(circle=(500, 500, 10)),
        Opening(polygon=((3, 4),)),
    ],
    ids=["nothing said", "whole film", "zeros", "edges swapped", "beside the film", "one vertex"],
)
def test_outside_nothing_or_nearly_all_none(opening):
    assert outside(opening, (30, 20)) is None


def test_shutter_pixels_outside_black_and_out_of_the_percentiles(show, film):
    bordered = np.where(OUTSIDE, 4095, film.clip(300, 3000)).astype(np.uint16)
    bordered[:2, ::3] = 2  # two values outside, so that it is no uniform border
    pixels = show(dicom(bordered, **rectangle("Shutter"))).pixels
    assert_array_equal(pixels[INSIDE], show(dicom(bordered[INSIDE])).pixels)
    assert not pixels[OUTSIDE].any()


def test_collimator_pixels_outside_shown_but_out_of_the_percentiles(show, film):
    bordered = np.where(OUTSIDE, 1700, film.clip(300, 3000)).astype(np.uint16)
    bordered[:2, ::3], bordered[30, 20] = 4000, 1700
    pixels = show(dicom(bordered, **rectangle("Collimator"))).pixels
    assert_array_equal(pixels[INSIDE], show(dicom(bordered[INSIDE])).pixels)
    assert_array_equal(pixels[60], np.full(47, pixels[30, 20]))
    assert 0.1 < pixels[30, 20] < 0.9
    assert pixels[0, 0] == 1.0


def test_collimator_decides_whether_a_window_shows_the_film(show, film):
    """The window holds only what lies outside the field."""
    bordered = np.where(OUTSIDE, film % 90 + 4000, film.clip(300, 3000)).astype(np.uint16)
    window = {"WindowCenter": 4045, "WindowWidth": 90}
    assert show(dicom(bordered, **window)).voi_source == "window"
    assert show(dicom(bordered, **window, **rectangle("Collimator"))).voi_source == "percentiles"


def test_shutter_on_float_pixels_black_and_uncounted(show, film):
    values = np.where(OUTSIDE, 1e6, film.astype(np.float32)).astype(np.float32)
    values[0, :9] = -1e6
    pixels = show(float_dicom(values, **rectangle("Shutter"))).pixels
    assert_array_equal(pixels[INSIDE], show(float_dicom(np.ascontiguousarray(values[INSIDE]))).pixels)
    assert not pixels[OUTSIDE].any()


def test_shutter_of_a_monochrome1_film_black_too(show, film):
    pixels = show(dicom(film, PhotometricInterpretation="MONOCHROME1", **rectangle("Shutter"))).pixels
    assert not pixels[OUTSIDE].any()


@pytest.mark.parametrize(
    "attributes",
    [
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "RECTANGULAR", "ShutterLeftVerticalEdge": 5},
        {**rectangle("Shutter"), "ShutterShape": "CIRCULAR"},
        {**rectangle("Shutter"), "ShutterShape": "BITMAP"},
        {**rectangle("Shutter"), "ShutterShape": None},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [3, 4, 5]},
    ],
)
def test_shutter_incomplete_or_unknown_ignored(show, film, attributes):
    attributes = {keyword: value for keyword, value in attributes.items() if value is not None}
    assert_array_equal(show(dicom(film, **attributes)).pixels, show(dicom(film)).pixels)
