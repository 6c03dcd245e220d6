"""What a site brings to calibrate by: its labels, and the members' probabilities of the same images.

Reads a score table and a table of labels; knows no images and no model. Shapes: M members, N images, F findings.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.manifest import read_truth
from cxr_ray.labels.tables import read_table, text
from cxr_ray.models.calibration import Array
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.scoring.table import SCORED, contracts, read_scores

PATIENT_COLUMN = "patient_id"


@dataclass(frozen=True, slots=True)
class Site:
    """The labelled and scored images of a site. `clustered_by` None: no patients are named, and each image counts."""

    members: Tensor  # (M, N, F) float32, uncalibrated
    labels: Array  # (N, F), NaN not stated, and for a finding that the table of labels has not
    patients: NDArray[np.int64]  # (N,)
    clustered_by: str | None


def read_site(
    spec: EnsembleSpec,
    scores: str,
    manifest: str,
    *,
    bundle: str,
    uri_column: str,
    image_root: str | None,
    patient_column: str,
) -> Site:
    """The members' probabilities and the labels of each image that has both. Raises ConfigError, ManifestError."""
    known = contracts(scores)
    if known and spec.digest not in known:
        raise ConfigError(
            f"{scores} holds scores of {', '.join(sorted(known))}, and none of {bundle}, whose digest is {spec.digest};"
            " calibrate the bundle that made the scores."
        )
    rows, _ = read_scores(scores, wanted=["uri", "status", "member_probabilities"], ensemble_digest=spec.digest)
    truth = read_truth(manifest, findings=spec.findings, uri_column=uri_column, image_root=image_root)
    if truth.index.has_duplicates:
        first = truth.index[truth.index.duplicated()][0]
        raise ManifestError(f"The table {manifest} has several rows for an image, first for {first}; keep one each.")
    patients = _patients(manifest, patient_column, num_rows=len(truth))
    number = {uri: row for row, uri in enumerate(truth.index)}
    table = rows.to_pandas()
    table = table[(table["status"] == SCORED) & table["uri"].isin(number)]
    if table.empty:
        raise ManifestError(
            f"None of the {len(truth)} images of {manifest}, such as {truth.index[:1].tolist()}, is scored in {scores};"
            " check the uri column and the image root."
        )
    order = [number[uri] for uri in table["uri"]]
    flat = torch.from_numpy(np.stack(table["member_probabilities"].to_list()).astype(np.float32))
    members = flat.reshape(len(table), len(spec.members), len(spec.findings)).transpose(0, 1).contiguous()
    labels = truth.reindex(columns=list(spec.findings)).to_numpy(np.float64)[order]
    owners = np.arange(len(order)) if patients is None else np.unique(patients[order], return_inverse=True)[1]
    return Site(members, labels, owners, None if patients is None else patient_column)


def _patients(manifest: str, column: str, *, num_rows: int) -> NDArray[np.str_] | None:
    """The patient of each row; a blank one is a patient of its own. None: the column is missing, as it may by default.

    Raises ManifestError when another column than the default one is missing.
    """
    table = read_table(manifest)
    if column not in table.columns:
        if column == PATIENT_COLUMN:
            return None
        names = ", ".join(map(str, table.columns))
        raise ManifestError(f"The table {manifest} has no column {column} with the patients; it has {names}.")
    named = text(table[column]).to_numpy(str)
    blank = np.char.add("row ", np.arange(num_rows).astype(str))
    return np.where(named == "", blank, np.char.add("patient ", named))
