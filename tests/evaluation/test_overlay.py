import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.config import PreprocessConfig
from cxr_ray.evaluation.report.overlay import data_uri, film_jpeg, heat_on_film, heat_png, picture_size, scale_png
from cxr_ray.images.header import Header
from cxr_ray.images.preprocess import Placement, preprocess
from cxr_ray.images.radiograph import Radiograph

WHOLE = Placement(row_scale=1.0, row_offset=0.0, column_scale=1.0, column_offset=0.0)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("film", "side", "expected"), [((2500, 2048), 500, (500, 410)), ((60, 90), 45, (30, 45)), ((60, 90), 400, (60, 90))]
)
def test_picture_size_keeps_the_aspect_and_never_enlarges(
    film: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert picture_size(*film, side=side) == expected


def test_film_jpeg_shows_the_grey_values() -> None:
    pixels = np.repeat(np.linspace(-0.1, 1.1, 64, dtype=np.float32)[None], 48, axis=0)
    picture = opened(film_jpeg(pixels, side=32))
    assert (picture.size, picture.mode, picture.format) == ((32, 24), "L", "JPEG")
    expected = np.clip(pixels, 0, 1).reshape(24, 2, 32, 2).mean(axis=(1, 3)) * 255
    np.testing.assert_allclose(np.asarray(picture, float), expected, atol=6)


def test_heat_on_film_unplaced_equals_torch_bilinear() -> None:
    heatmap = np.random.default_rng(0).integers(0, 256, (7, 7), np.uint8)
    found = heat_on_film(heatmap, WHOLE, model_side=56, film=(56, 56), side=56)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(heatmap)[None, None].double(), (56, 56), mode="bilinear"
    )
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=0.5 + 1e-9)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("film", [(120, 70), (70, 120)])
def test_heat_on_film_undoes_the_preprocessing(fit: str, film: tuple[int, int]) -> None:
    y, x = np.mgrid[: film[0], : film[1]]
    spot = np.exp(-(((y - 0.3 * film[0]) / 8) ** 2) - ((x - 0.8 * film[1]) / 8) ** 2).astype(np.float32)
    radiograph = Radiograph(spot, Header(format="png", rows=film[0], columns=film[1]), "full_range")
    seen, placement = preprocess(radiograph, PreprocessConfig.model_validate({"size": 96, "fit": fit}))
    back = heat_on_film(seen, placement, model_side=96, film=film, side=120)
    assert back.shape == film
    np.testing.assert_allclose(back / 255, spot, atol=0.05)


def test_heat_on_film_what_the_model_did_not_see_stays_cold() -> None:
    middle = Placement(row_scale=1.0, row_offset=20.0, column_scale=1.0, column_offset=10.0)
    heat = heat_on_film(np.full((4, 4), 255, np.uint8), middle, model_side=32, film=(64, 64), side=64)
    expected = np.zeros((64, 64))
    expected[20:52, 10:42] = 255
    np.testing.assert_array_equal(heat, expected)


def rgba(heat: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(opened(heat_png(heat)).convert("RGBA"), float)


def test_heat_png_opacity_and_lightness_grow_with_the_heat() -> None:
    colours = rgba(np.arange(256, dtype=np.uint8)[None])[0]
    opacity, lightness = colours[:, 3], colours[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (opacity[0], opacity[255]) == (0, 255)
    assert np.all(np.diff(opacity) >= 0)
    assert np.all(np.diff(np.convolve(lightness, np.ones(8) / 8, "valid")) > 0)


def test_heat_png_cold_map_is_invisible() -> None:
    assert rgba(np.zeros((5, 3), np.uint8))[..., 3].max() == 0


def test_scale_png_is_the_scale_of_the_maps() -> None:
    scale = np.asarray(opened(scale_png()).convert("RGBA"), float)
    np.testing.assert_array_equal(scale, rgba(np.arange(256, dtype=np.uint8)[None]))


def test_data_uri_bytes_come_back() -> None:
    assert data_uri(b"\x00cxr", "image/png") == "data:image/png;base64,AGN4cg=="
