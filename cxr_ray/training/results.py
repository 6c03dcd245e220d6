"""What is measured of a finished ensemble for its card: metrics with intervals and calibration, part by part.

Shapes: M members, N images of the part, F findings. Knows no Ray and writes no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from cxr_ray.config import LossConfig, OptimizeConfig, TrainConfig
from cxr_ray.evaluation import bootstrap
from cxr_ray.evaluation.metrics import finding_metrics
from cxr_ray.labels.manifest import Manifest
from cxr_ray.labels.sources import kept_views
from cxr_ray.models import ensemble
from cxr_ray.models.calibration import Calibration, calibration_errors
from cxr_ray.models.card import CardFacts, FindingResult, PartResult
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.losses import loss_function
from cxr_ray.training.second_stage import stage_settings

_VERSIONS = ("torch", "timm", "ray", "numpy", "scikit-learn")
_OWN_WEIGHTS = {
    "w_cel": "positives and negatives weighted by their numbers in each batch",
    "distribution_balanced": "each image weighted by its findings",
}
_ORDERS = {
    "shuffle": "shuffled",
    "class_aware": "class-aware sampling, the findings in turn and an image of each (Shen 2016)",
}


def part_result(
    spec: EnsembleSpec, logits: torch.Tensor, inputs: ModelInputs, *, manifest: Manifest, part: str
) -> PartResult:
    """Metrics of the members' logits (M, N, F) on one part, with patient-clustered intervals."""
    patients = patients_of(manifest, inputs)
    raw = ensemble.combine(logits, replace(spec, calibration=Calibration.identity(len(spec.findings))))
    before = raw.probabilities.double().numpy()
    after = ensemble.combine(logits, spec).probabilities.double().numpy()
    points = finding_metrics(inputs.labels, after, spec.thresholds, spec.findings)
    bounds = bootstrap.intervals(
        inputs.labels, after, thresholds=spec.thresholds, patients=patients, findings=spec.findings
    )
    mean = points[["num_positives", "num_negatives"]].sum().to_dict() | points[list(bootstrap.RANKED)].mean().to_dict()
    measured = [*points.to_dict("records"), mean]
    rows = [
        _row(name, values, limits)
        for name, values, limits in zip([*spec.findings, "mean"], measured, bounds.to_dict("records"), strict=True)
    ]
    truth = inputs.labels.astype(np.float64)
    return PartResult(
        part=part,
        images=len(inputs),
        patients=len(set(patients)) if manifest.patients_known else None,
        findings=tuple(rows[:-1]),
        macro=rows[-1],
        error_before=calibration_errors(before, truth),
        error_after=calibration_errors(after, truth),
    )


def _row(name: str, points: Mapping[Any, Any], bounds: Mapping[Any, Any]) -> FindingResult:
    """One line of a card's table."""
    ranked = [
        (float(points[metric]), float(bounds[f"{metric}_low"]), float(bounds[f"{metric}_high"]))
        for metric in bootstrap.RANKED
    ]
    positives, negatives = int(points["num_positives"]), int(points["num_negatives"])
    return FindingResult(name, positives, positives + negatives, *ranked)


def readable(manifest: Manifest, parts: Sequence[ModelInputs]) -> Manifest:
    """The training table without the images that could not be read: those of no part."""
    read = {uri for inputs in parts for uri in inputs.uris}
    return replace(manifest, frame=manifest.frame[manifest.frame["uri"].isin(read)])


def card_facts(config: TrainConfig, manifest: Manifest, results: Sequence[PartResult], *, unreadable: int) -> CardFacts:
    """What the card says of the data and of how it was learnt; `manifest` is without the unreadable images."""
    counts, frame = manifest.counts(), manifest.frame
    parts = [str(part) for part in counts.index]
    positives = counts[list(manifest.findings)].to_numpy(np.int64).tolist()
    patients = {part: int(frame.loc[frame["part"] == part, "patient_id"].nunique()) for part in parts}
    own_weights = config.optimize.loss.name in _OWN_WEIGHTS
    return CardFacts(
        images=dict(zip(parts, counts["images"].tolist(), strict=True)),
        patients=patients if manifest.patients_known else {},
        unreadable=unreadable,
        positives=dict(zip(parts, positives, strict=True)),
        fitting=fitting_of(config.optimize),
        weights=() if own_weights else loss_weights(config, manifest),
        results=results,
        population=population(manifest, parts),
        views=kept_views(config.manifest),
        versions={name: version(name) for name in _VERSIONS},
    )


def fitting_of(optimize: OptimizeConfig) -> list[str]:
    """How the members were fitted, stage by stage: loss, weighting and order of the images."""
    told = [f"Loss: {loss_of(optimize.loss)}. Order of the images: {_ORDERS[optimize.sampler]}."]
    if optimize.second_stage is not None:
        stage = stage_settings(optimize, optimize.second_stage)
        told.append(
            "Second stage (cRT, Kang 2020): the classifier anew, on features that stayed as they were. Loss:"
            f" {loss_of(stage.loss)}. Order of the images: {_ORDERS[stage.sampler]}."
        )
    return told


def loss_of(loss: LossConfig) -> str:
    """A loss in words: its name, how it weighs the findings, and all that departs from the defaults."""
    by_finding = "no weights" if loss.weighting == "none" else f"positives weighted ({loss.weighting})"
    told = [loss.name, _OWN_WEIGHTS.get(loss.name, by_finding)]
    told += [f"weights from {loss.deferred:.0%} of the steps on"] if loss.deferred else []
    default = LossConfig(name=loss.name, weighting=loss.weighting, deferred=loss.deferred)
    told += [f"{key} {value}" for key, value in loss.model_dump().items() if value != getattr(default, key)]
    return ", ".join(told)


def loss_weights(config: TrainConfig, manifest: Manifest) -> list[float]:
    """Weight (F,) of the positives of each finding in the configured loss, from the training part."""
    labels = manifest.frame.loc[manifest.frame["part"] == "train", list(manifest.findings)].to_numpy(np.float64)
    positives, negatives = (torch.from_numpy((labels == value).sum(axis=0)) for value in (1, 0))
    loss = loss_function(config.optimize.loss, positives=positives, negatives=negatives, num_images=len(labels))
    return [float(weight) for weight in loss.weights]


def population(manifest: Manifest, parts: Sequence[str]) -> str:
    """Who is on the films of the training table, as far as it says: ages, sexes and views of all parts together."""
    known = manifest.frame[manifest.frame["part"].isin(parts)]
    patients = f"{known['patient_id'].nunique():,} patients"
    said = [patients if manifest.patients_known else f"{len(known):,} images (patients unknown)"]
    if "age" in known and known["age"].notna().any():
        low, middle, high = known["age"].quantile([0.05, 0.5, 0.95])
        said.append(f"ages {low:.0f} to {high:.0f} years (5th to 95th percentile), median {middle:.0f}")
    for column in ("sex", "view", "manufacturer"):
        if column in known and known[column].notna().any():
            shares = known[column].dropna().value_counts(normalize=True).head(5)
            said.append(f"{column} " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    return "; ".join(said)


def patients_of(manifest: Manifest, inputs: ModelInputs) -> list[str]:
    """The patient (N,) of each image of a part."""
    owner = manifest.frame.set_index("uri")["patient_id"].to_dict()
    return [str(owner[uri]) for uri in inputs.uris]
