"""The model card, a bundle's README.md: what the ensemble is for, what it was made of, how well it does, its limits.

Text from plain values. Knows no files, no labels and no metrics: what was measured is handed in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxr_ray import __version__
from cxr_ray.config import Combination
from cxr_ray.models.ensemble import EnsembleSpec

_FITTED = "validation"  # the part by which epochs, thresholds and calibration were chosen
_OPTIMISTIC = (
    "The best epoch of each member, the thresholds and any calibration were chosen by this part: all figures here are"
    " optimistic, F1 and calibration errors most. Only a test part says what to expect."
)
_VOTED_RANKS = (
    "AUROC and average precision are of the combined votes, which take few values: they do not compare with those of"
    " probabilities."
)
_VOTES = "A member votes for a finding at or above its own threshold, which the rule in the table below chose."
# What the value and the threshold of a finding are under each rule of `ensemble.combine_probabilities`.
_MEANINGS: Mapping[Combination, str] = {
    "mean": (
        "The probability of a finding is the mean of the members' (CTP), calibrated to the prevalence of the labelled"
        " images that the thresholds were chosen on. It counts as present at or above its threshold, which the rule in"
        " the table below chose."
    ),
    "vote": (
        f"The value of a finding is the share of the members that vote for it (PTC-lw): no probability, and not"
        f" calibrated. {_VOTES} It counts as present when half of the members or more vote for it."
    ),
    "mode": (
        f"The value of a finding is 1 when it is in the set of findings that most members agree on, else 0 (PTC-mode):"
        f" no probability, and not calibrated. {_VOTES}"
    ),
}
_CALIBRATIONS = (
    "Calibration: `platt` is sigmoid(slope * logit + intercept), with the slope and the intercept; `temperature` the"
    " same with a slope alone; `isotonic` a rising curve between the knots in ensemble.json, on whose level pieces"
    " images become equal; `identity` changes nothing."
)

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
    patients: int | None  # None: the data set names none, and each image counts as one
    findings: tuple[FindingResult, ...]
    macro: FindingResult
    error_before: tuple[float, ...]  # expected calibration error per finding, before and after calibration
    error_after: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says beside the ensemble itself: the data, the loss and the measurements."""

    images: Mapping[str, int] = field(default_factory=dict)  # per part
    patients: Mapping[str, int] = field(default_factory=dict)  # empty: the data set names none
    unreadable: int = 0  # images of the table that are in no part, because they could not be read
    positives: Mapping[str, Sequence[int]] = field(default_factory=dict)  # per part, one number per finding
    fitting: Sequence[str] = ("Not recorded.",)  # how the members were fitted, a paragraph per stage
    weights: Sequence[float] = ()  # of the positives of each finding in the loss; none where it has no fixed ones
    results: Sequence[PartResult] = ()
    population: str = "not recorded"
    views: Sequence[str] | None = None  # that were learnt, as the table spells them; empty: all; None: not recorded
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


