"""The grey-scale arithmetic of a radiograph: stored samples to displayed grey, 0 black to 1 white.

The order is the standard's (PS3.3 C.11, Figure C.11-1 of the grayscale transformation sequence): stored bits,
modality, padding, VOI, inversion. Every step is a function of plain numbers. 8- and 16-bit films are not
computed pixel by pixel: the steps run on the 256 or 65536 values a sample can have, and one table look-up shows
the film. Knows no file format.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.errors import DecodeError, Fault

FloatArray = NDArray[np.float64]

SAMPLED_PIXELS = 262_144
"""About this many pixels decide about percentiles; every 4th row and column of a 2500 x 2048 film."""
LEAST_CONTRAST = 0.1
"""A window or LUT that shows the film in less than this share of the grey range misses the data."""
LEAST_INSIDE = 0.05
"""A window that clips all but this share of the pixels misses the data."""
CHROMA_TOLERANCE = 16 / 255
"""Difference between channels, as a share of full scale, that JPEG noise and film tint reach on a grey film."""
COLOURED_SHARE = 0.01
"""Share of pixels above the tolerance that is still an annotation on a film and not a colour picture."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality transformation `slope * stored + intercept`. Source: PS3.3 C.11.1.1.2."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, values: FloatArray) -> FloatArray:
        """Stored values to modality values."""
        return values * self.slope + self.intercept


@dataclass(frozen=True, slots=True)
class Lut:
    """Table of `entries` whose first belongs to the input `first`. Source: PS3.3 C.11.1.1.1 and C.11.2.1.1.

    `bits` is the number of bits of one entry, so full scale is 2^bits - 1.
    """

    first: float
    entries: FloatArray
    bits: int

    def __call__(self, values: FloatArray) -> FloatArray:
        """The entry of each value; inputs before the first or beyond the last entry take that entry."""
        index = np.clip(np.rint(values - self.first), 0, self.entries.size - 1)
        return self.entries[index.astype(np.intp)]

    def show(self, values: FloatArray) -> FloatArray:
        """Modality values to grey 0..1; entries beyond the stated bits widen the scale."""
        bits = max(self.bits, int(self.entries.max()).bit_length())
        result: FloatArray = self(values) / (2**bits - 1)
        return result


@dataclass(frozen=True, slots=True)
class Span:
    """A straight line from black at `low` to white at `high`; `low == high` is a step."""

    low: float
    high: float

    def show(self, values: FloatArray) -> FloatArray:
        """Modality values to grey 0..1, clipped."""
        if self.high <= self.low:
            return (values > self.low).astype(np.float64)
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """VOI LUT Function SIGMOID. Source: PS3.3 C.11.2.1.3.1."""

    center: float
    width: float

    def show(self, values: FloatArray) -> FloatArray:
        """Modality values to grey, 0 and 1 reached only in the limit."""
        exponent = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
        result: FloatArray = 1.0 / (1.0 + np.exp(exponent))
        return result


Voi = Lut | Span | Sigmoid


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
    modality: Rescale | Lut = Rescale()
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


def linear_span(center: float, width: float) -> Span:
    """VOI LUT Function LINEAR, the default; `width` at least 1. Source: PS3.3 C.11.2.1.2.1."""
    return Span(center - 0.5 - (width - 1.0) / 2.0, center - 0.5 + (width - 1.0) / 2.0)


def linear_exact_span(center: float, width: float) -> Span:
    """VOI LUT Function LINEAR_EXACT; `width` above 0. Source: PS3.3 C.11.2.1.3.2."""
    return Span(center - width / 2.0, center + width / 2.0)


def window(center: float, width: float, *, function: str) -> Span | Sigmoid | None:
    """The VOI of one window, or None where the standard allows no such width or names no such function."""
    if function == "LINEAR" and width >= 1.0:
        return linear_span(center, width)
    if function == "LINEAR_EXACT" and width > 0.0:
        return linear_exact_span(center, width)
    return Sigmoid(center, width) if function == "SIGMOID" and width > 0.0 else None


