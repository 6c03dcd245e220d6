"""The model card, a bundle's README.md: what the ensemble is for, what it was made of, how well it does, its limits.

Text from plain values. Knows no files, no labels and no metrics: what was measured is handed in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxr_ray import __version__
from cxr_ray.models.ensemble import EnsembleSpec

Interval = tuple[float, float, float]  # value, and the lower and upper bound of its 95 % interval; NaN undefined


@dataclass(frozen=True, slots=True)
class FindingResult:
    """How one finding, or the mean over all of them, does on one part of the data."""

    finding: str
    positives: int
    stated: int
    auroc: Interval
    average_precision: Interval
    f1: Interval


@dataclass(frozen=True, slots=True)
class PartResult:
    """How the ensemble does on one part: validation, by which thresholds and calibration were set, or test."""

    part: str
    images: int
    patients: int
    findings: tuple[FindingResult, ...]
    macro: FindingResult
    error_before: tuple[float, ...]  # expected calibration error per finding, before and after calibration
    error_after: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beside the ensemble itself: the data, the loss and the measurements."""

    images: Mapping[str, int] = field(default_factory=dict)  # per part
    patients: Mapping[str, int] = field(default_factory=dict)
    positives: Mapping[str, Sequence[int]] = field(default_factory=dict)  # per part, one number per finding
    loss: str = "not recorded"
    weights: Sequence[float] = ()  # of the positives of each finding
    results: Sequence[PartResult] = ()
    population: str = "not recorded"
    versions: Mapping[str, str] = field(default_factory=dict)


def model_card(spec: EnsembleSpec, facts: CardFacts) -> str:
    """The card as Markdown."""
    sections = (
        _head(spec),
        _intended_use(spec, facts),
        _data(spec, facts),
        *(_result(result, spec) for result in facts.results),
        _thresholds(spec, facts),
        _origin(spec, facts),
    )
    return "\n\n".join(sections) + "\n"


def _head(spec: EnsembleSpec) -> str:
    """What it is, in three lines."""
    return f"""# Ensemble {spec.digest}

{len(spec.members)} members ({", ".join(spec.members)}) that score chest radiographs for {len(spec.findings)} findings.
Made by cxr-ray {__version__}. **Research software, not a medical device: not for diagnosis.**

Use: `cxr-ray score INPUT --ensemble THIS_FOLDER --output OUT`."""


def _intended_use(spec: EnsembleSpec, facts: CardFacts) -> str:
    """What it may be used for, and where it must not be trusted."""
    return f"""## Intended use and limits

- For research on archives of chest radiographs: ranking, sampling, studies of agreement between models. Not for the
  care of a patient, not for triage, not in place of a reader; no regulatory body has seen it.
- Population: {facts.population}. For other hospitals, devices, ages and prevalences the figures below do not hold
  until they are measured there.
- Views: frontal films, PA and AP, of the chest. The gate of `cxr-ray score` refuses lateral views, other body parts and
  modalities, text pages, blank and too small images; what it refuses gets a row with a fault and no score.
- The labels are as good as their source: labels read from reports by machine are wrong in places, and so are the
  figures here. A finding that is not in the list below is not looked for.
- A probability is calibrated to the prevalence of the validation part, and a threshold is the highest F1 there.
- Heat maps (Grad-CAM) show what moved the score, on at most {spec.grid} x {spec.grid} cells; no segmentation."""


def _data(spec: EnsembleSpec, facts: CardFacts) -> str:
    """Images and positives per part, and the weight of each finding."""
    parts = list(facts.images)
    weights = facts.weights or (math.nan,) * len(spec.findings)
    rows = [
        ("**images**", *(f"{facts.images[part]:,}" for part in parts), ""),
        ("**patients**", *(f"{facts.patients[part]:,}" if part in facts.patients else "-" for part in parts), ""),
    ]
    for number, (finding, weight) in enumerate(zip(spec.findings, weights, strict=True)):
        counts = (f"{facts.positives[part][number]:,}" for part in parts)
        rows.append((finding, *counts, _number(weight, 2)))
    table = _table(("positives of", *parts, "weight"), rows)
    return f"## Data\n\nLoss: {facts.loss}. The weight is that of a finding's positives in it.\n\n{table}"


def _result(result: PartResult, spec: EnsembleSpec) -> str:
    """The metrics of one part with their intervals."""
    rows = [
        (
            row.finding,
            f"{row.positives:,} of {row.stated:,}",
            *map(_interval, (row.auroc, row.average_precision, row.f1)),
        )
        for row in (*result.findings, result.macro)
    ]
    table = _table(("finding", "positives", "AUROC", "average precision", "F1 at threshold"), rows)
    fitted = " Thresholds and calibration were fitted to it, so F1 is somewhat too good." if _fitted(result) else ""
    return f"""## Results on the {result.part} part

{result.images:,} images of {result.patients:,} patients.{fitted}

In brackets: 95 % intervals from 1,000 draws of patients with replacement. A dash is undefined: the stated labels hold
one class only, or, for an interval, more than half of the draws do; the mean is over the findings that are defined.

{table}"""


def _fitted(result: PartResult) -> bool:
    """Whether thresholds and calibration were set by this part."""
    return result.part == "validation"


def _thresholds(spec: EnsembleSpec, facts: CardFacts) -> str:
    """Thresholds, the calibration, and its error before and after, on the last part that was measured."""
    last = facts.results[-1] if facts.results else None
    unknown = (math.nan,) * len(spec.findings)
    columns = zip(
        spec.findings,
        spec.thresholds,
        spec.calibration.slopes,
        spec.calibration.intercepts,
        last.error_before if last else unknown,
        last.error_after if last else unknown,
        strict=True,
    )
    rows = [(name, *(_number(value, 3) for value in values)) for name, *values in columns]
    head = ("finding", "threshold", "slope", "intercept", "ECE before", "ECE after")
    part = f" on the {last.part} part" if last else ""
    return f"""## Thresholds and calibration

A finding counts as present at or above its threshold, the highest F1 of the validation part. Calibration is Platt
scaling, sigmoid(slope * logit + intercept). ECE{part} is the expected calibration error in ten bins of equal count.

{_table(head, rows)}"""


def _origin(spec: EnsembleSpec, facts: CardFacts) -> str:
    """Digests and versions: enough to say whether two ensembles are the same."""
    members = [
        f"- Member {name}: weights {digest[:16]}" for name, digest in zip(spec.members, spec.weights, strict=True)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items()) or "not recorded"
    return "\n".join(
        [
            "## Origin",
            "",
            f"- Ensemble digest: {spec.digest}; combination: {spec.combination}.",
            f"- Training table: {spec.training.get('manifest_digest', 'not recorded')}.",
            f"- Preprocessing: {spec.preprocess.model_dump()} (digest {spec.preprocess_digest}).",
            *members,
            f"- Versions: cxr-ray {__version__}, {versions}.",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _interval(value: Interval) -> str:
    """A value with its interval, or a dash."""
    point, low, high = value
    return "-" if math.isnan(point) else f"{point:.3f} ({_number(low, 3)} to {_number(high, 3)})"


def _number(value: float, digits: int) -> str:
    """A number, or a dash where it is not defined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
