"""Does agreement mean anything: does it tell wrong decisions from right ones, and better than plain confidence?

The method paper shows the number of agreeing members as a warning and never measures it. Here every signal of
`signals` ranks the decisions (an image and a finding with a stated label) and is measured by `selective`; intervals
are over patients drawn anew, the same draws for all. `AgreementStudy.to_dict()`, with I = {value, low, high}:

    num_decisions, num_errors, num_members, error_rate: I
    signals: {NAME: {label, kind: confidence | agreement, num_decisions, num_errors,
        error_auroc: I            over all its decisions together
        within_finding: I         only pairs of one finding: nothing gained by telling findings apart
        macro: I                  mean over the findings' own
        confidence: I             error AUROC of confidence on the same decisions
        difference: I             error AUROC less that of confidence, same decisions, same draws
        difference_within_finding: I
        aurc: I, excess_aurc: I   area under the risk-coverage curve, and above the best order of as many errors
        aurc_difference: I        area less that of confidence, same decisions: below 0 is better
        partial: I, partial_note  rank correlation with being right, given finding, decision and probability
        risk_coverage: [[coverage, risk], ...]}}
    best_agreement_signal: NAME | null, difference_from_confidence: I, difference_from_margin: I, verdict
    by_votes: [{votes, num_decisions, accuracy: I, calibration_error: I, located: {value, low, high, count} | null}]
    by_spread, by_map_agreement: [{low, high, num_decisions, ... as above}]
    findings: {F: {num_decisions, num_errors, confidence: I, best: I, difference: I}}    error AUROCs
    notes: [sentence, ...]

The best is chosen among the agreement signals that every decision has; map agreement exists only where there are
maps, and is compared with confidence on those decisions. Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.evaluation.agreement.detection import ERROR_AUROC, Measure, detection, error_rate, estimate
from cxr_ray.evaluation.agreement.groups import Group, by_value, groups_of
from cxr_ray.evaluation.agreement.signals import BASELINE, Decisions
from cxr_ray.evaluation.agreement.verdicts import (
    UNDEFINED,
    FindingResult,
    SignalResult,
    beside,
    finding_results,
    signal_result,
    study_notes,
    verdict,
)
from cxr_ray.evaluation.bootstrap import Floats, Interval

Array = NDArray[Any]
_NUM_BINS = 5  # of spread and of map agreement


@dataclass(frozen=True, slots=True)
class AgreementStudy:
    """What agreement says of errors; the fields as in the module's docstring."""

    num_decisions: int
    num_errors: int
    num_members: int
    error_rate: Interval
    signals: dict[str, SignalResult]
    best_agreement_signal: str | None
    difference_from_confidence: Interval
    difference_from_margin: Interval
    verdict: str
    by_votes: list[Group]
    by_spread: list[Group]
    by_map_agreement: list[Group]
    findings: dict[str, FindingResult]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it: an undefined number is None."""
        groups = {
            name: [group.to_dict() for group in getattr(self, name)]
            for name in ("by_votes", "by_spread", "by_map_agreement")
        }
        plain: dict[str, Any] = _plain({**asdict(self), **groups})
        return plain

    def lines(self) -> list[str]:
        """Tables of the signals, of the best one beside confidence, and of the votes; the verdict and the notes."""
        head = f"{'signal':<26} {'decisions':>9} " + " ".join(
            f"{name:>22}" for name in ("error AUROC", "within finding", "AURC", "partial")
        )
        rows = [
            f"{result.label:<26} {result.num_decisions:>9,} {result.error_auroc.words():>22}"
            f" {result.within_finding.words():>22} {result.aurc.words():>22} {result.partial.words():>22}"
            for result in self.signals.values()
        ]
        votes = f"{'votes':<26} {'decisions':>9} {'accuracy':>22} {'calibration error':>22} {'map in the lesion':>22}"
        counted = (
            f"{self.num_decisions:,} decisions, {self.num_errors:,} of them wrong: error rate {self.error_rate.words()}"
        )
        groups = (group.line() for group in self.by_votes)
        return [counted, head, *rows, *self._beside_confidence(), votes, *groups, self.verdict, *self.notes]

    def _beside_confidence(self) -> list[str]:
        """Error detection by confidence, by the best agreement signal, and their difference; no third without one."""
        confidence = self.signals[BASELINE]
        rows = [(f"by {confidence.label}", confidence.error_auroc, confidence.within_finding, confidence.aurc)]
        if self.best_agreement_signal is not None:
            best = self.signals[self.best_agreement_signal]
            rows += [
                (f"by {best.label}, best of agreement", best.error_auroc, best.within_finding, best.aurc),
                ("difference", best.difference, best.difference_within_finding, best.aurc_difference),
            ]
        names = ("error AUROC", "within finding", "AURC")
        head = f"{'errors found':<40}" + "".join(f"{name:>27}" for name in names)
        return [head, *(f"{label:<40}" + "".join(f"{one.words():>27}" for one in found) for label, *found in rows)]


def agreement_study(decisions: Decisions, *, num_draws: int, seed: int) -> AgreementStudy:
    """Measure how far confidence and agreement tell wrong decisions from right ones, under draws of patients."""
    tables = {
        "by_votes": by_value(decisions, decisions.votes),
        "by_spread": groups_of(decisions, decisions.spread, num_bins=_NUM_BINS),
        "by_map_agreement": groups_of(decisions, _overlap(decisions), num_bins=_NUM_BINS),
    }
    measures = {**_measures(decisions), **{name: table.measure for name, table in tables.items()}}
    estimates = estimate(measures, decisions.num_patients, num_draws=num_draws, seed=seed)
    results = {name: signal_result(name, signal, decisions, estimates) for name, signal in decisions.signals.items()}
    best = _best(decisions, results)
    grouped = {name: table.groups(estimates[name].interval, estimates[name].distance) for name, table in tables.items()}
    return AgreementStudy(
        num_decisions=len(decisions.wrong),
        num_errors=int(decisions.wrong.sum()),
        num_members=decisions.num_members,
        error_rate=estimates["error_rate"].interval(),
        signals=results,
        best_agreement_signal=best,
        difference_from_confidence=UNDEFINED if best is None else results[best].difference,
        difference_from_margin=UNDEFINED if best is None else estimates[best].minus(estimates["margin"], ERROR_AUROC),
        verdict=verdict(decisions, results, best),
        **grouped,
        findings=finding_results(decisions, estimates, best),
        notes=study_notes(decisions, results, estimates),
    )


def _overlap(decisions: Decisions) -> Floats:
    """Map agreement (J,), NaN throughout when there is none."""
    signal = decisions.signals.get("map_agreement")
    return np.full(len(decisions.wrong), np.nan) if signal is None else signal.sureness


def _measures(decisions: Decisions) -> dict[str, Measure]:
    """What is measured of each signal in every draw, and of confidence where a signal is not everywhere."""
    baseline = decisions.signals[BASELINE].sureness
    measures: dict[str, Measure] = {"error_rate": error_rate(decisions)}
    for name, signal in decisions.signals.items():
        chosen = np.flatnonzero(~np.isnan(signal.sureness))
        measures[name] = detection(decisions, signal.sureness, chosen, with_partial=signal.kind == "agreement")
        if len(chosen) < len(baseline):
            measures[beside(name)] = detection(decisions, baseline, chosen, with_partial=False)
    return measures


def _best(decisions: Decisions, results: Mapping[str, SignalResult]) -> str | None:
    """The agreement signal with the highest error AUROC of those that every decision has; None when none varies."""
    found = {
        name: results[name].error_auroc.value
        for name, signal in decisions.signals.items()
        if signal.kind == "agreement" and not np.isnan(signal.sureness).any() and signal.varies
    }
    defined = {name: value for name, value in found.items() if not np.isnan(value)}
    return max(defined, key=defined.__getitem__, default=None)


def _plain(values: Any) -> Any:
    """The same with None for each NaN, at any depth."""
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and np.isnan(values) else values