def recalibrated_card(spec: EnsembleSpec, *, story: str, rows: Sequence[Sequence[str]], former: str) -> str:
    """The card of a bundle whose calibration and thresholds were fitted anew: what changed, then the `former` card.

    `story` says on what it was fitted and measured; `rows` are the table of its figures, the first one its head.
    """
    older = "\n".join(f"#{line}" if line.startswith("#") else line for line in former.splitlines())
    sections = (
        _head(spec),
        f"## Recalibration\n\n{story}\n\n{_table(rows[0], rows[1:])}",
        _thresholds(spec, CardFacts()),
        "## Before the recalibration\n\nThe members are those of the card below. Its intended use and limits hold; its"
        " digest, results, thresholds and calibration are those before the recalibration.",
        older,
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
- Views: {_views(facts)} The gate of `cxr-ray score` lets PA, AP and other frontal films of the chest pass, learnt or
  not, unless its settings say else. It refuses lateral views, other body parts and modalities, text pages, blank and
  too small images; what it refuses gets a row with a fault and no score.
- The labels are as good as their source: labels read from reports by machine are wrong in places, and so are the
  figures here. A finding that is not in the list below is not looked for.
- {_MEANINGS[spec.combination]}
- Heat maps (Grad-CAM) show what moved the score, on at most {spec.grid} x {spec.grid} cells; no segmentation."""


def _data(spec: EnsembleSpec, facts: CardFacts) -> str:
    """Images and positives per part, and the weight of each finding."""
    parts = list(facts.images)
    counted = {part: f"{facts.patients[part]:,}" if facts.patients else "unknown" for part in parts}
    left_out = f" {facts.unreadable:,} more could not, and are left out." if facts.unreadable else ""
    weights = facts.weights or (math.nan,) * len(spec.findings)
    rows = [
        ("**images**", *(f"{facts.images[part]:,}" for part in parts), ""),
        ("**patients**", *counted.values(), ""),
    ]
    for number, (finding, weight) in enumerate(zip(spec.findings, weights, strict=True)):
        counts = (f"{facts.positives[part][number]:,}" for part in parts)
        rows.append((finding, *counts, _number(weight, 2)))
    table = _table(("positives of", *parts, "weight"), rows)
    return "\n\n".join(
        [
            "## Data and fitting",
            f"Counted are the images that could be read.{left_out}",
            *facts.fitting,
            "The weight is that of a finding's positives in the loss; a dash: it has no fixed ones.",
            table,
        ]
    )


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
    known = result.patients is not None
    size = f"{result.images:,} images" + (f" of {result.patients:,} patients" if known else " (patients unknown)")
    votes = "" if spec.combination == "mean" else f"\n\n{_VOTED_RANKS}"
    return f"""## Results on the {result.part} part

{size}.{f" {_OPTIMISTIC}" if result.part == _FITTED else ""}{votes}

In brackets: 95 % intervals from 1,000 draws of {"patients" if known else "images"} with replacement. A dash is
undefined: the stated labels hold one class only, or, for an interval, more than half of the draws do; the mean is over
the findings that are defined.

{table}"""


def _views(facts: CardFacts) -> str:
    """Which views were learnt."""
    if facts.views is None:
        return "those that were learnt are not recorded."
    return f"learnt from {' and '.join(facts.views)} only." if facts.views else "learnt from all that the table has."


def _thresholds(spec: EnsembleSpec, facts: CardFacts) -> str:
    """Thresholds, their rules, the calibration, and its error before and after on the last part that was measured."""
    columns: dict[str, Sequence[str]] = {
        "threshold": _numbers(spec.thresholds),
        "rule": [spec.threshold_rules.get(finding, "-") for finding in spec.findings],
    }
    if spec.combination == "mean":
        columns |= {"calibration": [scaling.words() for scaling in spec.calibration.scalings]}
    else:
        pairs = zip(spec.members, spec.member_thresholds, strict=True)
        columns |= {f"threshold of {name}": _numbers(row) for name, row in pairs}
    said = [_MEANINGS[spec.combination], *([_CALIBRATIONS] if spec.combination == "mean" else [])]
    if facts.results:
        last = facts.results[-1]
        fitted = ", to which all this was fitted: it is too small" if last.part == _FITTED else ""
        said.append(f"ECE on the {last.part} part{fitted}: the expected calibration error in ten bins of equal count.")
        if spec.combination == "mean":
            columns |= {"ECE before": _numbers(last.error_before), "ECE after": _numbers(last.error_after)}
        else:
            columns |= {"ECE": _numbers(last.error_after)}
    rows = list(zip(spec.findings, *columns.values(), strict=True))
    return "\n\n".join(["## Thresholds and calibration", *said, _table(("finding", *columns), rows)])


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


def _numbers(values: Sequence[float]) -> list[str]:
    """Numbers with three digits."""
    return [_number(value, 3) for value in values]


def _interval(value: Interval) -> str:
    """A value with its interval, or a dash."""
    point, low, high = value
    return "-" if math.isnan(point) else f"{point:.3f} ({_number(low, 3)} to {_number(high, 3)})"


def _number(value: float, digits: int) -> str:
    """A number, or a dash where it is not defined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
