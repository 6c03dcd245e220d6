"""Pictures of the report: a radiograph small enough to embed, its heat map as a transparent layer, the colour scale.

Arrays in, image bytes out. Shapes: H W original film, h w picture, G heat-map grid, S side of the model input. Knows
no score table, no storage and no HTML.
"""

import base64
import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_ray.images.preprocess import Placement

FILM_SIDE = 512  # pixels: sharp at the report's largest view, about 30 kB as JPEG
SMALL_FILM_SIDE = 384  # of a gallery with hundreds of films, about 15 kB each
HEAT_SIDE = 96  # pixels: a G x G map holds no more, and the browser smooths the rest
STRIP_SIDE = 48  # of the small maps side by side
_FAINT, _FULL = 0.15, 0.65  # heat below which nothing is painted, and from which the colour is opaque


def picture_size(height: int, width: int, *, side: int) -> tuple[int, int]:
    """Height and width of a film shrunk to `side` pixels at its longer side; never enlarged."""
    share = min(1.0, side / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def film_jpeg(pixels: NDArray[np.floating[Any]], *, side: int = FILM_SIDE) -> bytes:
    """The film (H, W) with values 0..1 as a grey JPEG of at most `side` pixels."""
    height, width = picture_size(*pixels.shape, side=side)
    image = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    return _encoded(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0), "JPEG", quality=85)


def heat_on_film(
    heatmap: NDArray[np.uint8], placement: Placement, *, model_side: int, film: tuple[int, int], side: int = HEAT_SIDE
) -> NDArray[np.uint8]:
    """The G x G map, which covers the model input, resampled bilinearly to a picture of the film.

    Film that the model did not see gets 0.

    Args:
        heatmap: (G, G), 0..255.
        placement: From model input to original pixels.
        model_side: S.
        film: H and W of the original.
        side: Longer side of the picture in pixels.

    Returns:
        (h, w), 0..255.
    """
    height, width = picture_size(*film, side=side)
    rows = (np.arange(height) + 0.5) * film[0] / height
    columns = (np.arange(width) + 0.5) * film[1] / width
    grid = heatmap.shape[0]
    down = _weights((rows - placement.row_offset) / placement.row_scale / model_side, grid=grid)
    across = _weights((columns - placement.column_offset) / placement.column_scale / model_side, grid=grid)
    heat: NDArray[np.float64] = down @ heatmap.astype(np.float64) @ across.T
    return (heat + 0.5).astype(np.uint8)


def _weights(position: NDArray[np.float64], *, grid: int) -> NDArray[np.float64]:
    """Bilinear weights (n, G) of the map's cells at n positions along one axis; the map covers 0..1."""
    cell = np.clip(position * grid - 0.5, 0, grid - 1)
    weights: NDArray[np.float64] = np.clip(1.0 - np.abs(cell[:, None] - np.arange(grid)), 0.0, None)
    return weights * ((position >= 0) & (position <= 1))[:, None]


def heat_png(heat: NDArray[np.uint8]) -> bytes:
    """Heat (h, w), 0..255, as a PNG with 256 colours, each with its own opacity: one byte per pixel."""
    colours, opacity = _scale()
    image = Image.fromarray(heat)
    image.putpalette(colours)
    return _encoded(image, "PNG", transparency=opacity, optimize=True)


def scale_png() -> bytes:
    """The colour scale from 0 to 255, left to right, as it looks on black film."""
    return heat_png(np.arange(256, dtype=np.uint8)[None, :])


def data_uri(data: bytes, media_type: str) -> str:
    """The bytes as a `data:` uri."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


@lru_cache(maxsize=1)
def _scale() -> tuple[bytes, bytes]:
    """256 RGB colours of `inferno`, whose lightness grows evenly, and 256 opacities that grow with the heat."""
    # Imported here, because importing matplotlib makes its configuration folder.
    from matplotlib import colormaps

    heat = np.linspace(0.0, 1.0, 256)
    ramp = np.clip((heat - _FAINT) / (_FULL - _FAINT), 0.0, 1.0)
    colours = colormaps["inferno"](heat, bytes=True)[:, :3]
    return colours.astype(np.uint8).tobytes(), (ramp * 255.0 + 0.5).astype(np.uint8).tobytes()


def _encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """The image in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()
