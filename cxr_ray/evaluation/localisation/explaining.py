"""The heat maps that an audit compares: every method's on the ensemble, each member's own, and the controls.

Shapes: B images, F findings, G heat-map grid, K methods, P pairs of an image and a finding it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_ray.evaluation.localisation.controls import LesionPrior, as_bytes, centre_map, film_share, random_map
from cxr_ray.evaluation.localisation.faithfulness import Score
from cxr_ray.evaluation.localisation.measures import Floats
from cxr_ray.evaluation.localisation.subjects import Subject
from cxr_ray.labels.findings import PRESENT
from cxr_ray.models import heatmaps
from cxr_ray.models.ensemble import Ensemble, HeatmapMethod, combine

Kind = Literal["ensemble", "member", "method", "control"]
Bytes = NDArray[np.uint8]
ENSEMBLE, RANDOM, CENTRE, PRIOR = "ensemble_gradcam", "control_random", "control_centre", "control_prior"
_OTHERS: dict[HeatmapMethod, str] = {"gradcam++": "Grad-CAM++", "layercam": "LayerCAM", "eigencam": "EigenCAM"}
_CONTROLS = {RANDOM: "random map", CENTRE: "middle of the film", PRIOR: "other patients' lesions"}


@dataclass(frozen=True, slots=True)
class Method:
    """A way to a heat map: its key in the results, what a table calls it, and what kind it is."""

    name: str
    label: str
    kind: Kind


def methods_of(members: Sequence[str]) -> tuple[Method, ...]:
    """Every method that is compared, the ensemble's Grad-CAM first; members go by their own names."""
    return (
        Method(ENSEMBLE, "ensemble, Grad-CAM", "ensemble"),
        *(Method(name, f"{name}, Grad-CAM", "member") for name in members),
        *(Method(f"ensemble_{name}", f"ensemble, {label}", "method") for name, label in _OTHERS.items()),
        *(Method(name, label, "control") for name, label in _CONTROLS.items()),
    )


def pairs_of(subjects: Sequence[Subject]) -> NDArray[np.int64]:
    """Each (number of the subject, number of a finding that it has and that is marked), (P, 2)."""
    found = [
        (number, int(finding))
        for number, subject in enumerate(subjects)
        if subject.lesions is not None
        for finding in np.flatnonzero((subject.labels == PRESENT) & subject.lesions.any(axis=(1, 2)))
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def explain(
    ensemble: Ensemble, subjects: Sequence[Subject], pairs: NDArray[np.int64], *, prior: LesionPrior, seed: int
) -> tuple[NDArray[Any], Bytes, NDArray[np.bool_]]:
    """Probabilities (B, F), the maps (P, K, G, G) 0..255 of each pair by `methods_of`, and which of them exist (P, K).

    Only the prior may lack one, where no other patient has the finding.
    """
    inputs = torch.from_numpy(np.stack([subject.pixels for subject in subjects]))[:, None].to(ensemble.device)
    rows, columns = torch.from_numpy(pairs).to(ensemble.device).unbind(dim=1)
    grid = ensemble.spec.grid
    explained = [heatmaps.member_maps(member, inputs, grid=grid) for member in ensemble.members]
    logits = torch.stack([logits for logits, _, _ in explained])
    own = torch.stack([maps[rows, columns] for _, maps, _ in explained])
    known = [own.mean(dim=0), *own]
    for method in _OTHERS:
        every = [
            heatmaps.library_maps(member, inputs, grid=grid, method=method)[1][rows, columns]  # type: ignore[arg-type]
            for member in ensemble.members
        ]
        known.append(torch.stack(every).mean(dim=0))
    shown = np.rint(torch.stack(known, dim=1).cpu().numpy() * 255.0).astype(np.uint8)
    controls, there = _controls(ensemble, subjects, pairs, prior=prior, seed=seed)
    exists = np.concatenate([np.ones(shown.shape[:2], bool), there], axis=1)
    probabilities = combine(logits, ensemble.spec).probabilities.cpu().numpy()
    return probabilities, np.concatenate([shown, controls], axis=1), exists


def _controls(
    ensemble: Ensemble, subjects: Sequence[Subject], pairs: NDArray[np.int64], *, prior: LesionPrior, seed: int
) -> tuple[Bytes, NDArray[np.bool_]]:
    """The controls' maps (P, 3, G, G) in the order of `_CONTROLS`, and which of them exist (P, 3)."""
    spec = ensemble.spec
    maps = np.zeros((len(pairs), len(_CONTROLS), spec.grid, spec.grid), np.uint8)
    there = np.ones(maps.shape[:2], bool)
    for place, (number, finding) in enumerate(pairs.tolist()):
        subject = subjects[number]
        film = film_share(subject.placement, subject.height, subject.width, size=spec.preprocess.size, grid=spec.grid)
        usual = prior.others(finding, subject.patient)
        noise = random_map(subject.uri, spec.findings[finding], film=film, seed=seed)
        maps[place] = as_bytes([noise, centre_map(film=film), np.zeros_like(film) if usual is None else usual])
        there[place, -1] = usual is not None
    return maps, there


def scorer(ensemble: Ensemble, *, batch_size: int) -> Score:
    """Model inputs (B, S, S) uint8 -> probabilities (B, F) of the ensemble, a few images at a time."""

    def score(pixels: Bytes) -> Floats:
        """Probabilities of these model inputs."""
        inputs = torch.from_numpy(np.ascontiguousarray(pixels))[:, None]
        batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
        found = [ensemble.score(batch, with_heatmaps=False).probabilities.cpu().numpy() for batch in batches]
        return np.concatenate(found).astype(np.float64)

    return score
