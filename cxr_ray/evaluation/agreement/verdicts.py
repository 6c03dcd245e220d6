"""The results of a study of agreement, from its estimates, and what they say in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cxr_ray.evaluation.agreement.detection import (
    AURC,
    ERROR_AUROC,
    EXCESS_AURC,
    FIRST_FINDING,
    MACRO,
    PARTIAL,
    WITHIN_FINDING,
    Estimate,
)
from cxr_ray.evaluation.agreement.selective import risk_coverage
from cxr_ray.evaluation.agreement.signals import BASELINE, Decisions, Signal
from cxr_ray.evaluation.bootstrap import Interval

UNDEFINED = Interval(float("nan"), float("nan"), float("nan"))
_FEW_ERRORS = 50


@dataclass(frozen=True, slots=True)
class SignalResult:
    """What one signal says of errors; the fields as in the module's docstring."""

    label: str
    kind: str
    num_decisions: int
    num_errors: int
    error_auroc: Interval
    within_finding: Interval
    macro: Interval
    confidence: Interval
    difference: Interval
    difference_within_finding: Interval
    aurc: Interval
    excess_aurc: Interval
    aurc_difference: Interval
    partial: Interval
    partial_note: str
    risk_coverage: list[list[float]]


@dataclass(frozen=True, slots=True)
class FindingResult:
    """Error AUROC of one finding by confidence and by the best agreement signal."""

    num_decisions: int
    num_errors: int
    confidence: Interval
    best: Interval
    difference: Interval


def beside(name: str) -> str:
    """Key of the confidence on the decisions that this signal has."""
    return f"{BASELINE} beside {name}"


def signal_result(name: str, signal: Signal, decisions: Decisions, estimates: Mapping[str, Estimate]) -> SignalResult:
    """What one signal says of errors."""
    chosen = ~np.isnan(signal.sureness)
    own, confidence = estimates[name], estimates.get(beside(name), estimates[BASELINE])
    return SignalResult(
        label=signal.label,
        kind=signal.kind,
        num_decisions=int(chosen.sum()),
        num_errors=int(decisions.wrong[chosen].sum()),
        error_auroc=own.interval(ERROR_AUROC),
        within_finding=own.interval(WITHIN_FINDING),
        macro=own.interval(MACRO),
        confidence=confidence.interval(ERROR_AUROC),
        difference=own.minus(confidence, ERROR_AUROC),
        difference_within_finding=own.minus(confidence, WITHIN_FINDING),
        aurc=own.interval(AURC),
        excess_aurc=own.interval(EXCESS_AURC),
        aurc_difference=own.minus(confidence, AURC),
        partial=own.interval(PARTIAL),
        partial_note=_partial_note(signal.kind, own.interval(PARTIAL)),
        risk_coverage=risk_coverage(signal.sureness[chosen], decisions.wrong[chosen]),
    )


def _partial_note(kind: str, partial: Interval) -> str:
    """What the partial relation says, in words."""
    if kind == "confidence":
        return "It follows from the probability, so nothing is left of it once the probability is known."
    if np.isnan(partial.low):
        return "Undefined: once the probability is known, the signal or the errors do not vary, or too few draws say."
    if partial.low > 0:
        return "Among decisions of one finding and equal probability, the surer ones are more often right."
    if partial.high < 0:
        return "Among decisions of one finding and equal probability, the surer ones are less often right."
    return "Among decisions of one finding and equal probability, it tells nothing more that can be told from chance."


def finding_results(
    decisions: Decisions, estimates: Mapping[str, Estimate], best: str | None
) -> dict[str, FindingResult]:
    """Each finding's error AUROC by confidence and by the best agreement signal."""
    confidence, agreement = estimates[BASELINE], None if best is None else estimates[best]
    results = {}
    for number, name in enumerate(decisions.findings):
        chosen, row = decisions.finding == number, FIRST_FINDING + number
        results[name] = FindingResult(
            num_decisions=int(chosen.sum()),
            num_errors=int(decisions.wrong[chosen].sum()),
            confidence=confidence.interval(row),
            best=UNDEFINED if agreement is None else agreement.interval(row),
            difference=UNDEFINED if agreement is None else agreement.minus(confidence, row),
        )
    return results


