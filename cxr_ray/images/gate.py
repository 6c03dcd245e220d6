"""The gate: only frontal chest radiographs are scored, unless the configuration says otherwise.

Two pure checks. `check_gate` judges a header before anything is decoded: it costs dictionary look-ups. `check_picture`
judges the pixels where the header is silent. Knows no file format; how a header becomes codes is in hints.py.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config import GateConfig, ImageKind
from cxr_ray.errors import ConfigError, DecodeError, Fault
from cxr_ray.images.dicom import terms, vocabulary
from cxr_ray.images.dicom.vocabulary import OTHER
from cxr_ray.images.header import TAGS, Header, Hint

Passed = Literal["header", "image", "unchecked"]
"""What let an image pass: its header, the look at its pixels, or nothing because the configuration wants no check."""

_KINDS: dict[ImageKind, tuple[Fault, str]] = {
    "animal": (Fault.NOT_HUMAN, "species, breed or a description in the header name an animal"),
    "mammogram": (Fault.MAMMOGRAM, "(0008,0060) Modality or (0008,0016) SOPClassUID says mammography"),
    "screenshot": (Fault.SCREENSHOT, "(0008,0016) SOPClassUID or (0008,0064) ConversionType says secondary capture"),
    "digitised_film": (Fault.SCREENSHOT, "(0008,0064) ConversionType says scanned film"),
    "localizer": (Fault.LOCALIZER, "(0008,0008) ImageType says localizer"),
    "for_processing": (Fault.FOR_PROCESSING, "(0008,0068) PresentationIntentType says FOR PROCESSING"),
}
"""In the order of the check: what no setting should let in by accident comes first."""

_SAMPLED_SIDE = 256
_LEAST_CONTRAST = 0.05
"""Least grey range, as a share of black to white, of a picture that shows anything (films in use here: from 0.33)."""
_SAME = 0.01
"""Neighbours that differ by less than this share of the picture's range count as equal."""
_MOST_EQUAL = 0.92
"""Share of equal neighbours, or of pixels of one shade, of a flat picture. Measured: films up to 0.69, screens from
0.94, smooth gradients 1."""
_LEAST_BETWEEN = 0.25
"""Share of pixels in the middle half of the range below which a picture is black and white. Measured: films from
0.30, text up to 0.22."""
_LEAST_SHARP = 0.2
"""Of the steps between neighbours that are visible, the share that crosses a quarter of the range and so may be the
edge of a stroke. Measured: films up to 0.15, text from 0.30."""
_VISIBLE = 0.03


@dataclass(frozen=True, slots=True)
class Look:
    """What is measured of a picture, all as shares 0..1: see `look`."""

    contrast: float
    equal: float
    one_shade: float
    between: float
    sharp: float


def check_codes(gate: GateConfig) -> None:
    """Refuse settings that no header can meet. Raises ConfigError naming each code that is in no vocabulary."""
    known = {"gate.body_parts": terms.BODY_PARTS, "gate.views": terms.VIEWS}
    for setting, values in (("gate.body_parts", gate.body_parts), ("gate.views", gate.views)):
        unknown = sorted(_codes_of(values) - {"", OTHER, *known[setting]})
        if unknown:
            raise ConfigError(
                f"{setting} names {', '.join(map(repr, unknown))}, which no header is read as; "
                f"choose from {', '.join(sorted(known[setting]))}, OTHER and ''."
            )


def check_gate(header: Header, gate: GateConfig) -> None:
    """Refuse what is no frontal chest radiograph, as far as the header tells.

    In this order: kind of image, modality, body part, view (these for DICOM only), size, aspect. What is furthest from
    a radiograph comes first, so that a lateral of a dog is an animal and a CT's planning view a localizer.
    Raises DecodeError: NOT_HUMAN, MAMMOGRAM, SCREENSHOT, LOCALIZER, FOR_PROCESSING, WRONG_MODALITY, WRONG_BODY_PART,
    WRONG_VIEW, TOO_SMALL, EXTREME_ASPECT.
    """
    if header.format == "dicom":
        _check_kind(header, gate)
        _check_modality(header, gate)
        _check_hint(header.body_part, gate.body_parts, Fault.WRONG_BODY_PART, "BodyPartExamined", "gate.body_parts")
        _check_hint(header.view, gate.views, Fault.WRONG_VIEW, "ViewPosition", "gate.views")
    _check_size(header, gate)


def check_picture(header: Header, pixels: NDArray[np.float32], gate: GateConfig) -> Passed:
    """Refuse flat pictures and pages of text where the header is silent, and say what let the image pass.

    `pixels` (H, W), 0 black to 1 white. A header is silent when it names no body part: a view alone is written on any
    radiograph. Raises DecodeError: FLAT, TEXT_PAGE.
    """
    speaks = header.body_part is not None and header.body_part.code != OTHER
    is_checked = gate.image_check == "always" or (gate.image_check == "silent" and not speaks)
    if is_checked:
        _check_look(look(pixels))
    return "header" if speaks else "image" if is_checked else "unchecked"


