"""Masks of lesions: the phantom's, named in the manifest, or a folder of one PNG per finding and image."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from cxr_ray import storage
from cxr_ray.errors import ManifestError
from cxr_ray.evaluation.localisation.covering import Mask
from cxr_ray.images.phantom import FINDINGS as PHANTOM_FINDINGS
from cxr_ray.images.phantom import read_masks
from cxr_ray.labels.findings import column_suffix
from cxr_ray.labels.tables import folder_of, read_table, require, text

COLUMN = "masks"


class Regions(Protocol):
    """Where lesions are marked: `uris` may have marks, and a call gives {finding: (H, W) bool} in film pixels."""

    @property
    def kind(self) -> str:
        """`masks` or `boxes`."""
        ...

    @property
    def uris(self) -> Collection[str]:
        """The images with marks."""
        ...

    def __call__(self, uri: str) -> dict[str, Mask]:
        """The marks of one image, empty where there are none."""
        ...


class ColumnMasks:
    """The masks that a column `masks` of the manifest names: one PNG per image, bit k for the phantom's finding k."""

    kind = "masks"

    def __init__(self, manifest: str, *, uri_column: str = "uri", image_root: str | None = None) -> None:
        """Paths are relative to the manifest. Raises ManifestError when there is no such column."""
        table = read_table(manifest)
        require(table, (uri_column, COLUMN), manifest)
        folder = folder_of(manifest)
        names = zip(text(table[uri_column]), text(table[COLUMN]), strict=True)
        root = image_root or folder
        self._paths = {
            storage.absolute(storage.join(root, uri)): Path(storage.join(folder, mask)) for uri, mask in names if mask
        }

    @property
    def uris(self) -> Collection[str]:
        """The images with a mask."""
        return self._paths.keys()

    def __call__(self, uri: str) -> dict[str, Mask]:
        """The masks of one image that have a pixel. Raises ManifestError when the file cannot be read."""
        path = self._paths.get(uri)
        if path is None:
            return {}
        try:
            masks = read_masks(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path) from error
        return {finding: mask for finding, mask in zip(PHANTOM_FINDINGS, masks, strict=True) if mask.any()}


class FolderMasks:
    """Masks FOLDER/FINDING/NAME.png, NAME being that of the image without its ending; what is not black is marked."""

    kind = "masks"

    def __init__(self, folder: Path, *, uris: Iterable[str], findings: Sequence[str]) -> None:
        """Blanks and the like in a finding are `_` in its folder's name. Raises ManifestError where no mask fits."""
        self._paths: dict[str, dict[str, Path]] = {}
        stems = {uri: Path(uri.rpartition("/")[2]).stem for uri in uris}
        for finding in findings:
            paths = {path.stem: path for path in (folder / column_suffix(finding)).glob("*.png")}
            for uri, stem in stems.items():
                if stem in paths:
                    self._paths.setdefault(uri, {})[finding] = paths[stem]
        if not self._paths:
            raise ManifestError(
                f"{folder} holds no mask FINDING/NAME.png of a scored and labelled image, such as"
                f" {column_suffix(findings[0])}/{next(iter(stems.values()), 'film')}.png; check the names."
            )

    @property
    def uris(self) -> Collection[str]:
        """The images with a mask."""
        return self._paths.keys()

    def __call__(self, uri: str) -> dict[str, Mask]:
        """The masks of one image that have a pixel. Raises ManifestError when a file cannot be read."""
        masks = {finding: _grey_mask(path) for finding, path in self._paths.get(uri, {}).items()}
        return {finding: mask for finding, mask in masks.items() if mask.any()}


def _grey_mask(path: Path) -> Mask:
    """What is not black in a picture, (H, W)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 0
    except (OSError, ValueError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> ManifestError:
    """The error of a mask that cannot be read."""
    return ManifestError(f"The mask {path} cannot be read as a picture; write it again, or leave it out.")
