"""What might tell a wrong decision from a right one: confidence, and how far the members agree.

A decision is an image and a finding with a stated label; it is wrong when probability `>=` threshold says other than
the label. Each signal is larger where the decision should be surer, and only its order counts. Shapes: N images,
F findings, M members, J decisions, P patients. Knows arrays only, and nothing of how well a signal does.

- confidence: the probability that the decision is right, p when present and 1 - p when absent. With calibrated
  probabilities no ranking of errors is better, whatever the thresholds (Chow 1970, On optimum recognition error and
  reject tradeoff), so this is what agreement has to beat. `max(p, 1 - p)` would be a straw man: at a threshold of 0.1
  it is 85 % sure of a finding that is absent in 85 of 100.
- margin: distance from the threshold, 0 at it and 1 at the end of its side; it knows the thresholds and needs no
  calibration. Unscaled, the absent of a finding with threshold 0.1 could never be sure.
- entropy: of the probability; blind to the threshold, the order of `max(p, 1 - p)`.
- votes: share of the members on the decision's side (Liz et al. 2023, inter-model agreement).
- spread: standard deviation over the members, negated (Lakshminarayanan et al. 2017, Deep ensembles).
- mutual_information: entropy of the members' mean less the mean of their entropies, negated: what the members do not
  know from what cannot be known (Houlsby et al. 2011, Bayesian active learning; BALD).
- map_agreement: how far the members' heat maps overlap; only where there are maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, logit

from cxr_ray.evaluation.bootstrap import Floats
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.labels.findings import ABSENT, PRESENT

Array = NDArray[Any]
Integers = NDArray[np.int64]
BASELINE = "confidence"  # what agreement has to beat
_DIGITS = 5  # of log-odds: float32 knows no more, and its 0.2 and 1 - 0.8 are one confidence


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal's values (J,), larger where surer, NaN where there is none."""

    label: str
    kind: Literal["confidence", "agreement"]
    sureness: Floats

    @property
    def varies(self) -> bool:
        """Whether any two decisions that have it differ in it."""
        return len(np.unique(self.sureness[~np.isnan(self.sureness)])) > 1


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every decision with a stated label, image by image; arrays are (J,) unless a shape is given."""

    findings: tuple[str, ...]
    num_patients: int
    num_members: int
    finding: Integers  # 0..F - 1
    owner: Integers  # patient, 0..P - 1 in order of their sorted names
    probability: Floats
    truth: NDArray[np.bool_]
    present: NDArray[np.bool_]  # the decision
    votes: Integers
    spread: Floats
    located: Floats  # 1, 0, or NaN without a map and a lesion
    signals: dict[str, Signal]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the decision differs from the label."""
        different: NDArray[np.bool_] = self.truth != self.present
        return different


def decide(
    *,
    labels: Array,
    probabilities: Array,
    thresholds: Array,
    votes: Array,
    spread: Array,
    member_probabilities: Array | None,
    map_agreement: Array | None,
    located: Array | None,
    patients: Sequence[str],
    findings: Sequence[str],
    num_members: int | None = None,
) -> Decisions:
    """The decisions and their signals, from arrays of N images.

    Args:
        labels: (N, F), 1 present, 0 absent, NaN not stated: no decision.
        probabilities: (N, F), 0..1, calibrated; not NaN where a label is stated.
        thresholds: (F,); a probability `>=` its threshold counts as present.
        votes: (N, F), members that call the finding present, 0..M.
        spread: (N, F), standard deviation over the members' probabilities.
        member_probabilities: (N, M, F), 0..1; None leaves mutual information out.
        map_agreement: (N, F), 0..1, NaN where there are no maps; None leaves it out.
        located: (N, F), 1 when the peak of the map lies in the lesion, else 0; NaN without map or lesion.
        patients: (N,), drawn with replacement.
        findings: F names.
        num_members: M; None takes it from `member_probabilities`, or the most votes that were seen.

    Raises:
        ValueError: Shapes differ, or a value lies outside its range.
    """
    _check_shapes(labels, len(patients), len(findings), thresholds, member_probabilities)
    grids = (probabilities, votes, spread, *(grid for grid in (map_agreement, located) if grid is not None))
    if any(grid.shape != labels.shape for grid in grids):
        raise ValueError(f"labels are {labels.shape}, but others {[grid.shape for grid in grids]}")
    image, finding = np.nonzero(~np.isnan(labels))
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    chosen, counted, spreads = (grid[image, finding].astype(np.float64) for grid in (probabilities, votes, spread))
    members = None if member_probabilities is None else member_probabilities[image, :, finding].astype(np.float64)
    _check_values(labels[image, finding], chosen, counted, spreads, members)
    most = _num_members(num_members, members, counted)
    limits = np.asarray(thresholds, np.float64)[finding]
    present = at_or_above(chosen, limits)
    overlap = None if map_agreement is None else map_agreement[image, finding].astype(np.float64)
    signals = _signals(chosen, limits, present, counted, spreads, most) | _further_signals(members, overlap)
    return Decisions(
        findings=tuple(findings),
        num_patients=len(names),
        num_members=most,
        finding=finding,
        owner=owner[image],
        probability=chosen,
        truth=labels[image, finding] == PRESENT,
        present=present,
        votes=counted.astype(np.int64),
        spread=spreads,
        located=np.full(len(image), np.nan) if located is None else located[image, finding].astype(np.float64),
        signals=signals,
    )