def look(pixels: NDArray[np.float32]) -> Look:
    """Measure pixels (H, W), 0 black to 1 white, on at most about 256 x 256 of them; negatives measure the same.

    Pixels are picked and not averaged, so that the strokes of a letter stay as sharp as they are.
    """
    step = max(1, math.isqrt(pixels.size // _SAMPLED_SIDE**2))
    picked = pixels[::step, ::step]
    counts = np.bincount((picked * np.float32(255.0)).astype(np.uint8).ravel(), minlength=256)
    below = np.cumsum(counts) / picked.size
    low, high = np.searchsorted(below, (0.001, 0.999)) / 255.0
    if high - low < _LEAST_CONTRAST:
        return Look(contrast=float(high - low), equal=1.0, one_shade=1.0, between=0.0, sharp=0.0)
    shown = (picked - np.float32(low)) / np.float32(high - low)
    steps = np.abs(np.diff(shown, axis=1))
    num_visible = int(np.count_nonzero(steps > _VISIBLE))
    return Look(
        contrast=float(high - low),
        equal=float(np.mean(steps <= _SAME)),
        one_shade=_share_of_one_shade(counts),
        between=float(np.mean((shown > 0.25) & (shown < 0.75))),
        sharp=float(np.count_nonzero(steps > 0.25)) / max(1, num_visible),
    )


def _share_of_one_shade(counts: NDArray[np.integer]) -> float:
    """The largest share of pixels within 17 neighbouring shades of 256."""
    return float(np.convolve(counts, np.ones(17), "same").max() / counts.sum())


def _check_look(measured: Look) -> None:
    """Refuse what has no contrast, large areas of one shade, or nothing but sharp black and white."""
    if measured.contrast < _LEAST_CONTRAST:
        detail = f"The picture uses {measured.contrast:.0%} of the range from black to white; export the radiograph."
        raise DecodeError(Fault.FLAT, detail)
    if measured.between < _LEAST_BETWEEN and measured.sharp > _LEAST_SHARP:
        detail = (
            f"{1.0 - measured.between:.0%} of the pixels are black or white and {measured.sharp:.0%} of the edges are"
            " sharp, as in a page of text; export the radiograph, or set gate.image_check to never."
        )
        raise DecodeError(Fault.TEXT_PAGE, detail)
    if max(measured.equal, measured.one_shade) > _MOST_EQUAL:
        detail = (
            f"{max(measured.equal, measured.one_shade):.0%} of the picture are areas of one shade; export the "
            "radiograph, or set gate.image_check to never."
        )
        raise DecodeError(Fault.FLAT, detail)


def _check_kind(header: Header, gate: GateConfig) -> None:
    """Refuse kinds of images that the gate does not name."""
    for kind, (fault, reason) in _KINDS.items():
        if kind in header.kinds and kind not in gate.kinds:
            detail = f"This is no radiograph to score: {reason}; add {kind!r} to gate.kinds to score such images."
            raise DecodeError(fault, detail)


def _check_modality(header: Header, gate: GateConfig) -> None:
    """Refuse modalities that the gate does not name."""
    modality = header.modality or ""
    if modality not in {value.strip().upper() for value in gate.modalities}:
        detail = f"{TAGS['Modality']} Modality is {modality!r}; add it to gate.modalities to score such images."
        raise DecodeError(Fault.WRONG_MODALITY, detail)


def _check_hint(hint: Hint | None, accepted: tuple[str, ...], fault: Fault, keyword: str, setting: str) -> None:
    """Refuse a body part or view that the gate does not name; `keyword` is where one is missed."""
    code, source = (hint.code, hint.keyword) if hint else ("", keyword)
    if code not in _codes_of(accepted):
        detail = f"{TAGS[source]} {source} says {code!r}; add it to {setting} to score such images."
        raise DecodeError(fault, detail)


@lru_cache
def _codes_of(values: tuple[str, ...]) -> frozenset[str]:
    """The codes of a setting's body parts or views, which may be written in any of their spellings."""
    said = {value: vocabulary.read(value) for value in values}
    return frozenset(text.body_part or text.view or value.strip().upper() for value, text in said.items())


def _check_size(header: Header, gate: GateConfig) -> None:
    """Refuse icons and strips."""
    rows, columns = header.rows or 0, header.columns or 0
    size = f"(0028,0010) Rows x (0028,0011) Columns is {rows} x {columns}"
    if min(rows, columns) < gate.min_side:
        detail = f"{size}, the shorter side below gate.min_side = {gate.min_side}; lower it to score such images."
        raise DecodeError(Fault.TOO_SMALL, detail)
    if max(rows, columns) > gate.max_aspect * min(rows, columns):
        detail = f"{size}, a ratio above gate.max_aspect = {gate.max_aspect:g}; raise it to score such images."
        raise DecodeError(Fault.EXTREME_ASPECT, detail)
