"""Scores and labels of the same images as arrays, read once: what every study of a scored set begins with.

Shapes: N labelled images with a score, F findings that the ensemble and the table share, A findings of the ensemble,
M members. Reads the score table without a byte of its heat maps; knows no pixels and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.grouping import groups_of
from cxr_ray.labels.findings import column_suffix
from cxr_ray.labels.manifest import truth_of
from cxr_ray.labels.matching import PATIENT_COLUMN, PATIENT_KEY, Counts, match, patients_of
from cxr_ray.labels.tables import listed, numbers_of, read_table, text
from cxr_ray.scoring.table import HEADER, SCORED, Contract, choose_contract, read_contract, read_scores, score_files

Array = NDArray[np.float32]
_KINDS = ("probability", "votes", "spread")
_MAP_FIELDS = ("findings.list.element.finding", "findings.list.element.map_agreement")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Every labelled image that has a score, in order of uri."""

    contract: Contract
    uris: tuple[str, ...]
    findings: tuple[str, ...]
    known: tuple[int, ...]  # the place of each in the contract
    labels: Array  # (N, F) 1, 0 or NaN
    probabilities: Array  # (N, F)
    votes: Array  # (N, F)
    spread: Array  # (N, F)
    all_member_probabilities: Array | None  # (N, M, A), None where rows lack them
    map_agreement: Array  # (N, F), NaN where there is no map
    patients: NDArray[np.str_]  # (N,)
    clustered_by: str | None  # the column that names the patients
    groups: pd.DataFrame  # (N, columns) of group names, empty where not stated
    ungrouped: dict[str, str]  # why each other column cannot group
    counts: Counts
    notes: tuple[str, ...]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Threshold of each of the F findings."""
        return tuple(self.contract.thresholds[f] for f in self.known)

    @property
    def member_probabilities(self) -> Array | None:
        """(N, M, F) of the findings that have labels."""
        whole = self.all_member_probabilities
        return None if whole is None else whole[:, :, list(self.known)]

    @property
    def truth(self) -> pd.DataFrame:
        """The labels by uri, one column per finding."""
        return pd.DataFrame(self.labels, index=pd.Index(self.uris, name="uri"), columns=list(self.findings))


def read_labelled(
    output: str,
    manifest: str,
    *,
    uri_column: str = "uri",
    image_root: str | None = None,
    ensemble_digest: str | None = None,
    patient_column: str | None = None,
) -> Labelled:
    """The scores of one ensemble below `output` that the table `manifest` has labels for.

    Patients come from `patient_column`, by default `patient_id`; where the table has none, from the score table's
    patient_key if every row has one; else each image counts as a patient, and a note says so.

    Raises:
        ConfigError: There are no scores, several ensembles and none was chosen, or files of one ensemble that differ
            in their thresholds.
        ManifestError: The table is unusable, names an image twice, or none of its images is scored.
    """
    contract = choose_contract(output, ensemble_digest)
    maps = _map_agreement(output, contract)
    table = read_table(manifest)
    truth = truth_of(table, manifest, findings=contract.findings, uri_column=uri_column, image_root=image_root)
    known = tuple(f for f, finding in enumerate(contract.findings) if finding in truth.columns)
    findings = tuple(contract.findings[f] for f in known)
    rows, _ = read_scores(output, wanted=_wanted(contract, findings), ensemble_digest=contract.ensemble_digest)
    uris, status = rows["uri"].to_pandas(), rows["status"].to_pandas()
    found = match(truth.index, uris, (status == SCORED).to_numpy(bool), manifest=manifest, output=output)
    kept = rows.filter(pa.array(found.taken))
    names = tuple(kept["uri"].to_pylist())
    stated = table.set_axis(truth.index).loc[list(names)]
    labels = truth.loc[list(names), list(findings)].to_numpy(np.float32)
    keys = kept[PATIENT_KEY].to_pandas()
    patients = patients_of(stated, uris=names, keys=keys, column=patient_column, manifest=manifest)
    members, missing = _members(kept, contract)
    arrays = {kind: _matrix(kept, kind, findings) for kind in _KINDS}
    notes = [
        *found.notes,
        *_findings_notes(table, contract, findings, skipped=(uri_column, patient_column or PATIENT_COLUMN)),
        *_one_class(labels, findings),
        *patients.notes,
        *missing,
    ]
    header = kept.select([column.name for column in HEADER if column.name in kept.column_names]).to_pandas()
    groups, ungrouped = groups_of(stated, header, skipped=(uri_column, patients.clustered_by, *contract.findings))
    return Labelled(
        contract=contract,
        uris=names,
        findings=findings,
        known=known,
        labels=labels,
        probabilities=arrays["probability"],
        votes=arrays["votes"],
        spread=arrays["spread"],
        all_member_probabilities=members,
        map_agreement=_joined(maps, kept, findings),
        patients=patients.names,
        clustered_by=patients.clustered_by,
        groups=groups,
        ungrouped=ungrouped,
        counts=found.counts,
        notes=tuple(notes),
    )


def _wanted(contract: Contract, findings: Sequence[str]) -> list[str]:
    """The columns of the score table that are read."""
    header = [column.name for column in HEADER if pa.types.is_string(column.type)]
    numbers = [f"{kind}_{column_suffix(finding)}" for kind in _KINDS for finding in findings]
    return ["uri", "scored_at", "status", *header, *numbers, "member_probabilities"]


def _matrix(rows: pa.Table, kind: str, findings: Sequence[str]) -> Array:
    """The columns of one kind side by side, (N, F)."""
    columns = [rows[f"{kind}_{column_suffix(finding)}"] for finding in findings]
    return np.stack([column.cast(pa.float32()).to_numpy() for column in columns], axis=1)


def _members(rows: pa.Table, contract: Contract) -> tuple[Array | None, list[str]]:
    """The members' probabilities (N, M, A), or None and a note where a row lacks them."""
    column = rows["member_probabilities"].combine_chunks()
    shape = (rows.num_rows, len(contract.members), len(contract.findings))
    if column.null_count or not pc.all(pc.equal(pc.list_value_length(column), shape[1] * shape[2])).as_py():
        return None, ["Some rows lack the members' probabilities: members and rules are not compared."]
    return pc.list_flatten(column).to_numpy(zero_copy_only=False).reshape(shape), []


