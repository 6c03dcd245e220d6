"""The grey-scale arithmetic of a radiograph: stored samples to displayed grey, 0 black to 1 white.

The order is the standard's (PS3.3 C.11, Figure C.11-1 of the grayscale transformation sequence): stored bits,
modality, padding, VOI, inversion. Every step is a function of plain numbers. 8- and 16-bit films are not
computed pixel by pixel: the steps run on the 256 or 65536 values a sample can have, and one table look-up shows
the film. Knows no file format.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.transfer import IDENTITY, FloatArray, Lut, Rescale, Span, Voi

SAMPLED_PIXELS = 262_144
"""About this many pixels decide about percentiles; every 4th row and column of a 2500 x 2048 film."""
LEAST_CONTRAST = 0.1
"""A window or LUT that shows the film in less than this share of the grey range misses the data."""
LEAST_INSIDE = 0.05
"""A window that clips all but this share of the pixels misses the data."""
CHROMA_TOLERANCE = 16 / 255
"""Difference between channels, as a share of full scale, that JPEG noise and film tint reach on a grey film."""
BORDER_SHARE = 0.01
"""A least or greatest value that alone has more than this share of the pixels is a border or saturation."""
COLOURED_SHARE = 0.01
"""Share of pixels above the tolerance that is still an annotation on a film and not a colour picture."""


@dataclass(frozen=True, slots=True)
class GreySteps:
    """What a header says about the way from sample to grey.

    `bits_stored`, `high_bit` and `signed` place the value inside an integer sample and do not matter for floats.
    `padding` is an inclusive range of stored values. `voi` are the candidates in order of preference, each with
    the name under which a row records it.
    """

    bits_stored: int
    high_bit: int
    signed: bool
    modality: Rescale | Lut = IDENTITY
    padding: tuple[float, float] | None = None
    voi: tuple[tuple[str, Voi], ...] = ()
    inverted: bool = False


def stored_values(samples: NDArray[Any], *, bits_stored: int, high_bit: int, signed: bool) -> FloatArray:
    """The stored value inside each integer sample, free of whatever the other bits hold (old overlays, say).

    Source: PS3.5 8.1.1, PS3.3 C.7.6.3.1.
    """
    words = sample_words(samples).astype(np.uint64)
    values = (words >> np.uint64(high_bit + 1 - bits_stored)) & np.uint64(2**bits_stored - 1)
    result = values.astype(np.float64)
    if signed:
        result[result >= 2.0 ** (bits_stored - 1)] -= 2.0**bits_stored
    return result


def padding_range(value: float, limit: float, *, bits_allocated: int | None, signed: bool) -> tuple[float, float]:
    """Inclusive range of stored values that mean "no data". Source: PS3.3 C.7.5.1.1.2.

    Writers mix up US and SS here, so integers (`bits_allocated` given) are read as the same bits in the sign of the
    pixels.
    """
    if bits_allocated is not None:
        period = 2.0**bits_allocated
        shift = period / 2.0 if signed else 0.0
        value, limit = (value + shift) % period - shift, (limit + shift) % period - shift
    return min(value, limit), max(value, limit)


def padding_mask(stored: FloatArray, padding: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Which stored values are padding or, in float data, not finite. Source: PS3.3 C.7.5.1.1.2."""
    mask = ~np.isfinite(stored)
    if padding is not None:
        mask |= (stored >= padding[0]) & (stored <= padding[1])
    return mask


