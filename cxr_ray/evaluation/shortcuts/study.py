"""What the scores still tell with the lungs, the borders or the lesion hidden, and with all but them hidden.

A score that stays right without the region that shows the finding reads something else: a marker, a tube, the device.
Such findings are named. Knows neither models nor files: `score` is any function of images.

Shapes: B images of a batch, N images, F findings, D draws, S input side.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.bootstrap import Floats, Interval, drawn_weights, macro_in_draws, weighted_auroc
from cxr_ray.evaluation.localisation.subjects import Subject
from cxr_ray.evaluation.shortcuts.regions import Region, borders, film, fixed_lungs, hide, widened
from cxr_ray.evaluation.shortcuts.verdicts import verdict

Score = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]

REGIMES = {
    "whole": "the whole image",
    "without_lungs": "lungs hidden",
    "only_lungs": "all but the lungs hidden",
    "without_borders": "borders hidden",
    "only_borders": "all but the borders hidden",
    "without_lesion": "lesion hidden",
    "only_lesion": "all but the lesion hidden",
}
REGIONS = {"lungs": "the lungs", "borders": "the outer tenth of the film", "lesion": "the marked lesion, widened"}
LESION_REGIMES = ("without_lesion", "only_lesion")

SURVIVES_ABOVE = 0.5  # the lower bound of an AUROC that is more than guessing
KEPT = 0.8  # of the whole image's AUROC above 0.5: less than that, and most of it was read in the region
_MARGIN = 1 / 32  # of the input side by which a lesion is widened: its rim and halo belong to it
_IMAGES_AT_ONCE = 64
_SUBJECTS_AT_ONCE = 32  # with 8 findings and S = 224 their lesions take 13 MB
_LENT = 32  # masks of each finding kept for negatives to borrow


@dataclass(frozen=True, slots=True)
class ShortcutAudit:
    """The result; `aurocs` is by finding and regime, `macro` by regime; `named` are pairs of finding and reason."""

    num_images: int
    num_patients: int
    regions: dict[str, dict[str, Any]]
    num_positives: dict[str, int]
    aurocs: dict[str, dict[str, Interval]]
    macro: dict[str, Interval]
    named: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain values; an undefined number is None."""
        return {
            "num_images": self.num_images,
            "num_patients": self.num_patients,
            "regions": self.regions,
            "findings": {
                finding: {
                    "num_positives": self.num_positives[finding],
                    "regimes": {regime: {"auroc": interval.to_dict()} for regime, interval in regimes.items()},
                }
                for finding, regimes in self.aurocs.items()
            },
            "regimes": {
                regime: {"label": REGIMES[regime], "macro_auroc": interval.to_dict()}
                for regime, interval in self.macro.items()
            },
            "named": [{"finding": finding, "reason": reason} for finding, reason in self.named],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For people: AUROC per finding and regime, then the findings that are named, then the notes."""
        width = max(len("finding"), *(len(finding) for finding in self.aurocs))
        head = f"{'AUROC':<{width}} " + " ".join(f"{regime:>22}" for regime in self.macro)
        rows = [
            f"{name:<{width}} " + " ".join(f"{interval.words(2):>22}" for interval in regimes.values())
            for name, regimes in (*self.aurocs.items(), ("macro", self.macro))
        ]
        said = verdict(self.to_dict())
        named = [*(f"{finding}: {reason}" for finding, reason in self.named), *([said] if said else [])]
        counted = f"{self.num_images:,} images of {self.num_patients:,} patients"
        return [counted, head, *rows, *named, *self.notes]


@dataclass(slots=True)
class _Tally:
    """What was scored so far, one entry per image, and how much of the film each region takes."""

    patients: list[str] = field(default_factory=list)
    labels: list[NDArray[Any]] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)
    with_lungs: int = 0
    unlent: int = 0


class _Lender:
    """Lesion masks of other patients, for images that have no lesion: the shape of what is hidden must tell nothing.

    A sample of at most `_LENT` masks per finding, packed to bits, whatever the number of images (Vitter 1985,
    algorithm R).
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng((seed, 1))
        self._masks: dict[int, list[tuple[str, NDArray[np.uint8]]]] = {}
        self._seen: dict[int, int] = {}

    def learn(self, subject: Subject) -> None:
        """Keep the masks of one image, or let them pass."""
        for number in range(len(subject.labels)):
            lesion = own_lesion(subject, number)
            if lesion is None:
                continue
            kept = self._masks.setdefault(number, [])
            self._seen[number] = self._seen.get(number, 0) + 1
            place = len(kept) if len(kept) < _LENT else int(self._random.integers(self._seen[number]))
            if place < _LENT:
                kept[place : place + 1] = [(subject.patient, np.packbits(lesion, axis=1))]

    def borrow(self, subject: Subject, number: int) -> Region | None:
        """Another patient's mask of a finding, mirrored as often as not; None as long as there is none."""
        others = [mask for patient, mask in self._masks.get(number, []) if patient != subject.patient]
        if not others:
            return None
        bits = others[int(self._random.integers(len(others)))]
        mask: Region = np.unpackbits(bits, axis=1, count=len(subject.pixels)).astype(np.bool_)
        return np.flip(mask, axis=1) if self._random.random() < 0.5 else mask


def shortcut_audit(
    score: Score, subjects: Iterable[Subject], *, findings: Sequence[str], num_draws: int = 1000, seed: int = 0
) -> ShortcutAudit:
    """Score every image whole and with regions hidden, and compare.

    Args:
        score: From images (B, S, S) to probabilities (B, F).
        subjects: Labelled images, each patient's in any order; read once, a few at a time.
        findings: Names of the F findings.
        num_draws: Bootstrap draws of patients.
        seed: Fixes the draws, and which masks images without a lesion borrow.

    Raises:
        ConfigError: There is no image.
        ValueError: `score` does not return one probability per image and finding.
    """
    tally, lender = _Tally(), _Lender(seed)
    stream = iter(subjects)
    while group := list(islice(stream, _SUBJECTS_AT_ONCE)):
        for subject in group:
            lender.learn(subject)
        _score_group(score, group, lender, tally, len(findings))
    if not tally.patients:
        raise ConfigError("No labelled image could be read, so there are no shortcuts to look for; check the manifest.")
    return _audit(tally, findings, num_draws=num_draws, seed=seed)


def own_lesion(subject: Subject, number: int) -> Region | None:
    """Where a finding that is present is; None when it is absent, not stated or not marked."""
    if subject.labels[number] != 1 or subject.lesions is None or not subject.lesions[number].any():
        return None
    lesion: Region = subject.lesions[number]
    return lesion


def _score_group(score: Score, group: Sequence[Subject], lender: _Lender, tally: _Tally, num_findings: int) -> None:
    """Score all versions of some images and enter them."""
    first = len(tally.patients)
    for subject in group:
        tally.patients.append(subject.patient)
        tally.labels.append(subject.labels)
        tally.with_lungs += subject.lungs is not None
        for regime in REGIMES:
            tally.scores.setdefault(regime, []).append(np.full(num_findings, np.nan, np.float32))
    versions = (
        (first + place, regime, column, image)
        for place, subject in enumerate(group)
        for regime, column, image in _versions(subject, lender, tally)
    )
    while batch := list(islice(versions, _IMAGES_AT_ONCE)):
        found = np.asarray(score(np.stack([image for *_, image in batch])))
        if found.shape != (len(batch), num_findings):
            raise ValueError(f"{len(batch)} images and {num_findings} findings were scored as {found.shape}")
        for (row, regime, column, _), probabilities in zip(batch, found, strict=True):
            tally.scores[regime][row][column] = probabilities[column]


def _versions(subject: Subject, lender: _Lender, tally: _Tally) -> Iterator[tuple[str, slice | int, NDArray[np.uint8]]]:
    """Regime, for which findings, and image, of every version of one image."""
    shown = film(subject)
    yield "whole", slice(None), subject.pixels
    lungs = fixed_lungs(subject) if subject.lungs is None else subject.lungs
    for name, region in (("lungs", lungs), ("borders", borders(subject))):
        tally.shares.setdefault(name, []).append(_share(region, shown))
        yield f"without_{name}", slice(None), hide(subject.pixels, region, shown)
        yield f"only_{name}", slice(None), hide(subject.pixels, ~region, shown)
    for number, label in enumerate(subject.labels):
        lesion = own_lesion(subject, number) if label == 1 else None
        if lesion is not None:
            lesion = widened(lesion, _MARGIN * len(subject.pixels))
            tally.shares.setdefault("lesion", []).append(_share(lesion, shown))
        elif label == 0:
            borrowed = lender.borrow(subject, number)
            lesion = None if borrowed is None else widened(borrowed, _MARGIN * len(subject.pixels))
            tally.unlent += borrowed is None
        if lesion is not None:
            yield "without_lesion", number, hide(subject.pixels, lesion, shown)
            yield "only_lesion", number, hide(subject.pixels, ~lesion, shown)


def _share(region: Region, shown: Region) -> float:
    """The share of the film that a region takes."""
    return float((region & shown).sum() / max(1, shown.sum()))


def _audit(tally: _Tally, findings: Sequence[str], *, num_draws: int, seed: int) -> ShortcutAudit:
    """The intervals of every regime, and the findings that are named."""
    labels = np.stack(tally.labels).astype(np.float64)
    scores = {regime: np.stack(rows) for regime, rows in tally.scores.items() if regime in _regimes(tally)}
    if "lesion" in tally.shares:
        scores["same"] = np.where(np.isnan(scores["without_lesion"]), np.float32(np.nan), scores["whole"])
    drawn = {name: [] for name in scores}  # type: dict[str, list[Floats]]
    for weights in (np.ones((1, len(labels))), *drawn_weights(tally.patients, num_draws=num_draws, seed=seed)):
        for name, values in scores.items():
            drawn[name].append(_aurocs(labels, values, weights))
    whole = {name: np.concatenate(blocks) for name, blocks in drawn.items()}  # the first row is the value itself
    intervals = {name: [Interval.of(float(column[0]), column[1:]) for column in rows.T] for name, rows in whole.items()}
    macro = {name: macro_in_draws(rows, ~np.isnan(rows[0])) for name, rows in whole.items() if name in REGIMES}
    reasons = ((name, _reason({key: found[f] for key, found in intervals.items()})) for f, name in enumerate(findings))
    return ShortcutAudit(
        num_images=len(labels),
        num_patients=len(set(tally.patients)),
        regions=_regions(tally),
        num_positives={finding: int((labels[:, f] == 1).sum()) for f, finding in enumerate(findings)},
        aurocs={name: {key: intervals[key][f] for key in macro} for f, name in enumerate(findings)},
        macro={name: Interval.of(float(values[0]), values[1:]) for name, values in macro.items()},
        named=tuple((name, reason) for name, reason in reasons if reason),
        notes=_notes(tally),
    )


def _aurocs(labels: NDArray[np.float64], scores: NDArray[np.float32], weights: Floats) -> Floats:
    """AUROC (d, F) of scores (N, F) under weights (d, N), over the images with a label and a score; NaN undefined."""
    found = np.full((len(weights), labels.shape[1]), np.nan)
    for f, (truth, values) in enumerate(zip(labels.T, scores.T, strict=True)):
        stated = ~np.isnan(truth) & ~np.isnan(values)
        if stated.any():
            found[:, f] = weighted_auroc(truth[stated] == 1, values[stated], weights[:, stated])
    return found


def _reason(found: dict[str, Interval]) -> str:
    """Why a finding is named, or nothing.

    Where lesions are marked, hiding them decides. Elsewhere it is hiding the lungs, and showing the borders alone.
    """
    if "same" in found and not np.isnan(found["without_lesion"].low):
        judged, whole = ["without_lesion"], found["same"]
    else:
        judged, whole = ["without_lungs", "only_borders"], found["whole"]
    kept = [
        f"AUROC {found[regime].words()} with {REGIMES[regime]}"
        for regime in judged
        if min(found[regime].low, whole.low) > SURVIVES_ABOVE
        and found[regime].value - 0.5 >= KEPT * (whole.value - 0.5)
    ]
    return f"{' and '.join(kept)}; {whole.words()} with the same images whole" if kept else ""


def _regimes(tally: _Tally) -> tuple[str, ...]:
    """The regimes for which there are regions."""
    return tuple(regime for regime in REGIMES if regime not in LESION_REGIMES or "lesion" in tally.shares)


def _regions(tally: _Tally) -> dict[str, dict[str, Any]]:
    """What was hidden; `mean_share` is of the film."""
    masked = {"lungs": tally.with_lungs == len(tally.patients), "borders": False, "lesion": True}
    return {
        name: {
            "label": REGIONS[name],
            "source": "masks" if masked[name] else "fixed",
            "mean_share": float(np.mean(shares)),
        }
        for name, shares in tally.shares.items()
    }


def _notes(tally: _Tally) -> tuple[str, ...]:
    """What to know when reading the table."""
    notes = [
        "An AUROC that survives shows that something outside the region is read, which may also be a second finding or"
        " a legitimate sign; one that falls proves less, for no model was trained on images with a hole.",
    ]
    fixed = len(tally.patients) - tally.with_lungs
    if fixed:
        notes.append(
            f"{fixed:,} images have no lung mask: two fixed ellipses stand for the lungs, which miss a part of them and"
            " mean nothing on lateral films; give masks by --lungs or a column lungs of the manifest."
        )
    if "lesion" not in tally.shares:
        notes.append("No lesion is marked, so none was hidden; findings are judged by lungs and borders alone.")
    elif tally.unlent:
        notes.append(
            f"{tally.unlent:,} times a finding is absent and no other patient's mask of it was known yet; these are"
            " left out of the regimes with the lesion."
        )
    return tuple(notes)
