"""Masks of lesions and of lungs: those that a column of the manifest names, or a folder of PNG files.

Every mask is of the film's size; what has another is refused here.
"""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from cxr_ray import storage
from cxr_ray.errors import ManifestError, StorageError
from cxr_ray.evaluation.localisation.covering import Mask
from cxr_ray.images.phantom import FINDINGS as PHANTOM_FINDINGS
from cxr_ray.images.phantom import read_masks
from cxr_ray.labels.findings import column_suffix
from cxr_ray.labels.tables import folder_of, listed, read_table, require, text

COLUMN, LUNGS_COLUMN = "masks", "lungs"
Size = tuple[int, int]  # height, width of a film in pixels


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

    def __init__(
        self, manifest: str, *, sizes: Mapping[str, Size], uri_column: str = "uri", image_root: str | None = None
    ) -> None:
        """Those of the films in `sizes` (uri -> height, width). Raises ManifestError when there is no such column."""
        self._sizes = dict(sizes)
        self._paths = _named_in(manifest, COLUMN, sizes, uri_column=uri_column, image_root=image_root)

    @property
    def uris(self) -> Collection[str]:
        """The images with a mask."""
        return self._paths.keys()

    def __call__(self, uri: str) -> dict[str, Mask]:
        """The masks of one image that have a pixel. Raises ManifestError when they are unusable."""
        if uri not in self._paths:
            return {}
        masks = _read(self._paths[uri], read_masks)
        _check_size(masks, self._paths[uri], uri, self._sizes[uri])
        return {finding: mask for finding, mask in zip(PHANTOM_FINDINGS, masks, strict=True) if mask.any()}


class FolderMasks:
    """Masks FOLDER/FINDING/NAME.png, NAME being that of the image without its ending; what is not black is marked."""

    kind = "masks"

    def __init__(self, folder: Path, *, sizes: Mapping[str, Size], findings: Sequence[str]) -> None:
        """Those of the films in `sizes` (uri -> height, width). Blanks and the like in a finding are `_` in its name.

        Raises ManifestError where no mask fits, or one fits two films.
        """
        self._sizes = dict(sizes)
        self._paths: dict[str, dict[str, str]] = {}
        for finding in findings:
            for uri, path in _named_below(folder / column_suffix(finding), sizes).items():
                self._paths.setdefault(uri, {})[finding] = path
        if not self._paths:
            raise _none_fits(folder, "mask FINDING/NAME.png", f"{column_suffix(findings[0])}/", sizes)

    @property
    def uris(self) -> Collection[str]:
        """The images with a mask."""
        return self._paths.keys()

    def __call__(self, uri: str) -> dict[str, Mask]:
        """The masks of one image that have a pixel. Raises ManifestError when one is unusable."""
        masks = {}
        for finding, path in self._paths.get(uri, {}).items():
            mask = _read(path, _not_black)
            _check_size(mask, path, uri, self._sizes[uri])
            masks[finding] = mask
        return {finding: mask for finding, mask in masks.items() if mask.any()}


class LungMasks:
    """One picture per image of where its lungs are; what is not black is lung."""

    def __init__(self, paths: Mapping[str, str], sizes: Mapping[str, Size]) -> None:
        """`paths` and `sizes` (height, width) by uri."""
        self._paths, self._sizes = dict(paths), dict(sizes)

    def __call__(self, uri: str) -> Mask | None:
        """The lungs (H, W) of one image, None where none are marked. Raises ManifestError for an unusable mask."""
        if uri not in self._paths:
            return None
        mask = _read(self._paths[uri], _not_black)
        _check_size(mask, self._paths[uri], uri, self._sizes[uri])
        return mask if mask.any() else None


def find_lungs(
    manifest: str, folder: Path | None, *, sizes: Mapping[str, Size], uri_column: str, image_root: str | None
) -> LungMasks | None:
    """The lung masks FOLDER/NAME.png, or without a folder those of the manifest's column `lungs`, or None.

    Raises:
        ManifestError: The folder has no mask of a film in `sizes` (uri -> height, width), or one that fits two.
    """
    if folder is not None:
        paths = _named_below(folder, sizes)
        if not paths:
            raise _none_fits(folder, "lung mask NAME.png", "", sizes)
        return LungMasks(paths, sizes)
    if LUNGS_COLUMN not in read_table(manifest).columns:
        return None
    return LungMasks(_named_in(manifest, LUNGS_COLUMN, sizes, uri_column=uri_column, image_root=image_root), sizes)


def _named_in(
    manifest: str, column: str, sizes: Mapping[str, Size], *, uri_column: str, image_root: str | None
) -> dict[str, str]:
    """Uri of each film in `sizes` -> the mask that a column names, relative to the manifest. Raises ManifestError."""
    table = read_table(manifest)
    require(table, (uri_column, column), manifest)
    folder = folder_of(manifest)
    root = image_root or folder
    names = zip(text(table[uri_column]), text(table[column]), strict=True)
    named = {storage.absolute(storage.join(root, uri)): storage.join(folder, mask) for uri, mask in names if mask}
    return {uri: storage.absolute(mask) for uri, mask in named.items() if uri in sizes}


def _named_below(folder: Path, sizes: Mapping[str, Size]) -> dict[str, str]:
    """Uri of each film in `sizes` -> the PNG of its name in a folder.

    Raises ManifestError when a mask has the name of two films.
    """
    films: dict[str, list[str]] = {}
    for uri in sizes:
        films.setdefault(Path(uri.rpartition("/")[2]).stem, []).append(uri)
    paths = {path.stem: str(path) for path in folder.glob("*.png") if path.stem in films}
    twice = sorted(name for name in paths if len(films[name]) > 1)
    if twice:
        raise ManifestError(
            f"Several films have the name of a mask in {folder}: {listed(twice)}; name masks in a column of the"
            " manifest, or rename them."
        )
    return {films[name][0]: path for name, path in paths.items()}


def _read(path: str, read: Callable[[bytes], Mask]) -> Mask:
    """What `read` makes of a file, local or s3://. Raises ManifestError."""
    try:
        return read(storage.get(path))
    except StorageError as error:
        raise ManifestError(f"{error.detail.rstrip('.')}; write this mask again, or leave it out.") from error
    # Pillow's word for a damaged PNG may be SyntaxError.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ManifestError(f"The mask {path} cannot be read as a picture; write it again, or leave it out.") from error


def _not_black(picture: bytes) -> Mask:
    """What is not black, (H, W). Raises OSError for what is no picture."""
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("L")) > 0


def _check_size(masks: Mask, path: str, uri: str, size: Size) -> None:
    """Refuse masks (..., H, W) of another size than their film. Raises ManifestError."""
    if masks.shape[-2:] != size:
        raise ManifestError(
            f"The mask {path} has {masks.shape[-1]} x {masks.shape[-2]} pixels, its film {uri} {size[1]} x {size[0]};"
            " draw masks on the original films."
        )


def _none_fits(folder: Path, what: str, below: str, sizes: Mapping[str, Size]) -> ManifestError:
    """The error of a folder without a mask of any of the films."""
    name = Path(next(iter(sizes), "film").rpartition("/")[2]).stem
    return ManifestError(
        f"{folder} holds no {what} of a scored and labelled image, such as {below}{name}.png; check the names."
    )