def _map_agreement(output: str, contract: Contract) -> pd.DataFrame:
    """Uri, scored_at, finding and map agreement of all reported findings, heat maps left on disk.

    Raises ConfigError where two files of one ensemble differ in what all of its rows share.
    """
    parts = []
    for uri in score_files(output, contract):
        if (other := read_contract(uri)).thresholds != contract.thresholds or other.findings != contract.findings:
            raise ConfigError(
                f"{uri} says that it is of the ensemble {contract.ensemble_digest}, but has other thresholds or"
                " findings than its other files; remove the file that was edited, or score again."
            )
        filesystem, path = storage.filesystem(uri)
        with filesystem.open_input_file(path) as file:
            parts.append(pq.ParquetFile(file).read(columns=["uri", "scored_at", *_MAP_FIELDS]))
    whole = pa.concat_tables(parts).combine_chunks()
    structs = whole["findings"]
    owners, fields = pc.list_parent_indices(structs), pc.list_flatten(structs).combine_chunks()
    frame: pd.DataFrame = whole.select(["uri", "scored_at"]).take(owners).to_pandas()
    values = fields.field("map_agreement").to_numpy(zero_copy_only=False).astype(np.float32)
    frame["finding"], frame["map_agreement"] = fields.field("finding").to_pandas(), values
    return frame


def _joined(maps: pd.DataFrame, rows: pa.Table, findings: Sequence[str]) -> Array:
    """The map agreement (N, F) of the rows that are current, NaN where there is no map."""
    keys = rows.select(["uri", "scored_at"]).to_pandas().assign(row=range(rows.num_rows))
    current = keys.merge(maps[maps["finding"].isin(findings)], on=["uri", "scored_at"])
    values = np.full((rows.num_rows, len(findings)), np.nan, np.float32)
    values[current["row"], pd.Index(list(findings)).get_indexer(current["finding"])] = current["map_agreement"]
    return values


def _findings_notes(
    table: pd.DataFrame, contract: Contract, findings: Sequence[str], *, skipped: Sequence[str]
) -> list[str]:
    """Findings of the ensemble without labels, and columns of labels that the ensemble does not look for."""
    without = [finding for finding in contract.findings if finding not in findings]
    foreign = [
        str(name)
        for name in table.columns
        if name not in (*contract.findings, *skipped) and _looks_like_labels(table[name])
    ]
    said = [f"The table has no labels of {listed(without)}."] if without else []
    return said + ([f"The ensemble does not look for {listed(foreign)}."] if foreign else [])


def _looks_like_labels(column: "pd.Series[str]") -> bool:
    """Whether a column holds 0, 1 and blanks only, and is not blank."""
    numbers = numbers_of(column)
    return bool(numbers.notna().any() and ((text(column) == "") | numbers.isin([0, 1])).all())


def _one_class(labels: Array, findings: Sequence[str]) -> list[str]:
    """The findings whose ranking is undefined."""
    undefined = [
        f for f, truth in zip(findings, labels.T, strict=True) if not ((truth == 1).any() and (truth == 0).any())
    ]
    return [f"One class or no label at all, so no AUROC: {listed(undefined)}."] if undefined else []