def lut(
    num_entries: int, first: int, bits: int, data: bytes | NDArray[np.int64], *, little_endian: bool, signed: bool
) -> Lut:
    """The table that LUT Descriptor (three numbers) and LUT Data (words, or their bytes) describe.

    `signed` says that inputs may be negative, so that a first input stated as 65000 means -536. Entries of 8 bits
    are packed two to a word by some writers and one to a word by others; the length tells.
    Source: PS3.3 C.11.1.1.1, C.11.2.1.1.
    """
    num_entries = num_entries % 2**16 or 2**16
    if isinstance(data, bytes):
        packed = bits <= 8 and len(data) < 2 * num_entries
        word = "u1" if packed else "<u2" if little_endian else ">u2"
        entries: NDArray[Any] = np.frombuffer(data[: len(data) // 2 * 2], word)
    else:
        entries = data & 0xFFFF
    start = first - 2**16 if signed and first >= 2**15 else first
    return Lut(first=float(start), entries=entries[:num_entries].astype(np.float64), bits=bits)


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
    """The first candidate that shows the film, else a robust range of its values.

    Percentiles count from the dark end of the displayed film, so they change ends where it is inverted.
    """
    low, high = percentiles
    ends = (100.0 - high, 100.0 - low) if steps.inverted else (low, high)
    fallback = percentile_range(values, counts, ends)
    for source, voi in steps.voi:
        if reveals(voi, values, counts):
            return source, voi
    return "percentiles", fallback


def render(
    samples: NDArray[Any], steps: GreySteps, *, percentiles: tuple[float, float]
) -> tuple[NDArray[np.float32], str]:
    """Samples (H, W), integer or float, to grey (H, W) 0..1 in MONOCHROME2 order, and the VOI that was used.

    Padding is black whatever the photometric interpretation and takes no part in any statistic. The VOI output is
    inverted last. Source: PS3.3 C.7.6.3.1.2, C.11.6. Raises DecodeError(BLANK) for a film of one value.
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
    source, voi = choose_voi(*tally(words, values, padded), steps, percentiles=percentiles)
    shown = voi.show(values)
    grey = np.where(padded, 0.0, 1.0 - shown if steps.inverted else shown).astype(np.float32)
    return (grey[words] if narrow else grey), source


def sample_words(samples: NDArray[Any]) -> NDArray[Any]:
    """The bits of integer samples as native unsigned integers of the same size."""
    return samples.astype(samples.dtype.newbyteorder("="), copy=False).view(f"u{samples.dtype.itemsize}")


def _tally_table(
    words: NDArray[Any], values: FloatArray, padded: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The values that samples of 8 or 16 bits can have, and how many sampled pixels have each."""
    for step in (_stride(words), 1):
        counts = np.bincount(words[::step, ::step].ravel(), minlength=padded.size) * ~padded
        if np.count_nonzero(counts) > 1:
            break
    return values, counts


def _tally_pixels(
    words: NDArray[Any], values: FloatArray, padded: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """The values of sampled pixels of wide samples, in ascending order, and how many pixels have each."""
    for step in (_stride(words), 1):
        sampled = values[::step, ::step][~padded[::step, ::step]]
        distinct, counts = np.unique(sampled, return_counts=True)
        if distinct.size > 1:
            break
    return distinct, counts


def _stride(plane: NDArray[Any]) -> int:
    """Step in rows and columns that leaves about SAMPLED_PIXELS of (H, W, ...)."""
    return max(1, math.isqrt(plane.shape[0] * plane.shape[1] // SAMPLED_PIXELS))


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
    luma = np.rint(rgb @ np.array([0.299, 0.587, 0.114]))
    result: NDArray[np.float32] = (luma / full_scale).astype(np.float32)
    return result