def mutual_information(members: Floats) -> Floats:
    """Bits that a decision and the choice of a member share, from the members' probabilities (J, M): (J,), 0..1."""
    whole, parts = _bits(members.mean(axis=1)), _bits(members).mean(axis=1)
    rounded: Floats = np.round(np.maximum(whole - parts, 0.0), 12)  # equal members differ by rounding alone
    return rounded


def _bits(probabilities: Floats) -> Floats:
    """Binary entropy in bits."""
    bits: Floats = (entr(probabilities) + entr(1.0 - probabilities)) / np.log(2.0)
    return bits


def _signals(
    probability: Floats, threshold: Floats, present: NDArray[np.bool_], votes: Floats, spread: Floats, most: int
) -> dict[str, Signal]:
    """The signals that exist for every decision."""
    odds = np.round(logit(probability), _DIGITS)
    room = np.where(present, 1.0 - threshold, threshold)
    distance = np.abs(probability - threshold)
    margin = np.divide(distance, room, out=np.zeros_like(distance), where=room > 0)
    return {
        # The log-odds of being right have the order of the probability of being right, and more digits near 1;
        # so has their size the order of the entropy, reversed.
        "confidence": Signal("confidence", "confidence", np.where(present, odds, -odds)),
        "margin": Signal("margin from the threshold", "confidence", margin),
        "entropy": Signal("entropy", "confidence", np.abs(odds)),
        "votes": Signal("votes", "agreement", np.where(present, votes, most - votes) / most),
        "spread": Signal("spread", "agreement", -spread),
    }


def _further_signals(members: Floats | None, map_agreement: Floats | None) -> dict[str, Signal]:
    """The signals of the members' probabilities (J, M) and of their maps (J,), where there are any."""
    found: dict[str, Signal] = {}
    if members is not None:
        found["mutual_information"] = Signal("mutual information", "agreement", -mutual_information(members))
    if map_agreement is not None:
        found["map_agreement"] = Signal("map agreement", "agreement", map_agreement)
    return found


def _num_members(given: int | None, members: Floats | None, votes: Floats) -> int:
    """M: as given, of the members' probabilities, or the most votes that were seen."""
    seen = max(1, int(votes.max(initial=0)))
    number = given or (seen if members is None else members.shape[1])
    if number < seen:
        raise ValueError(f"{seen} votes of {number} members")
    return number


def _check_shapes(labels: Array, patients: int, findings: int, thresholds: Array, members: Array | None) -> None:
    """Refuse arrays that do not belong together; a bug of the caller, so a ValueError."""
    if labels.shape != (patients, findings):
        raise ValueError(f"labels are {labels.shape}, with {patients} patients and {findings} findings")
    if np.shape(thresholds) != (findings,):
        raise ValueError(f"thresholds have shape {np.shape(thresholds)}, not ({findings},)")
    if members is not None and (members.ndim != 3 or (len(members), members.shape[2]) != labels.shape):
        raise ValueError(f"member probabilities are {members.shape}, not (N, M, F) with labels {labels.shape}")


def _check_values(labels: Array, probability: Floats, votes: Floats, spread: Floats, members: Floats | None) -> None:
    """Refuse values outside their range where a label is stated; NaN is outside."""
    if not np.all((labels == PRESENT) | (labels == ABSENT)):
        raise ValueError("labels must be 1, 0 or NaN")
    for values in (probability, *(() if members is None else (members,))):
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError("probabilities must lie in 0..1 and not be NaN: leave images without a score out")
    if not np.all(votes >= 0) or not np.all(spread >= 0):
        raise ValueError("votes and spread must not be negative or NaN: leave images without a score out")
