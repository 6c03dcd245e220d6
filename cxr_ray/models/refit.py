"""Calibration and thresholds of an ensemble fitted anew to labelled images, without its weights.

What is fitted depends on the members' probabilities alone, which the score table keeps. Shapes: M members, N images,
F findings. Labels are 1, 0 or NaN (not stated, takes no part). Knows no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_ray.config import CalibrationMethod, ThresholdRule
from cxr_ray.models.calibration import Array, Calibration, Fitted, Scaling, fit_scaling, log_losses
from cxr_ray.models.ensemble import EnsembleSpec, combine_probabilities
from cxr_ray.models.thresholds import fit_threshold

NUM_FOLDS = 5
_SIMPLEST_FIRST = ("keep", *get_args(Fitted))


@dataclass(frozen=True, slots=True)
class Choice:
    """The calibration of one finding, and the cross-validated log loss of each method that was compared."""

    scaling: Scaling
    losses: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Refit:
    """A spec fitted anew: per finding the losses of the methods, if compared, and whether the rule set its threshold.

    Where it did not, for want of labels, the finding has the threshold of the spec that was handed in.
    """

    spec: EnsembleSpec
    losses: tuple[Mapping[str, float], ...]
    ruled: tuple[bool, ...]


def refit(
    spec: EnsembleSpec,
    members: Tensor,
    labels: Array,
    *,
    patients: NDArray[np.int64],
    method: CalibrationMethod,
    rules: Sequence[ThresholdRule],
    enough: NDArray[np.bool_],
) -> Refit:
    """`spec` with calibration and thresholds fitted to the members' probabilities (M, N, F) and labels (N, F).

    The members' own thresholds, by which they vote, follow the same rule on their own probabilities, so that a vote
    means what the ensemble's decision means. A fixed probability is one of the calibrated scale, which members have
    not: it leaves their thresholds as they are, except under a voting rule, which knows the members' scale only. There
    the ensemble's thresholds are of votes, and stay; and votes are not calibrated.

    Args:
        spec: What is fitted anew; a finding that cannot be fitted keeps what it says.
        members: (M, N, F), 0..1, uncalibrated.
        labels: (N, F).
        patients: (N,), a number per patient; images of one are never on both sides of a cross-validation.
        method: How each finding is calibrated; `auto` chooses by cross-validation, see `choose`.
        rules: F rules of the thresholds.
        enough: (F,) findings with labels enough; the others keep their calibration, and rules that need labels do not
            touch their thresholds.
    """
    own = [_thresholds(row, labels, rules, enough, spec=spec) for row in members]
    thresholds = tuple(
        tuple(old if new is None else new for old, new in zip(*pair, strict=True))
        for pair in zip(spec.member_thresholds, own, strict=True)
    )
    voted = replace(spec, member_thresholds=thresholds)
    if spec.combination != "mean":
        ruled = tuple(all(row[f] is not None for row in own) for f in range(len(rules)))
        return Refit(_with_rules(voted, rules, ruled), ({},) * len(rules), ruled)
    raw = combine_probabilities(members, torch.tensor(thresholds), rule="mean").double().numpy()
    choices = [
        _scaling(raw[:, f], labels[:, f], patients, old, method=method) if enough[f] else Choice(old, {})
        for f, old in enumerate(spec.calibration.scalings)
    ]
    scaled = replace(voted, calibration=Calibration.of([choice.scaling for choice in choices]))
    found = _thresholds(combined(scaled, members), labels, rules, enough)
    kept = tuple(old if new is None else new for old, new in zip(spec.thresholds, found, strict=True))
    ruled = tuple(new is not None for new in found)
    return Refit(
        _with_rules(replace(scaled, thresholds=kept), rules, ruled), tuple(choice.losses for choice in choices), ruled
    )


def combined(spec: EnsembleSpec, members: Tensor) -> Tensor:
    """Combined and calibrated probabilities (N, F) of the members' (M, N, F), as scoring gives them."""
    thresholds = torch.tensor(spec.member_thresholds, dtype=members.dtype)
    return spec.calibration.apply(combine_probabilities(members, thresholds, rule=spec.combination))


def present(spec: EnsembleSpec, probabilities: Tensor) -> Tensor:
    """Which findings (N, F) count as present."""
    return probabilities >= torch.tensor(spec.thresholds, dtype=probabilities.dtype)


def labelled_enough(labels: Array, fewest: int) -> NDArray[np.bool_]:
    """Which findings (F,) have at least `fewest` positives and as many negatives in labels (N, F)."""
    return np.asarray(np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) >= fewest)


