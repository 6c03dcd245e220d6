"""Boxes around lesions, as NIH publishes them: from the pixels they were drawn in to those of the film."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.evaluation.localisation.covering import Mask, lengths, most_covered
from cxr_ray.labels.sources.nih import read_boxes
from cxr_ray.labels.tables import BOX, listed

Size = tuple[int, int]  # height, width
Frame = Size | Literal["film"] | None  # what boxes were drawn on: images of this size, the films, or NIH's
NIH_SIZE = (1024, 1024)  # of the PNG files that NIH published, and in whose pixels BBox_List_2017.csv is
_ASPECT = 0.02  # relative; one pixel of rounding in 64 is 0.016
_ROUNDING = 1.0  # pixels of the frame a box may stick out; NIH's are fractions


def parse_frame(text: str | None) -> Frame:
    """`WIDTHxHEIGHT` as (height, width); `film` and None stay as they are. Raises ConfigError."""
    if text is None:
        return None
    said = text.strip().lower()
    if said == "film":
        return "film"
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", said)
    if not found:
        raise ConfigError(
            f"--boxes-frame takes WIDTHxHEIGHT in pixels, such as 1024x1024, or film for boxes that were drawn on the"
            f" films themselves, not {text!r}."
        )
    return int(found[2]), int(found[1])


class Boxes:
    """Lesions marked by boxes. A call gives {finding: (H, W) bool} of an image, in pixels of its film."""

    kind = "boxes"

    def __init__(self, path: str, *, frame: Frame, sizes: Mapping[str, Size], findings: Sequence[str]) -> None:
        """Read the boxes of the films in `sizes` (uri -> height, width), told by the last part of their uri.

        `frame` is the size (height, width) of the images that the boxes were drawn on, or `film` for the films. None
        stands for NIH's images, and then the films have to be these: a box of another size would lie elsewhere.

        Raises:
            ManifestError: The table is unusable, no box is of such a film and finding, two films share a name, or a
                box and its film do not fit the frame.
        """
        table = read_boxes(path)
        films: dict[str, list[str]] = {}
        for uri in sizes:
            films.setdefault(uri.rpartition("/")[2], []).append(uri)
        kept = table[table["name"].isin(films.keys()) & table["finding"].isin(findings)]
        if kept.empty:
            raise ManifestError(
                f"None of the {len(table)} boxes of {path}, such as {listed(table['name'].tolist())}, is of a scored"
                " and labelled image and a finding of the ensemble; check the names."
            )
        twice = sorted(name for name in set(kept["name"]) if len(films[name]) > 1)
        if twice:
            raise ManifestError(f"Several films have the name of a box in {path}: {listed(twice)}; rename them.")
        self._sizes, self._frame = dict(sizes), frame
        self._boxes = {films[str(name)][0]: boxes for name, boxes in kept.groupby("name")}
        for uri, boxes in self._boxes.items():
            self._check(path, uri, boxes)

    @property
    def uris(self) -> frozenset[str]:
        """The films with a box."""
        return frozenset(self._boxes)

    def __call__(self, uri: str) -> dict[str, Mask]:
        """Everything in a box of the finding: {finding: (H, W) bool}, empty where there is no box."""
        if uri not in self._boxes:
            return {}
        height, width = self._sizes[uri]
        frame_height, frame_width = self._frame_of(uri)
        down, across = height / frame_height, width / frame_width
        marked: dict[str, Mask] = {}
        for finding, x, y, breadth, length in self._boxes[uri][list(BOX)].itertuples(index=False):
            rows = lengths(y * down, (y + length) * down, height)
            columns = lengths(x * across, (x + breadth) * across, width)
            inside = most_covered(np.outer(rows, columns))
            marked[finding] = inside | marked.get(finding, np.zeros_like(inside))
        return marked

    def _frame_of(self, uri: str) -> Size:
        """The size of what the boxes of a film were drawn on."""
        return self._sizes[uri] if self._frame == "film" else self._frame or NIH_SIZE

    def _check(self, path: str, uri: str, boxes: pd.DataFrame) -> None:
        """Refuse a frame of another shape than the film, and boxes outside the frame. Raises ManifestError."""
        size, frame = self._sizes[uri], self._frame_of(uri)
        if self._frame is None and size != NIH_SIZE:
            raise ManifestError(
                f"The film {uri} has {size[1]} x {size[0]} pixels, and NIH's boxes are drawn on images of"
                f" {NIH_SIZE[1]} x {NIH_SIZE[0]}; say with --boxes-frame WIDTHxHEIGHT which images those in {path} were"
                " drawn on, or --boxes-frame film for the films themselves."
            )
        if abs(frame[1] * size[0] / (frame[0] * size[1]) - 1.0) > _ASPECT:
            raise ManifestError(
                f"The film {uri} of {size[1]} x {size[0]} pixels has another aspect ratio than the boxes' frame of"
                f" {frame[1]} x {frame[0]}; say with --boxes-frame which images the boxes were drawn on."
            )
        outside = (
            (boxes[["x", "y"]].min(axis=1) < -_ROUNDING)
            | (boxes["x"] + boxes["width"] > frame[1] + _ROUNDING)
            | (boxes["y"] + boxes["height"] > frame[0] + _ROUNDING)
            | (boxes[["width", "height"]].min(axis=1) <= 0)
        )
        if outside.any():
            x, y, width, height = boxes.loc[outside, list(BOX[1:])].iloc[0]
            raise ManifestError(
                f"The box x {x:g}, y {y:g}, width {width:g}, height {height:g} of {uri} in {path} does not lie in"
                f" {frame[1]} x {frame[0]} pixels; give the size of the images it was drawn on as --boxes-frame."
            )
