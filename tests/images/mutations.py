"""Sample files of every kind that is read here, and the ways in which files go wrong, each from a number.

Shared by the mutation test and the coverage-guided target (fuzz_decode.py).
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydicom import uid

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError
from cxr_ray.images.isolation import Died, deadline, each_in_a_child
from cxr_ray.images.preprocess import preprocess
from cxr_ray.images.radiograph import decode, read_header
from tests.images.dicom_files import SHARED_DICOM, build_dicom

LIMITS = LimitsConfig(object_bytes=2**22, pixels=2**22)
TARGET = PreprocessConfig(size=32, reduced_decode="always")
SECONDS = 20.0
"""A mutated sample takes milliseconds; CharLS has been seen to take 3.5 s to find the end of a frame that has none."""
_LARGEST_REAL = 700_000
_SYNTAXES = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless),
)


@cache
def samples() -> tuple[bytes, ...]:
    """A film in every transfer syntax, rasters of every mode, and the small real files where they are."""
    rows, columns = np.mgrid[:48, :40]
    film = np.clip(rows * 50 + columns * 40 + (rows * columns) % 97, 0, 4095).astype(np.uint16)
    made = [build_dicom(film, syntax=syntax, bits_stored=12) for syntax in _SYNTAXES]
    made.append(build_dicom((film // 16).astype(np.uint8), syntax=uid.JPEGBaseline8Bit))
    made.append(build_dicom(film[:6, :5], syntax=uid.JPEGExtended12Bit, bits_stored=12, Rows=48, Columns=40))
    real = [path.read_bytes() for path in sorted(SHARED_DICOM.rglob("*.dcm"))] if SHARED_DICOM.is_dir() else []
    small = (data for data in real if len(data) <= _LARGEST_REAL)
    return (*made, *_rasters((film // 16).astype(np.uint8)), *small)


def _rasters(grey: np.ndarray) -> list[bytes]:
    """PNG, JPEG and TIFF in the modes they come in."""
    picture = Image.fromarray(grey)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    kinds = [
        *((picture.convert(mode), "PNG", {}) for mode in ("L", "1", "P", "RGB", "RGBA", "LA")),
        *((wide, name, {}) for name in ("PNG", "TIFF")),
        *((picture.convert(mode), "JPEG", {}) for mode in ("L", "RGB", "CMYK")),
        *((wide, "TIFF", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "packbits")),
        (picture.convert("1"), "TIFF", {"compression": "group4"}),
        (picture, "TIFF", {"compression": "jpeg"}),
        (picture, "JPEG", {"progressive": True}),
    ]
    encoded = []
    for image, name, options in kinds:
        target = BytesIO()
        image.save(target, name, **options)
        encoded.append(target.getvalue())
    return encoded


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing that happens to files: a byte changes, a part goes missing, comes twice, is overwritten or cut off.

    `start` counts from the beginning, modulo the length; `value` is a byte, or the number of the sample a part of
    which is put there.
    """

    kind: Literal["set", "flip", "delete", "repeat", "fill", "splice", "cut"]
    start: int
    length: int
    value: int


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The file after all of it."""
    for edit in edits:
        data = _edit(data, edit) if data else data
    return data


def _edit(data: bytes, edit: Edit) -> bytes:
    """The file after one of it."""
    start = edit.start % len(data)
    before, part, after = data[:start], data[start : start + edit.length], data[start + edit.length :]
    match edit.kind:
        case "set":
            return before + bytes([edit.value % 256]) + data[start + 1 :]
        case "flip":
            return before + bytes([data[start] ^ 1 << edit.value % 8]) + data[start + 1 :]
        case "delete":
            return before + after
        case "repeat":
            return before + part + part + after
        case "fill":
            return before + bytes([edit.value % 256]) * len(part) + after
        case "splice":
            other = samples()[edit.value % len(samples())]
            return before + other[start : start + edit.length] + after
        case "cut":
            return before


def mutated(number: int) -> bytes:
    """The damaged file of this number: one sample with one to four edits."""
    random = np.random.default_rng(number)
    data = samples()[int(random.integers(len(samples())))]
    return edited(data, [_random_edit(len(data), random) for _ in range(int(random.integers(1, 5)))])


def _random_edit(size: int, random: np.random.Generator) -> Edit:
    """An edit anywhere, or near the beginning, where headers lie. Cuts are rarer: most end in the same fault."""
    kinds: Sequence[Any] = ("set", "set", "set", "flip", "flip", "delete", "repeat", "fill", "splice", "cut")
    return Edit(
        kind=kinds[int(random.integers(len(kinds)))],
        start=int(random.integers(size if random.random() < 0.5 else min(size, 700))),
        length=int(2 ** random.integers(0, 6)),
        value=int(random.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.integers(256)])),
    )


def outcome(data: bytes) -> str:
    """What becomes of the bytes: `image` or the fault's code; all else is a bug and raises, or ends the process."""
    try:
        radiograph = decode(read_header(data, limits=LIMITS), preprocess=TARGET)
        pixels, _ = preprocess(radiograph, TARGET)
    except DecodeError as error:
        return error.fault.value
    assert pixels.shape == (TARGET.size, TARGET.size)
    assert 0.0 <= radiograph.pixels.min() <= radiograph.pixels.max() <= 1.0
    return "image"


def outcome_of_number(number: int) -> str:
    """What becomes of the damaged file of this number, in `SECONDS` at most."""
    data = mutated(number)
    with deadline(SECONDS):
        return outcome(data)


def main(first: int, last: int) -> None:
    """Decode the damaged files first..last-1 in a child process, name those that ended it, and count the rest."""
    found: Counter[str] = Counter()
    for number, end in enumerate(each_in_a_child(outcome_of_number, range(first, last), {}), first):
        found["died" if isinstance(end, Died) else end] += 1
        if isinstance(end, Died):
            print(f"{number}: {end}", flush=True)
    print(", ".join(f"{name} {count:,}" for name, count in found.most_common()))


if __name__ == "__main__":
    from tests.images.mutations import main  # by its name, under which a child can import it

    main(*map(int, sys.argv[1:3]))