def percentile_range(values: FloatArray, counts: NDArray[Any], percentiles: tuple[float, float]) -> Span:
    """The values below and above which the outer percent of the pixels lie.

    `counts` says how many pixels have each value. The lower end is the smallest value with at least `low` percent
    at or below it, the upper end the largest with at least `100 - high` percent at or above it, so that the range
    of a negative is the negative's range to the last bit. Ends that coincide open to the least and the greatest
    value. Raises DecodeError(BLANK) when fewer than two values have pixels.
    """
    present = counts.ravel() > 0
    order = np.argsort(values.ravel()[present], kind="stable")
    ordered, weights = values.ravel()[present][order], counts.ravel()[present][order]
    if ordered.size == 0 or ordered[0] == ordered[-1]:
        raise DecodeError(Fault.BLANK, "All pixels that are not padding have the same value; there is nothing to see.")
    low, high = percentiles
    below, above = np.cumsum(weights), np.cumsum(weights[::-1])
    total = below[-1] * (1.0 - 1e-9)  # so that 100 - 99.7 and 0.3 reach the same pixel
    first = np.searchsorted(below, low / 100.0 * total)
    last = np.searchsorted(above, (100.0 - high) / 100.0 * total)
    span = Span(float(ordered[first]), float(ordered[::-1][last]))
    return span if span.low < span.high else Span(float(ordered[0]), float(ordered[-1]))


def without_borders(values: FloatArray, counts: NDArray[Any], *, percentiles: tuple[float, float]) -> NDArray[np.int64]:
    """`counts` without the pixels of a uniform border, which otherwise would decide where black or white is.

    That are all pixels of the least and of the greatest value, each if it alone holds more than BORDER_SHARE. A
    percentile of 0 or 100 asks for the very end, whatever holds it. Where fewer than two values would be left, all
    stay.
    """
    kept, present = counts.copy(), counts > 0
    if not present.any():
        return counts
    low, high = percentiles
    for end, wanted in ((values[present].min(), low == 0.0), (values[present].max(), high == 100.0)):
        at_end = values == end
        if not wanted and counts[at_end].sum() > BORDER_SHARE * counts.sum():
            kept[at_end] = 0
    left = values[kept > 0]
    return kept if left.size > 0 and left.min() < left.max() else counts


def reveals(voi: Voi, values: FloatArray, counts: NDArray[Any]) -> bool:
    """Whether `voi` shows the film: in enough of the grey range, and, for a window, with enough pixels inside."""
    present = counts > 0
    values, counts = values[present], counts[present]
    if isinstance(voi, Span):
        inside = counts[(values >= voi.low) & (values <= voi.high)].sum()
        if inside < LEAST_INSIDE * counts.sum():
            return False
    shown = voi.show(values)
    if shown.min() == shown.max():
        return False
    spread = percentile_range(shown, counts, (0.5, 99.5))
    return spread.high - spread.low >= LEAST_CONTRAST


def choose_voi(
    values: FloatArray, counts: NDArray[Any], steps: GreySteps, *, percentiles: tuple[float, float]
) -> tuple[str, Voi]:
    """The first candidate that shows the film, else a robust range of its values; borders count in neither.

    Percentiles count from the dark end of the displayed film, so they change ends where it is inverted.
    """
    low, high = percentiles
    ends = (100.0 - high, 100.0 - low) if steps.inverted else (low, high)
    counts = without_borders(values, counts, percentiles=ends)
    fallback = percentile_range(values, counts, ends)
    for source, voi in steps.voi:
        if reveals(voi, values, counts):
            return source, voi
    return "percentiles", fallback


def render(
    samples: NDArray[Any],
    steps: GreySteps,
    *,
    percentiles: tuple[float, float],
    hidden: NDArray[np.bool_] | None = None,
    uncounted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], str]:
    """Samples (H, W), integer or float, to grey (H, W) 0..1 in MONOCHROME2 order, and the VOI that was used.

    Padding and the pixels of `hidden` (H, W) are black whatever the photometric interpretation and take no part in
    any statistic; those of `uncounted` (H, W) are shown, but take no part either. The VOI output is inverted last.
    Source: PS3.3 C.7.6.3.1.2, C.11.6. Raises DecodeError(BLANK) for a film of one value.
    """
    narrow = samples.dtype.kind in "iu" and samples.dtype.itemsize <= 2
    words = sample_words(samples) if narrow else samples
    domain = np.arange(2 ** (8 * words.dtype.itemsize)).astype(words.dtype) if narrow else words
    stored = (
        domain.astype(np.float64)
        if domain.dtype.kind == "f"
        else stored_values(domain, bits_stored=steps.bits_stored, high_bit=steps.high_bit, signed=steps.signed)
    )
    padded = padding_mask(stored, steps.padding)
    values = steps.modality(np.where(padded, 0.0, stored))
    tally = _tally_table if narrow else _tally_pixels
    source, voi = choose_voi(*tally(words, values, padded, _either(hidden, uncounted)), steps, percentiles=percentiles)
    shown = voi.show(values)
    grey = np.where(padded, 0.0, 1.0 - shown if steps.inverted else shown).astype(np.float32)
    film = looked_up(grey, words) if narrow else grey
    if hidden is not None:
        film[hidden] = 0.0
    return film, source


