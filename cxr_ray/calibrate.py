"""A bundle fitted to a new site: calibration and thresholds from its scores and the site's labels.

Needs neither images nor a model: the score table keeps the members' uncalibrated probabilities. Shapes: M members, N
labelled and scored images, F findings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cxr_ray import storage
from cxr_ray.config import CalibrationMethod, ThresholdRule
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.matching import Counts
from cxr_ray.models.calibration import Array, calibration_errors, log_losses
from cxr_ray.models.card import recalibrated_card
from cxr_ray.models.ensemble import EnsembleSpec, derive_bundle, load_ensemble_spec
from cxr_ray.models.refit import NUM_FOLDS, Refit, combined, crossfit, labelled_enough, present, refit
from cxr_ray.site import Site, read_site

MEASURES = ("brier", "calibration_error", "log_loss", "sensitivity", "specificity")
_SHORT = ("Brier", "ECE", "log loss", "sens.", "spec.")
Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FindingChange:
    """What became of one finding. `kept` is why its calibration stayed; figures are on patients not fitted to."""

    finding: str
    num_positives: int
    num_negatives: int
    method: str
    rule: str
    threshold_before: float
    threshold: float
    losses: Mapping[str, float]  # cross-validated log loss of each method that was compared
    before: Figures
    after: Figures
    kept: str | None


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A new bundle, and how its figures compare with those of the one it was made from."""

    bundle: str
    ensemble_digest: str
    from_digest: str
    date: str  # UTC
    num_images: int
    num_patients: int
    clustered_by: str | None
    counts: Counts
    findings: tuple[FindingChange, ...]
    notes: tuple[str, ...]

    def macro(self, when: str) -> Figures:
        """Mean of each measure, `before` or `after`, over the findings that define it; NaN when none does."""
        figures = [getattr(change, when) for change in self.findings]
        defined = {name: [row[name] for row in figures if not np.isnan(row[name])] for name in MEASURES}
        return {name: float(np.mean(values)) if values else float("nan") for name, values in defined.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an undefined number is None."""
        names = ("bundle", "ensemble_digest", "from_digest", "date", "num_images", "num_patients", "clustered_by")
        findings = {change.finding: _plain(change) for change in self.findings}
        macro = {when: _nullable(self.macro(when)) for when in ("before", "after")}
        told = {**{name: getattr(self, name) for name in names}, **self.counts.to_dict()}
        return {**told, "findings": findings, "macro": macro, "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, ...]]:
        """The table of figures: its head, a row per finding, and the means."""
        head = (
            "finding",
            "positives",
            "calibration",
            "rule",
            "threshold",
            *(f"{name} before, after" for name in _SHORT),
        )
        rows = [
            (
                change.finding,
                f"{change.num_positives:,} of {change.num_positives + change.num_negatives:,}",
                "kept" if change.kept else change.method,
                change.rule,
                f"{change.threshold_before:.3f}, {change.threshold:.3f}",
                *_pairs(change.before, change.after),
            )
            for change in self.findings
        ]
        return [head, *rows, ("mean", "", "", "", "", *_pairs(self.macro("before"), self.macro("after")))]

    def story(self) -> str:
        """What the table is about."""
        who = f"of {self.num_patients:,} patients" if self.clustered_by else "(patients unknown)"
        return (
            f"Recalibrated on {self.num_images:,} images {who} at {self.date} from the ensemble"
            f" {self.from_digest}. `before` is that ensemble; `after` is measured in {NUM_FOLDS}-fold cross-validation,"
            f" each {'patient' if self.clustered_by else 'image'} by a fit to the others. `kept`: too few labels to"
            " calibrate by."
        )

    def lines(self) -> list[str]:
        """The table for people, what stayed as it was, and what comes next."""
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        kept = [f"{change.finding} keeps its calibration: {change.kept}" for change in self.findings if change.kept]
        return [
            self.counts.words(),
            self.story(),
            *table,
            *kept,
            *(f"Note: {note}" for note in self.notes),
            f"New bundle: {self.bundle} ({self.ensemble_digest}). Rows of {self.from_digest} stay as they are; to add"
            f" rows of the new one: cxr-ray score INPUT --ensemble {self.bundle} --output OUT --rescore",
        ]


def calibrate(
    bundle: str,
    *,
    scores: str,
    manifest: str,
    output: str,
    method: CalibrationMethod = "auto",
    rule: str = "f1",
    overrides: Sequence[str] = (),
    min_positives: int = 20,
    patient_column: str | None = None,
    uri_column: str = "uri",
    image_root: str | None = None,
) -> Recalibration:
    """Fit calibration and thresholds of a bundle to labelled scores of it, and write the new bundle to `output`.

    Args:
        bundle: The bundle that made the scores.
        scores: The output folder of `cxr-ray score`.
        manifest: Table with labels per image.
        output: Where the new bundle goes; nothing may be there.
        method: How findings are calibrated; `auto` chooses one for each, `keep` fits thresholds only.
        rule: The rule of the thresholds.
        overrides: FINDING=RULE for single findings.
        min_positives: Positives, and negatives, below which a finding keeps its calibration and threshold.
        patient_column: Column of the table with the patient; by default patient_id, and where there is none, the
            scores' patient_key.
        uri_column: Column of the table with the image.
        image_root: Folder of relative images.

    Raises:
        ConfigError: The rules are unusable, the scores are of another ensemble, or something is at `output`.
        ManifestError: The table is unusable, or has too few labels for all findings.
        BundleError: The bundle is.
    """
    spec = load_ensemble_spec(bundle)
    if spec.combination != "mean" and method not in ("auto", "keep"):
        raise ConfigError(f"{bundle} combines votes, which cannot be calibrated; use --method keep.")
    rules = rules_of(rule, overrides, spec.findings)
    if storage.exists(storage.join(output, "ensemble.json")):
        raise ConfigError(f"{output} holds a bundle already; choose another --output for the new one.")
    site = read_site(
        spec,
        scores,
        manifest,
        bundle=bundle,
        uri_column=uri_column,
        image_root=image_root,
        patient_column=patient_column,
    )
    enough = labelled_enough(site.labels, min_positives)
    _check_labels(spec, site, rules, enough, overrides=overrides, min_positives=min_positives)
    # Hundreds of tiny fits: on two busy cores threads made them 4 to 15 times slower.
    with threadpool_limits(limits=1):
        new, result = fit_site(spec, site, output=output, method=method, rules=rules, enough=enough)
    if new.digest == spec.digest:
        raise ConfigError(f"{bundle} has this calibration and these thresholds already; no bundle was written.")
    former = storage.get(storage.join(bundle, "README.md")).decode()
    derive_bundle(
        bundle, output, new, card=recalibrated_card(new, story=result.story(), rows=result.rows(), former=former)
    )
    return result


def fit_site(
    spec: EnsembleSpec,
    site: Site,
    *,
    output: str,
    method: CalibrationMethod,
    rules: Sequence[ThresholdRule],
    enough: NDArray[np.bool_],
) -> tuple[EnsembleSpec, Recalibration]:
    """The spec of the bundle to be written to `output`, and what it does; `enough` (F,) as in `refit`."""
    settings: dict[str, Any] = {"patients": site.patients, "method": method, "rules": rules, "enough": enough}
    fitted = refit(spec, site.members, site.labels, **settings)
    num_patients, date = len(np.unique(site.patients)), f"{datetime.now(UTC):%Y-%m-%d}"
    told = {"from": spec.digest, "date": date, "images": len(site.labels), "patients": num_patients}
    new = replace(fitted.spec, training={**fitted.spec.training, "recalibrated": told})
    result = Recalibration(
        bundle=output,
        ensemble_digest=new.digest,
        from_digest=spec.digest,
        date=date,
        num_images=len(site.labels),
        num_patients=num_patients,
        clustered_by=site.clustered_by,
        counts=site.counts,
        findings=_changes(spec, fitted, site, enough, crossfit(spec, site.members, site.labels, **settings)),
        notes=site.notes,
    )
    return new, result


def rules_of(rule: str, overrides: Sequence[str], findings: Sequence[str]) -> list[ThresholdRule]:
    """The rule of each finding from the common one and FINDING=RULE. Raises ConfigError."""
    rules = dict.fromkeys(findings, ThresholdRule.parse(rule))
    for override in overrides:
        finding, equals, own = override.partition("=")
        if not equals or finding not in rules:
            raise ConfigError(
                f"--threshold takes FINDING=RULE with a finding of the bundle, not {override!r}; it has"
                f" {', '.join(findings)}."
            )
        rules[finding] = ThresholdRule.parse(own)
    return list(rules.values())


def _check_labels(
    spec: EnsembleSpec,
    site: Site,
    rules: Sequence[ThresholdRule],
    enough: NDArray[np.bool_],
    *,
    overrides: Sequence[str],
    min_positives: int,
) -> None:
    """Refuse a site of too few labels or patients, and a rule that was asked for and cannot be met."""
    positives, negatives = ((site.labels == value).sum(axis=0) for value in (1, 0))
    if not enough.any():
        most = int(np.argmax(np.minimum(positives, negatives)))
        raise ManifestError(
            f"None of the {len(spec.findings)} findings has {min_positives} positive and as many negative images among"
            f" the {len(site.labels)} that are labelled and scored (most has {spec.findings[most]} with"
            f" {positives[most]} and {negatives[most]}); label more, or lower --min-positives."
        )
    if len(np.unique(site.patients)) < NUM_FOLDS:
        raise ManifestError(f"The labelled and scored images are of fewer than {NUM_FOLDS} patients; label more.")
    named = {override.partition("=")[0] for override in overrides}
    for finding, rule, fits, *counts in zip(spec.findings, rules, enough, positives, negatives, strict=True):
        if finding in named and rule.needs_labels and not fits:
            raise ManifestError(
                f"The threshold of {finding} cannot be chosen by {rule}: it has {counts[0]} positive and {counts[1]}"
                f" negative images, and {min_positives} of each are needed; label more, or state a probability."
            )


def _changes(
    spec: EnsembleSpec, fitted: Refit, site: Site, enough: NDArray[np.bool_], after: tuple[Array, NDArray[np.bool_]]
) -> tuple[FindingChange, ...]:
    """One change per finding, from the held-out probabilities and decisions (N, F) of the new fit."""
    old = combined(spec, site.members)
    voting = spec.combination != "mean"
    before = figures(site.labels, old.double().numpy(), present(spec, old).numpy(), voting=voting)
    now = figures(site.labels, *after, voting=voting)
    positives, negatives = ((site.labels == value).sum(axis=0).tolist() for value in (1, 0))
    return tuple(
        FindingChange(
            finding=finding,
            num_positives=positives[f],
            num_negatives=negatives[f],
            method=fitted.spec.calibration.scalings[f].method,
            rule=fitted.spec.threshold_rules.get(finding, "-"),
            threshold_before=spec.thresholds[f],
            threshold=fitted.spec.thresholds[f],
            losses=fitted.losses[f],
            before=before[f],
            after=now[f],
            kept=None if enough[f] else f"{positives[f]} positive and {negatives[f]} negative images are too few.",
        )
        for f, finding in enumerate(spec.findings)
    )


def figures(
    labels: Array, probabilities: Array, decisions: NDArray[np.bool_], *, voting: bool
) -> list[dict[str, float]]:
    """The measures of each finding from labels, probabilities and decisions (N, F); NaN where undefined.

    Votes are no probabilities: under a `voting` rule only sensitivity and specificity are defined.
    """
    errors = calibration_errors(probabilities, labels)
    found = []
    for f, error in enumerate(errors):
        truth, values, called = labels[:, f], probabilities[:, f], decisions[:, f]
        stated = ~np.isnan(truth)
        numbers = {"calibration_error": error, "brier": _mean((values - truth)[stated] ** 2)}
        numbers["log_loss"] = _mean(log_losses(values, truth)[stated])
        if voting:
            numbers = dict.fromkeys(numbers, float("nan"))
        numbers |= {"sensitivity": _mean(called[truth == 1]), "specificity": _mean(~called[truth == 0])}
        found.append({name: numbers[name] for name in MEASURES})
    return found


def _mean(values: NDArray[Any]) -> float:
    """The mean, NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _pairs(before: Figures, after: Figures) -> list[str]:
    """Each measure before and after, a dash where it is undefined."""
    both = ((before[name], after[name]) for name in MEASURES)
    return [", ".join("-" if np.isnan(number) else f"{number:.3f}" for number in pair) for pair in both]


def _plain(change: FindingChange) -> dict[str, Any]:
    """One finding for JSON."""
    names = ("num_positives", "num_negatives", "method", "rule", "threshold_before", "threshold", "kept")
    figures = {"losses": dict(change.losses), "before": _nullable(change.before), "after": _nullable(change.after)}
    return {**{name: getattr(change, name) for name in names}, **figures}


def _nullable(values: Figures) -> dict[str, float | None]:
    """NaN as JSON knows it."""
    return {name: None if np.isnan(value) else value for name, value in values.items()}