def crossfit(
    spec: EnsembleSpec,
    members: Tensor,
    labels: Array,
    *,
    patients: NDArray[np.int64],
    method: CalibrationMethod,
    rules: Sequence[ThresholdRule],
    enough: NDArray[np.bool_],
) -> tuple[Array, NDArray[np.bool_]]:
    """Probabilities and decisions (N, F) for each image by what `refit` gives from other patients' images alone.

    The whole procedure is repeated in each fold, the choice of the method too. A finding that a fold leaves without
    labels of both classes keeps there what `spec` says.
    """
    folds = patient_folds(patients, np.zeros(len(patients)))
    probabilities, decisions = np.zeros(labels.shape), np.zeros(labels.shape, bool)
    for fold in range(NUM_FOLDS):
        out = folds == fold
        fold_labels = labels[~out]
        fitted = refit(
            spec,
            members[:, torch.from_numpy(~out)],
            fold_labels,
            patients=patients[~out],
            method=method,
            rules=rules,
            enough=enough & labelled_enough(fold_labels, 1),
        ).spec
        values = combined(fitted, members[:, torch.from_numpy(out)])
        probabilities[out], decisions[out] = values.numpy(), present(fitted, values).numpy()
    return probabilities, decisions


def choose(probabilities: Array, labels: Array, patients: NDArray[np.int64], current: Scaling) -> Choice:
    """The simplest method for one finding whose held-out log loss is within one standard error of the best one's.

    Methods, simplest first: the current calibration, temperature, Platt, isotonic. The standard error is that of the
    difference between the two, image by image, summed per patient: how hard the images are plays no part in it. With
    fewer than two positives or negatives per fold the current one stays.

    Source: Breiman 1984, Classification and regression trees, section 3.4.3, the one-standard-error rule.
    """
    stated = ~np.isnan(labels)
    values, truth, owners = probabilities[stated], labels[stated], patients[stated]
    if min(truth.sum(), (1 - truth).sum()) < 2 * NUM_FOLDS:
        return Choice(current, {})
    folds = patient_folds(owners, truth)
    losses = {method: _held_out_losses(method, values, truth, folds, current) for method in _SIMPLEST_FIRST}
    means = {method: float(loss.mean()) for method, loss in losses.items()}
    best = losses[min(means, key=means.__getitem__)]
    chosen = next(m for m in _SIMPLEST_FIRST if (losses[m] - best).mean() <= _standard_error(losses[m] - best, owners))
    return Choice(_fitted(chosen, values, truth, current), means)


def patient_folds(patients: NDArray[np.int64], truth: Array) -> NDArray[np.int64]:
    """The fold (N,) of each image, 0 to NUM_FOLDS - 1: one per patient, those with a positive image dealt out first."""
    _, owner = np.unique(patients, return_inverse=True)
    positive = np.bincount(owner, truth == 1) > 0
    order = np.random.default_rng(0).permutation(len(positive))
    order = order[np.argsort(~positive[order], kind="stable")]
    fold = np.empty(len(positive), np.int64)
    fold[order] = np.arange(len(positive)) % NUM_FOLDS
    return np.asarray(fold[owner])


def _scaling(
    values: Array, truth: Array, patients: NDArray[np.int64], current: Scaling, *, method: CalibrationMethod
) -> Choice:
    """The calibration of one finding by the method asked for."""
    if method == "auto":
        return choose(values, truth, patients, current)
    return Choice(_fitted(method, values, truth, current), {})


def _fitted(method: str, values: Array, truth: Array, current: Scaling) -> Scaling:
    """The calibration by a method, or the current one where that is the method or cannot be fitted."""
    if method not in get_args(Fitted):
        return current
    return fit_scaling(method, values, truth) or current  # type: ignore[arg-type]  # just asked


def _held_out_losses(method: str, values: Array, truth: Array, folds: NDArray[np.int64], current: Scaling) -> Array:
    """Log loss (N,) of each image by a calibration fitted to the other folds."""
    calibrated = np.zeros(len(values))
    for fold in range(NUM_FOLDS):
        out = folds == fold
        scaling = _fitted(method, values[~out], truth[~out], current)
        calibrated[out] = Calibration.of([scaling]).apply(torch.from_numpy(values[out])[:, None])[:, 0].numpy()
    return log_losses(calibrated, truth)


def _standard_error(differences: Array, patients: NDArray[np.int64]) -> float:
    """Standard error of the mean of differences (N,) whose patients are drawn, not the images."""
    _, owner = np.unique(patients, return_inverse=True)
    sums = np.bincount(owner, differences - differences.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / max(1, len(sums) - 1)) / len(differences))


def _thresholds(
    probabilities: Tensor,
    labels: Array,
    rules: Sequence[ThresholdRule],
    enough: NDArray[np.bool_],
    *,
    spec: EnsembleSpec | None = None,
) -> list[float | None]:
    """Threshold per finding of probabilities (N, F); None where the rule does not decide. `spec`: of a member of it."""
    values = probabilities.double().numpy()
    own_scale = spec is None or spec.combination != "mean"
    return [
        fit_threshold(values[:, f], labels[:, f], rule=rule)
        if (own_scale or rule.name != "fixed") and (enough[f] or not rule.needs_labels)
        else None
        for f, rule in enumerate(rules)
    ]


def _with_rules(spec: EnsembleSpec, rules: Sequence[ThresholdRule], ruled: Sequence[bool]) -> EnsembleSpec:
    """`spec`, whose record of how it was made says which rule set which threshold."""
    new = {name: str(rule) for name, rule, done in zip(spec.findings, rules, ruled, strict=True) if done}
    return replace(spec, training={**spec.training, "threshold_rules": {**spec.threshold_rules, **new}})