def looked_up(table: NDArray[np.float32], words: NDArray[Any]) -> NDArray[np.float32]:
    """The entry of each word (H, W) of 8 or 16 bits: `table[words]`, in 3 ms instead of 12 for 7.5 million."""
    film: NDArray[np.float32] = cv2.LUT(np.ascontiguousarray(words), table[None])
    return film


def sample_words(samples: NDArray[Any]) -> NDArray[Any]:
    """The bits of integer samples as native unsigned integers of the same size."""
    return samples.astype(samples.dtype.newbyteorder("="), copy=False).view(f"u{samples.dtype.itemsize}")


def _either(first: NDArray[np.bool_] | None, second: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Where one of two masks holds; None is a mask that holds nowhere."""
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _tally_table(
    words: NDArray[Any], values: FloatArray, padded: NDArray[np.bool_], uncounted: NDArray[np.bool_] | None
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The values that samples of 8 or 16 bits can have, and how many sampled pixels have each."""
    for step in (_stride(words), 1):
        sampled = words[::step, ::step]
        counted = sampled.ravel() if uncounted is None else sampled[~uncounted[::step, ::step]]
        counts = np.bincount(counted, minlength=padded.size) * ~padded
        if np.count_nonzero(counts) > 1:
            break
    return values, counts


def _tally_pixels(
    words: NDArray[Any], values: FloatArray, padded: NDArray[np.bool_], uncounted: NDArray[np.bool_] | None
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The values of sampled pixels of wide samples, in ascending order, and how many pixels have each."""
    left_out = padded if uncounted is None else padded | uncounted
    for step in (_stride(words), 1):
        sampled = values[::step, ::step][~left_out[::step, ::step]]
        distinct, counts = np.unique(sampled, return_counts=True)
        if distinct.size > 1:
            break
    return distinct, counts


def _stride(plane: NDArray[Any]) -> int:
    """Step in rows and columns that leaves about SAMPLED_PIXELS of (H, W, ...)."""
    return max(1, math.isqrt(plane.shape[0] * plane.shape[1] // SAMPLED_PIXELS))


_ROWS = 256


def grey_from_rgb(rgb: NDArray[Any], *, full_scale: float) -> NDArray[np.float32]:
    """Colour samples (H, W, 3) of a grey film to grey (H, W) 0..1 by ITU-R BT.601 luma.

    Raises DecodeError(COLOUR) where the channels really differ: in more than 1 % of the pixels by more than
    16/255 of full scale. JPEG noise and a small coloured annotation stay below that.
    """
    stride = _stride(rgb)
    part = rgb[::stride, ::stride].astype(np.float64)
    share = float(np.mean(part.max(axis=2) - part.min(axis=2) > CHROMA_TOLERANCE * full_scale))
    if share > COLOURED_SHARE:
        raise DecodeError(
            Fault.COLOUR, f"{share:.0%} of the pixels are coloured; export the radiograph itself, in grey."
        )
    result = np.empty(rgb.shape[:2], dtype=np.float32)
    for start in range(0, len(rgb), _ROWS):  # in one piece the arithmetic takes ten times the picture's memory
        luma = np.rint(rgb[start : start + _ROWS] @ np.array([0.299, 0.587, 0.114]))
        result[start : start + _ROWS] = luma / full_scale
    return result
