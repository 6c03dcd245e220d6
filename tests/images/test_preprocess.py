"""The model input and the way back, against Pillow's resize and exact geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from cxr_ray.config import PreprocessConfig
from cxr_ray.images.header import Header
from cxr_ray.images.preprocess import IMPLEMENTATION, Placement, preprocess, preprocess_digest
from cxr_ray.images.radiograph import Radiograph

sides = st.integers(1, 90)
fits = st.sampled_from(["pad", "stretch"])


def radiograph_of(pixels: np.ndarray) -> Radiograph:
    """A radiograph with these pixels, as float32."""
    rows, columns = pixels.shape
    header = Header(format="png", rows=rows, columns=columns)
    return Radiograph(pixels=pixels.astype(np.float32), header=header, voi_source="full_range")


def film_of(rows: int, columns: int) -> np.ndarray:
    """A reproducible film without symmetry, 0..1."""
    texture = np.random.default_rng(rows * 1000 + columns).random((rows, columns))
    slope = np.add.outer(np.linspace(0, 1, rows), np.linspace(0, 2, columns)) / 3
    return 0.5 * texture + 0.5 * slope


@pytest.mark.parametrize(("rows", "columns"), [(500, 333), (333, 500), (97, 41), (224, 224), (30, 20)])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_preprocess_equals_pillow_bilinear_within_one_level(rows, columns, fit):
    pixels = film_of(rows, columns).astype(np.float32)
    square, _ = preprocess(radiograph_of(pixels), PreprocessConfig(size=64, fit=fit))
    side = max(rows, columns)
    height, width = (64, 64) if fit == "stretch" else (round(rows * 64 / side), round(columns * 64 / side))
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    expected = np.zeros((64, 64))
    top, left = (64 - height) // 2, (64 - width) // 2
    expected[top : top + height, left : left + width] = resized * 255.0
    assert np.abs(square - expected).max() <= 0.5 + 1e-3


def test_preprocess_fine_stripes_average_out():
    """Without antialiasing the stripes would alias into broad bands."""
    stripes = np.tile([[0.0, 1.0]], (400, 200))
    square, _ = preprocess(radiograph_of(stripes), PreprocessConfig(size=50))
    assert_array_equal(square[:, 2:-2], np.full((50, 46), 128))


@given(rows=sides, columns=sides, size=st.integers(16, 64), fit=fits)
def test_preprocess_any_shape_square_of_bytes_argument_untouched(rows, columns, size, fit):
    radiograph = radiograph_of(film_of(rows, columns))
    before = radiograph.pixels.copy()
    square, _ = preprocess(radiograph, PreprocessConfig(size=size, fit=fit))
    again, _ = preprocess(radiograph, PreprocessConfig(size=size, fit=fit))
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert_array_equal(square, again)
    assert_array_equal(radiograph.pixels, before)


def test_preprocess_read_only_and_strided_pixels_same_input():
    pixels = film_of(80, 60).astype(np.float32)
    expected, _ = preprocess(radiograph_of(pixels), PreprocessConfig(size=32))
    strided = np.asfortranarray(pixels)
    strided.setflags(write=False)
    square, _ = preprocess(Radiograph(strided, Header(format="png"), "full_range"), PreprocessConfig(size=32))
    assert_array_equal(square, expected)


@given(value=st.integers(0, 255))
def test_preprocess_flat_film_keeps_its_shade(value):
    square, _ = preprocess(radiograph_of(np.full((40, 50), value / 255.0)), PreprocessConfig(size=20, fit="stretch"))
    assert_array_equal(square, np.full((20, 20), value))


@pytest.mark.parametrize(("rows", "columns"), [(40, 80), (80, 40)])
def test_preprocess_pad_centres_the_film_on_black(rows, columns):
    square, placement = preprocess(radiograph_of(np.ones((rows, columns))), PreprocessConfig(size=32))
    expected = np.zeros((32, 32))
    expected[8:24] = 255
    assert_array_equal(square, expected if rows < columns else expected.T)
    across = Placement(row_scale=2.5, row_offset=-20.0, column_scale=2.5, column_offset=0.0)
    down = Placement(row_scale=2.5, row_offset=0.0, column_scale=2.5, column_offset=-20.0)
    assert placement == (across if rows < columns else down)


@given(rows=sides, columns=sides, size=st.integers(16, 64), fit=fits, row=st.floats(0, 1), column=st.floats(0, 1))
def test_placement_film_to_model_and_back_same_point(rows, columns, size, fit, row, column):
    _, placement = preprocess(radiograph_of(np.zeros((rows, columns))), PreprocessConfig(size=size, fit=fit))
    point = (row * rows, column * columns)
    in_model = placement.point_in_model(*point)
    assert min(in_model) >= -1e-6
    assert max(in_model) <= size + 1e-6
    assert placement.point_on_film(*in_model, rows=rows, columns=columns) == pytest.approx(point, abs=1e-6)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize(("rows", "columns"), [(640, 400), (400, 640), (230, 1000)])
def test_placement_bright_square_found_where_it_is_on_the_film(fit, rows, columns):
    film = np.zeros((rows, columns))
    film[100:180, 300:380] = 1.0
    square, placement = preprocess(radiograph_of(film), PreprocessConfig(size=200, fit=fit))
    inside_rows, inside_columns = np.nonzero(square > 127)
    box = (inside_rows.min(), inside_columns.min(), inside_rows.max() + 1, inside_columns.max() + 1)
    found = placement.box_on_film(box, rows=rows, columns=columns)
    tolerance = max(placement.row_scale, placement.column_scale) / 2 + 1e-9
    assert found == pytest.approx((100, 300, 180, 380), abs=tolerance)


def test_placement_box_over_the_border_clipped_to_the_film():
    placement = Placement(row_scale=2.0, row_offset=0.0, column_scale=2.0, column_offset=-30.0)
    assert placement.box_on_film((-4.0, 3.0, 20.0, 99.0), rows=35, columns=60) == (0.0, 0.0, 35.0, 60.0)
    assert placement.box_on_film((4.0, 20.0, 7.0, 22.5), rows=35, columns=60) == (8.0, 10.0, 14.0, 15.0)


def test_preprocess_very_long_film_keeps_a_pixel_across():
    square, placement = preprocess(radiograph_of(np.ones((4000, 3))), PreprocessConfig(size=32))
    assert square.sum() == 32 * 255
    assert placement.column_scale == 3.0


def test_preprocess_digest_differs_with_the_implementation(monkeypatch):
    before = preprocess_digest(PreprocessConfig())
    monkeypatch.setattr("cxr_ray.images.preprocess.IMPLEMENTATION", IMPLEMENTATION + 1)
    assert preprocess_digest(PreprocessConfig()) != before


def test_preprocess_digest_differs_with_every_setting():
    settings = [
        PreprocessConfig(),
        PreprocessConfig(size=256),
        PreprocessConfig(fit="stretch"),
        PreprocessConfig(percentiles=(1.0, 99.5)),
    ]
    digests = {preprocess_digest(config) for config in settings}
    assert len(digests) == len(settings)
    assert preprocess_digest(PreprocessConfig(size=224)) == preprocess_digest(PreprocessConfig())
