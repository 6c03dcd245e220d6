"""Where lesions are marked: by a folder of masks, a table of boxes, or a column of the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.localisation.boxes import Boxes, parse_frame
from cxr_ray.evaluation.localisation.masks import COLUMN, ColumnMasks, FolderMasks, Regions
from cxr_ray.evaluation.localisation.pointing import located
from cxr_ray.labels.tables import read_table
from cxr_ray.scoring.table import SCORED, Contract, read_scores


@dataclass(frozen=True, slots=True)
class Marks:
    """What a user says of the marks; nothing stands for the manifest's column `masks`."""

    masks: Path | None = None
    boxes: str | None = None
    boxes_frame: str | None = None

    @property
    def said(self) -> bool:
        """Whether anything was said."""
        return self != COLUMN_MARKS


COLUMN_MARKS = Marks()


def find_regions(
    manifest: str,
    marks: Marks,
    *,
    sizes: Mapping[str, tuple[int, int]],
    findings: Sequence[str],
    uri_column: str,
    image_root: str | None,
) -> Regions:
    """The marks of the images in `sizes`, uri -> rows and columns of the film.

    Raises:
        ConfigError: Both masks and boxes are given, or a frame without boxes.
        ManifestError: The marks are unusable, or there are none.
    """
    if marks.masks is not None and marks.boxes is not None:
        raise ConfigError("--masks and --boxes both say where lesions are; give one of them.")
    if marks.boxes_frame is not None and marks.boxes is None:
        raise ConfigError("--boxes-frame says nothing without --boxes; give the table of boxes too.")
    if marks.boxes is not None:
        return Boxes(marks.boxes, frame=parse_frame(marks.boxes_frame), sizes=sizes, findings=findings)
    if marks.masks is not None:
        return FolderMasks(marks.masks, sizes=sizes, findings=findings)
    return ColumnMasks(manifest, sizes=sizes, uri_column=uri_column, image_root=image_root)


def film_sizes(scores: pa.Table) -> dict[str, tuple[int, int]]:
    """Uri -> height and width of the film, of the scored rows of a score table."""
    rows = scores.filter(pc.field("status") == SCORED).select(["uri", "rows", "columns"]).to_pylist()
    return {row["uri"]: (row["rows"], row["columns"]) for row in rows}


def located_in(
    output: str,
    manifest: str,
    truth: pd.DataFrame,
    contract: Contract,
    marks: Marks = COLUMN_MARKS,
    *,
    uri_column: str = "uri",
    image_root: str | None = None,
) -> pd.DataFrame | None:
    """Whether the peaks of the stored maps lie in the lesions, by uri and finding: 1, 0, NaN; None without any mark.

    Raises as `find_regions`.
    """
    if not marks.said and COLUMN not in read_table(manifest).columns:
        return None
    digest = contract.ensemble_digest
    films, _ = read_scores(output, wanted=["uri", "status", "rows", "columns"], ensemble_digest=digest)
    sizes = {uri: size for uri, size in film_sizes(films).items() if uri in truth.index}
    regions = find_regions(
        manifest, marks, sizes=sizes, findings=contract.findings, uri_column=uri_column, image_root=image_root
    )
    marked = pc.field("uri").isin(pa.array(sorted(regions.uris), pa.string()))  # typed: there may be none
    scores, _ = read_scores(output, wanted=["uri", "findings"], ensemble_digest=digest, where=marked)
    hits = located(scores, truth, regions, findings=contract.findings)
    return pd.DataFrame(hits, index=scores["uri"].to_pylist(), columns=list(contract.findings))
