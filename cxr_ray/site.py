"""What a site brings to calibrate by: its labels, and the members' probabilities of the same images.

Reads a score table and a table of labels; knows no images and no model. Shapes: M members, N images, F findings.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.manifest import truth_of
from cxr_ray.labels.matching import PATIENT_KEY, Counts, match, patients_of
from cxr_ray.labels.tables import listed, read_table
from cxr_ray.models.calibration import Array
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.scoring.table import SCORED, contracts, read_scores


@dataclass(frozen=True, slots=True)
class Site:
    """The labelled and scored images of a site. `clustered_by` None: no patients are named, and each image counts."""

    members: Tensor  # (M, N, F) float32, uncalibrated
    labels: Array  # (N, F), NaN not stated, and for a finding that the table of labels has not
    patients: NDArray[np.int64]  # (N,)
    clustered_by: str | None
    counts: Counts
    notes: tuple[str, ...]


def read_site(
    spec: EnsembleSpec,
    scores: str,
    manifest: str,
    *,
    bundle: str,
    uri_column: str,
    image_root: str | None,
    patient_column: str | None,
) -> Site:
    """The members' probabilities and the labels of each image that has both. Raises ConfigError, ManifestError."""
    known = contracts(scores)
    if known and spec.digest not in known:
        raise ConfigError(
            f"{scores} holds scores of {', '.join(sorted(known))}, and none of {bundle}, whose digest is {spec.digest};"
            " calibrate the bundle that made the scores."
        )
    wanted = ["uri", "status", "member_probabilities", PATIENT_KEY]
    rows, _ = read_scores(scores, wanted=wanted, ensemble_digest=spec.digest)
    table = read_table(manifest)
    truth = truth_of(table, manifest, findings=spec.findings, uri_column=uri_column, image_root=image_root)
    scored = (rows["status"].to_pandas() == SCORED).to_numpy(bool)
    found = match(truth.index, rows["uri"].to_pandas(), scored, manifest=manifest, output=scores)
    kept, lacking = _whole(rows.filter(pa.array(found.taken)), len(spec.members) * len(spec.findings), scores)
    names = kept["uri"].to_pylist()
    stated, keys = table.set_axis(truth.index).loc[names], kept[PATIENT_KEY].to_pandas()
    patients = patients_of(stated, uris=names, keys=keys, column=patient_column, manifest=manifest)
    flat = pc.list_flatten(kept["member_probabilities"]).to_numpy().astype(np.float32)
    members = torch.from_numpy(flat).reshape(len(names), len(spec.members), len(spec.findings)).transpose(0, 1)
    return Site(
        members=members.contiguous(),
        labels=truth.reindex(columns=list(spec.findings)).loc[names].to_numpy(np.float64),
        patients=np.unique(patients.names, return_inverse=True)[1],
        clustered_by=patients.clustered_by,
        counts=found.counts,
        notes=(*found.notes, *patients.notes, *lacking),
    )


def _whole(rows: pa.Table, length: int, scores: str) -> tuple[pa.Table, list[str]]:
    """The rows with all `length` probabilities of the members, and a note that names the others.

    Raises ManifestError when there are none.
    """
    whole = pc.fill_null(pc.equal(pc.list_value_length(rows["member_probabilities"]), length), False)
    kept, lacking = rows.filter(whole), rows.filter(pc.invert(whole))["uri"].to_pylist()
    if not kept.num_rows:
        raise ManifestError(
            f"None of the labelled rows in {scores}, such as {lacking[0]}, has the members' probabilities to calibrate"
            " by; score the images again."
        )
    said = f"{len(lacking):,} scored images lack the members' probabilities and take no part: {listed(lacking)}."
    return kept, [said] if lacking else []
