"""`cxr-ray evaluate`: everything that scores and labels of the same images say about each other. Loads no model.

Brings together what `labelled` reads and what `measured`, `rules`, `subgroups`, `curves` and `agreement` compute, and
writes it as JSON and Parquet.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxr_ray import storage
from cxr_ray.evaluation.agreement.signals import decide
from cxr_ray.evaluation.agreement.study import AgreementStudy, agreement_study
from cxr_ray.evaluation.bootstrap import MACRO, Interval
from cxr_ray.evaluation.labelled import Labelled, read_labelled
from cxr_ray.evaluation.localisation.marks import COLUMN_MARKS, Marks, located_in
from cxr_ray.evaluation.metrics import MEASURES
from cxr_ray.evaluation.performance.curves import curves
from cxr_ray.evaluation.performance.measured import Measured, measure
from cxr_ray.evaluation.performance.rules import Comparison, compare_rules
from cxr_ray.evaluation.performance.subgroups import GROUP_MEASURES, Subgroups, choose_columns, compare_groups
from cxr_ray.labels.tables import listed

WEIGHTED = "weighted"
NUM_DRAWS = 1000
_TABLES = (
    ("auroc", "average_precision", "f1", "f1_paper"),
    ("sensitivity", "specificity", "mcc"),
    ("brier", "calibration_error", "hamming"),
)
_ON_CALIBRATION = (
    "Noise alone makes a calibration error: its interval takes that off, and may lie below the value, which does not."
)
_ON_RARE = "macro intervals are over the draws that define every finding, and absent where fewer than half of them do."
_COUNTED = ("num_positives", "num_negatives")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One ensemble's scores against labels; every interval is under the same draws of patients."""

    labelled: Labelled
    measured: Measured
    curves: dict[str, dict[str, Any]]
    rules: Comparison
    subgroups: Subgroups
    agreement: AgreementStudy
    draws: int

    @property
    def truth(self) -> pd.DataFrame:
        """The labels by uri, of the images that took part."""
        return self.labelled.truth

    @property
    def metrics(self) -> pd.DataFrame:
        """The values per finding, without intervals."""
        return self.measured.points

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers has to know."""
        rare = self.measured.too_rare("auroc")
        said = [f"Many draws of patients hold one class only of {listed(rare)}: {_ON_RARE}"] if rare else []
        return (*self.labelled.notes, *said, _ON_CALIBRATION, *self.rules.notes, *self.subgroups.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the labels as plain values; an undefined number is None."""
        data = self.labelled
        return {
            "ensemble_digest": data.contract.ensemble_digest,
            **data.counts.to_dict(),
            "num_patients": len(set(data.patients)),
            "clustered_by": data.clustered_by,
            "draws": self.draws,
            "measures": list(MEASURES),
            "findings": {finding: self._finding(f) for f, finding in enumerate(data.findings)},
            MACRO: {
                name: {**self.measured.macro(name).to_dict(), "num_defined": self.measured.num_defined(name)}
                for name in MEASURES
            },
            WEIGHTED: {name: self.measured.weighted(name).to_dict() for name in MEASURES},
            "rules": self.rules.to_dict(),
            "differences": self.rules.differences_to_dict(),
            "curves": self.curves,
            "subgroups": self.subgroups.to_dict(),
            "gaps": self.subgroups.gaps_to_dict(),
            "agreement": self.agreement.to_dict(),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Tables for people: findings, rules, subgroups, what agreement says, and notes."""
        drawn = f"{len(set(self.labelled.patients)):,} patients; in brackets 95 % intervals of {self.draws:,} draws."
        tables = [line for shown in _TABLES for line in ["", *self._table(shown)]]
        notes = ["", *(f"Note: {note}" for note in self.notes)] if self.notes else []
        others = [*self.rules.lines(), *self.subgroups.lines(), "", *self.agreement.lines()]
        return [self.labelled.counts.words(), drawn, *tables, *others, *notes]

    def write(self, folder: str) -> None:
        """Write evaluation.json, metrics.parquet, rules.parquet and subgroups.parquet. Raises StorageError."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        storage.put(storage.join(folder, "evaluation.json"), text.encode())
        frames = {"metrics": self.metrics_frame(), "rules": self.rules_frame(), "subgroups": self.subgroups_frame()}
        for name, frame in frames.items():
            sink = io.BytesIO()
            frame.to_parquet(sink, index=False)
            storage.put(storage.join(folder, f"{name}.parquet"), sink.getvalue())

    def metrics_frame(self) -> pd.DataFrame:
        """One row per finding (then macro and weighted) and measure: value, low, high; NaN where undefined."""
        rows = [
            (name, measure, interval)
            for measure in MEASURES
            for name, interval in [
                *((finding, self.measured.interval(f, measure)) for f, finding in enumerate(self.labelled.findings)),
                (MACRO, self.measured.macro(measure)),
                (WEIGHTED, self.measured.weighted(measure)),
            ]
        ]
        return _frame(rows, ("finding", "measure"))

    def rules_frame(self) -> pd.DataFrame:
        """One row per member or rule and measure, macro: value, low, high."""
        rows = [
            (rule.name, rule.kind, name, rule.measured.macro(name)) for rule in self.rules.rules for name in MEASURES
        ]
        return _frame(rows, ("rule", "kind", "measure"))

    def subgroups_frame(self) -> pd.DataFrame:
        """One row per column, group, finding (or macro) and measure: images, patients, value, low, high."""
        rows = [
            (group.column, group.name, group.num_images, group.num_patients, finding, name, interval)
            for groups in self.subgroups.columns.values()
            for group in groups
            for name in GROUP_MEASURES
            for finding, interval in [
                *((one, group.measured.interval(f, name)) for f, one in enumerate(self.labelled.findings)),
                (MACRO, group.macro(name)),
            ]
        ]
        return _frame(rows, ("column", "group", "num_images", "num_patients", "finding", "measure"))

    def _finding(self, f: int) -> dict[str, Any]:
        """The counts, the threshold and the measures of one finding."""
        row = self.measured.points.iloc[f]
        prevalence = float(row["prevalence"])
        return {
            **{name: int(row[name]) for name in _COUNTED},
            "prevalence": None if np.isnan(prevalence) else prevalence,
            "threshold": float(row["threshold"]),
            **{name: self.measured.interval(f, name).to_dict() for name in MEASURES},
        }

    def _table(self, shown: Sequence[str]) -> Iterator[str]:
        """A line per finding, the macro mean and the mean weighted by prevalence."""
        findings, points = self.labelled.findings, self.measured.points
        width = max(len("macro, of findings"), *map(len, findings))
        yield f"{'finding':<{width}} {'positives':>9}" + "".join(f"{name:>25}" for name in shown)
        for f, finding in enumerate(findings):
            values = "".join(f"{self.measured.interval(f, name).words():>25}" for name in shown)
            yield f"{finding:<{width}} {points['num_positives'].iloc[f]:>9,}" + values
        values = "".join(f"{self.measured.macro(name).words():>25}" for name in shown)
        yield f"{'macro':<{width}} {'':>9}" + values
        counts = "".join(f"{f'{self.measured.num_defined(name)} of {len(findings)}':>25}" for name in shown)
        yield f"{'macro, of findings':<{width}} {'':>9}" + counts
        values = "".join(f"{self.measured.weighted(name).words():>25}" for name in shown)
        yield f"{'by prevalence':<{width}} {'':>9}" + values


def evaluate(
    output: str,
    manifest: str,
    *,
    uri_column: str = "uri",
    image_root: str | None = None,
    ensemble_digest: str | None = None,
    patient_column: str | None = None,
    by: Sequence[str] = (),
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    marks: Marks = COLUMN_MARKS,
) -> Evaluation:
    """One ensemble's scores below `output` against a table of labels; findings without labels stay out.

    Args:
        output: Folder or s3:// prefix of the scores.
        manifest: CSV or Parquet table with labels per image.
        uri_column: Its column with the image.
        image_root: Folder of relative images; by default the table's.
        ensemble_digest: Which ensemble, where there are several.
        patient_column: Its column with the patient, who is drawn; by default patient_id, where there is one.
        by: Columns of the table or the headers whose groups are compared; by default sex, age, view and manufacturer.
        num_draws: Draws of patients for the intervals; 0 for none.
        seed: Which draws.
        marks: Where lesions are marked, to tell whether the peaks of the stored maps lie in them; by default the
            table's column `masks`, where there is one.

    Raises:
        ConfigError: There are no scores, several ensembles and none was chosen, a column of `by` cannot group, or
            `marks` contradict each other.
        ManifestError: The table is unusable, names an image twice, or none of its images is scored.
    """
    data = read_labelled(
        output,
        manifest,
        uri_column=uri_column,
        image_root=image_root,
        ensemble_digest=ensemble_digest,
        patient_column=patient_column,
    )
    columns = choose_columns(data.groups, data.ungrouped, by)
    places = located_in(
        output, manifest, data.truth, data.contract, marks, uri_column=uri_column, image_root=image_root
    )
    patients, findings = data.patients.tolist(), data.findings
    return Evaluation(
        labelled=data,
        measured=measure(
            data.labels,
            data.probabilities,
            thresholds=data.thresholds,
            patients=patients,
            findings=findings,
            num_draws=num_draws,
            seed=seed,
        ),
        curves=curves(
            data.labels, data.probabilities, patients=patients, findings=findings, num_draws=num_draws, seed=seed
        ),
        rules=compare_rules(data, num_draws=num_draws, seed=seed),
        subgroups=compare_groups(data, columns, num_draws=num_draws, seed=seed),
        agreement=_agreement(data, places, num_draws=num_draws, seed=seed),
        draws=num_draws,
    )


def _agreement(data: Labelled, located: pd.DataFrame | None, *, num_draws: int, seed: int) -> AgreementStudy:
    """What votes, spread and map agreement say of errors."""
    places = None if located is None else located.reindex(index=list(data.uris), columns=list(data.findings))
    decisions = decide(
        labels=data.labels,
        probabilities=data.probabilities,
        thresholds=np.array(data.thresholds),
        votes=data.votes,
        spread=data.spread,
        member_probabilities=data.member_probabilities,
        map_agreement=None if np.isnan(data.map_agreement).all() else data.map_agreement,
        located=None if places is None else places.to_numpy(float),
        patients=data.patients.tolist(),
        findings=data.findings,
        num_members=len(data.contract.members),
    )
    return agreement_study(decisions, num_draws=num_draws, seed=seed)


def _frame(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> pd.DataFrame:
    """Rows that end with an interval as a table, the interval as its three numbers."""
    numbers = [(*row[:-1], *_numbers(row[-1])) for row in rows]
    return pd.DataFrame(numbers, columns=[*names, "value", "low", "high"])


def _numbers(interval: Interval) -> tuple[float, float, float]:
    """The three numbers of an interval."""
    return interval.value, interval.low, interval.high
