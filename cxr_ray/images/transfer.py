"""The transfer functions between stored, modality and displayed values, each made of plain numbers.

Modality: Rescale, Lut. VOI: Lut, Span (a linear window), Sigmoid. Knows no header, and not which of them shows a
film: that is grey.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rescale:
    """Modality transformation `slope * stored + intercept`. Source: PS3.3 C.11.1.1.2."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, values: FloatArray) -> FloatArray:
        """Stored values to modality values."""
        return values * self.slope + self.intercept


IDENTITY = Rescale()


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
