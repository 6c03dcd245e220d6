"""The field's data sets, each read as published and brought into one form (`labels.tables.Labelled`).

One module per data set knows its columns and nothing else; what all share happens here, in this order: views,
findings with too few images, images without a finding. No pixels, no split.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ray.config import ManifestConfig, Source
from cxr_ray.errors import ManifestError
from cxr_ray.labels.sources import chexpert, mimic, nih, padchest, plain, vindr
from cxr_ray.labels.tables import RESERVED, Labelled, listed, near

_READERS: dict[Source, Callable[[ManifestConfig], Labelled]] = {
    "csv": plain.read,
    "padchest": padchest.read,
    "nih14": nih.read,
    "chexpert": chexpert.read,
    "mimic": mimic.read,
    "vindr": vindr.read,
}
_VIEWS: dict[Source, tuple[str, ...]] = {"padchest": ("PA",), "chexpert": ("AP", "PA"), "mimic": ("AP", "PA")}


def read_source(config: ManifestConfig) -> Labelled:
    """Read the data set and leave out what the settings do not want; `notes` say what each filter left.

    Raises:
        ManifestError: A table or a column is missing, labels are unusable, or no image or finding is left.
    """
    _check_names(config.findings, config)
    labelled = _READERS[config.source](config)
    _check_names(labelled.findings, config)
    notes = list(labelled.notes) or [f"{len(labelled.frame):,} images in the table"]
    views = kept_views(config)
    frame = labelled.frame
    if views and "view" in frame:
        frame = _narrow(frame, frame["view"].isin(views).to_numpy(), f"of view {' or '.join(views)}", notes, config)
    findings = _frequent(frame, labelled.findings, notes, config)
    if config.require_finding:
        present = (frame[list(findings)] == 1).any(axis=1).to_numpy()
        frame = _narrow(frame, present, "with one of the findings", notes, config)
    return replace(labelled, frame=frame.reset_index(drop=True), findings=findings, notes=tuple(notes))


def kept_views(config: ManifestConfig) -> tuple[str, ...]:
    """The views that are kept, as the table spells them; none where all of them are."""
    return _VIEWS.get(config.source, ()) if config.views is None else config.views


def _check_names(findings: Sequence[str], config: ManifestConfig) -> None:
    """Refuse findings, once they are known, that are named like a column of our own, or policies for no finding."""
    own = [finding for finding in findings if finding in RESERVED]
    if own:
        raise ManifestError(
            f"The finding {listed(own)} of {config.path} is named like a column of the training table"
            f" ({', '.join(RESERVED)}); rename it in the table, for example '{own[0]} present'."
        )
    strangers = [f"{name!r}{near(name, findings)}" for name in config.uncertain_findings if name not in findings]
    if findings and strangers:
        raise ManifestError(f"manifest.uncertain_findings names no finding of the run: {listed(strangers)}.")


def _narrow(
    frame: pd.DataFrame, wanted: npt.NDArray[np.bool_], what: str, notes: list[str], config: ManifestConfig
) -> pd.DataFrame:
    """The wanted rows; says in `notes` how many they are, and raises ManifestError when there are none."""
    kept = frame[wanted]
    has = f"; the table has the views {listed(sorted(set(frame['view'])))}" if "view" in frame else ""
    notes.append(f"{len(kept):,} {what}")
    if kept.empty:
        raise ManifestError(f"No image of {config.path} is left: {', '.join(notes)}{has}; change views or findings.")
    return kept


def _frequent(
    frame: pd.DataFrame, findings: Sequence[str], notes: list[str], config: ManifestConfig
) -> tuple[str, ...]:
    """The findings with at least `min_images` positive images, in order; raises ManifestError when there are none."""
    positives = (frame[list(findings)] == 1).sum()
    kept = tuple(finding for finding in findings if positives[finding] >= config.min_images)
    rare = [f"{finding} ({positives[finding]:,})" for finding in findings if finding not in kept]
    if rare:
        notes.append(f"{len(rare)} findings with fewer than {config.min_images:,} images left out: {', '.join(rare)}")
    if not kept:
        raise ManifestError(
            f"No finding of {config.path} has {config.min_images:,} positive images: {listed(rare)}; lower min_images."
        )
    return kept