def verdict(decisions: Decisions, results: Mapping[str, SignalResult], best: str | None) -> str:
    """The answer in words: the best agreement signal against confidence, and map agreement where there is any."""
    number, errors = len(decisions.wrong), int(decisions.wrong.sum())
    if errors in (0, number):
        which = "none" if errors == 0 else "all"
        return f"Of {number:,} decisions {which} is wrong, so nothing can be said of what predicts an error."
    if best is None:
        return (
            f"On these {number:,} decisions no agreement signal varies, so it predicts no error; the error AUROC of"
            f" confidence is {results[BASELINE].error_auroc.words()}."
        )
    sentences = [compared(results[best]), _added(results[best])]
    maps = results.get("map_agreement")
    if maps is not None and not np.isnan(maps.difference.value):
        sentences += [compared(maps), _added(maps)]
    return " ".join(sentences)


def compared(result: SignalResult) -> str:
    """One sentence: better, worse or not distinguishably, with the numbers."""
    gap = result.difference
    if gap.low > 0:
        how = "better than"
    elif gap.high < 0:
        how = "worse than"
    else:
        how = "not distinguishably better or worse than"
    return (
        f"On these {result.num_decisions:,} decisions ({result.num_errors:,} wrong), {result.label} predicts errors"
        f" {how} confidence: error AUROC {result.error_auroc.value:.3f} against {result.confidence.value:.3f},"
        f" difference {gap.words()}; within findings {result.difference_within_finding.words()}."
    )


def _added(result: SignalResult) -> str:
    """One sentence: whether the signal tells more once the probability is known."""
    if np.isnan(result.partial.low):
        return "Whether it tells more once the probability is known cannot be said."
    sure = "tells more" if result.partial.low > 0 else "misleads"
    what = sure if result.partial.low > 0 or result.partial.high < 0 else "tells nothing more that is certain"
    return f"Once the probability is known it {what} (partial correlation {result.partial.words()})."


def study_notes(
    decisions: Decisions, results: Mapping[str, SignalResult], estimates: Mapping[str, Estimate]
) -> list[str]:
    """What a reader must know before believing the numbers."""
    number, errors = len(decisions.wrong), int(decisions.wrong.sum())
    notes = [
        "The best agreement signal was chosen on the same decisions, which flatters it a little; all are given.",
        "Confidence is the probability that the decision is right, and as good as its calibration.",
    ]
    if min(errors, number - errors) < _FEW_ERRORS:
        notes.append(f"{errors:,} of {number:,} decisions are wrong: too few of a kind for intervals to be trusted.")
    if decisions.num_members == 1:
        notes.append("The ensemble has one member, so there is no agreement to measure.")
    notes += [
        f"{signal.label.capitalize()} is the same for every decision and cannot tell errors."
        for signal in decisions.signals.values()
        if number and not np.isnan(signal.sureness).all() and not signal.varies
    ]
    faultless = np.bincount(decisions.finding, decisions.wrong, minlength=len(decisions.findings)) == 0
    if number and faultless.any():
        missed = ", ".join(np.array(decisions.findings)[faultless])
        notes.append(f"Without a wrong decision, and so undefined: {missed}.")
    margin = estimates["margin"].minus(estimates[BASELINE], ERROR_AUROC)
    if margin.low > 0:
        notes.append(
            "The margin from the threshold predicts errors better than confidence (difference"
            f" {margin.words()}): the probabilities are not well calibrated here, so compare agreement with the margin."
        )
    maps = decisions.signals.get("map_agreement")
    if maps is not None and np.isnan(maps.sureness).any():
        mapped = ~np.isnan(maps.sureness)
        notes.append(
            f"Map agreement exists for {mapped.sum():,} of {number:,} decisions, of which"
            f" {decisions.present[mapped].sum():,} call the finding present;"
            " it is compared with confidence on the same decisions."
        )
    return notes
