"""All that an audit measures with a model at hand: maps against lesions, random weights, deleted pixels.

Shapes: P pairs of an image and a finding it has, K methods. Images come and go in batches; numbers stay.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cxr_ray.config import AuditConfig
from cxr_ray.errors import ManifestError
from cxr_ray.evaluation.localisation import faithfulness, measures, sanity
from cxr_ray.evaluation.localisation.controls import LesionPrior
from cxr_ray.evaluation.localisation.explaining import (
    CENTRE,
    ENSEMBLE,
    PRIOR,
    RANDOM,
    Method,
    explain,
    methods_of,
    pairs_of,
    scorer,
)
from cxr_ray.evaluation.localisation.masks import Regions
from cxr_ray.evaluation.localisation.measures import MEASURES, Floats, Pairs
from cxr_ray.evaluation.localisation.subjects import Film, Subject, marks_of, read_subjects
from cxr_ray.evaluation.metrics import at_or_above
from cxr_ray.models.ensemble import Ensemble

_FAITHFUL = (ENSEMBLE, RANDOM, CENTRE, PRIOR)


def measure_all(
    ensemble: Ensemble, films: Sequence[Film], regions: Regions, config: AuditConfig
) -> tuple[dict[str, Any], pa.Table, set[str]]:
    """The parts of the audit's JSON about maps, the table of all measurements, and the uris that were read."""
    spec, methods = ensemble.spec, methods_of(ensemble.spec.members)
    marks = ((film, marks_of(film, regions, spec.findings)) for film in films)
    prior = LesionPrior(marks, size=spec.preprocess.size, grid=spec.grid)
    subjects = read_subjects(films, findings=spec.findings, preprocess=spec.preprocess, regions=regions)
    score = scorer(ensemble, batch_size=config.batch_size)
    kept: list[Subject] = []
    parts: list[Pairs] = []
    curves: list[Floats] = []
    read: set[str] = set()
    for batch in _batches(subjects, config.batch_size):
        chosen = pairs_of(batch)
        if len(chosen):
            probabilities, maps, exists = explain(ensemble, batch, chosen, prior=prior, seed=config.seed)
            parts.append(_pairs(batch, chosen, probabilities, maps, exists, spec.thresholds))
            few = chosen[: np.searchsorted(chosen[:, 0], config.faithfulness_images - len(read))]
            curves += _curves(score, batch, few, maps, exists, methods, config)
        kept += batch[: max(0, config.sanity_images - len(kept))]
        read |= {subject.uri for subject in batch}
    if not parts:
        raise ManifestError(f"None of the {len(films)} images with a lesion can be read or has a pixel marked.")
    pairs = _joined(parts)
    weights = pairs.weights(num_draws=config.num_draws, seed=config.seed)
    found = _localisation(pairs, methods, spec.findings, weights, config.seed)
    few = pairs_of(kept)
    changes = np.full((len(sanity.STEPS), 1), np.nan)
    if len(few):
        changes = sanity.cascade(ensemble.members, kept, few, grid=spec.grid, seed=config.seed)
    found["sanity"] = sanity.summarise(changes, weights[:, : changes.shape[1]])
    found["faithfulness"] = _faithfulness(curves, methods, weights)
    return found, _table(pairs, methods, spec.findings), read


def _batches(subjects: Iterable[Subject], size: int) -> Iterator[list[Subject]]:
    """Lists of up to `size` subjects."""
    remaining = iter(subjects)
    while batch := list(islice(remaining, size)):
        yield batch


def _pairs(
    batch: Sequence[Subject],
    chosen: NDArray[np.int64],
    probabilities: NDArray[Any],
    maps: NDArray[np.uint8],
    exists: NDArray[np.bool_],
    thresholds: Sequence[float],
) -> Pairs:
    """The measurements of one batch."""
    values = np.full((*maps.shape[:2], len(MEASURES)), np.nan)
    for place, (number, finding) in enumerate(chosen.tolist()):
        subject = batch[number]
        assert subject.lesions is not None  # pairs_of
        for method in np.flatnonzero(exists[place]):
            values[place, method] = measures.measure(
                maps[place, method],
                subject.lesions[finding],
                placement=subject.placement,
                height=subject.height,
                width=subject.width,
            )
    owners = [batch[number] for number in chosen[:, 0]]
    return Pairs(
        uris=tuple(subject.uri for subject in owners),
        patients=tuple(subject.patient for subject in owners),
        numbers=chosen[:, 1],
        probabilities=probabilities[chosen[:, 0], chosen[:, 1]],
        called=at_or_above(probabilities, thresholds)[chosen[:, 0], chosen[:, 1]],
        values=values,
    )


def _curves(
    score: faithfulness.Score,
    batch: Sequence[Subject],
    chosen: NDArray[np.int64],
    maps: NDArray[np.uint8],
    exists: NDArray[np.bool_],
    methods: Sequence[Method],
    config: AuditConfig,
) -> list[Floats]:
    """Deletion and insertion curves (methods, 2, K) of each pair, by the methods of _FAITHFUL; NaN without a map."""
    numbers = [[method.name for method in methods].index(name) for name in _FAITHFUL]
    found = []
    for place, (number, finding) in enumerate(chosen.tolist()):
        shown = [maps[place, method] for method in numbers]
        pixels, steps = batch[number].pixels, config.faithfulness_steps
        curves = faithfulness.curves(score, pixels, finding, shown, num_steps=steps, seed=config.seed)
        curves[~exists[place, numbers]] = np.nan
        found.append(curves)
    return found


def _joined(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all batches."""
    return Pairs(
        uris=tuple(uri for part in parts for uri in part.uris),
        patients=tuple(patient for part in parts for patient in part.patients),
        numbers=np.concatenate([part.numbers for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        called=np.concatenate([part.called for part in parts]),
        values=np.concatenate([part.values for part in parts]),
    )


def _localisation(
    pairs: Pairs, methods: Sequence[Method], findings: Sequence[str], weights: Floats, seed: int
) -> dict[str, Any]:
    """The measures of every method, and the ensemble against its best member."""
    table: dict[str, Any] = {}
    for number, method in enumerate(methods):
        values = pairs.values[:, number]
        true = measures.summarise(np.where(pairs.called[:, None], values, np.nan), weights)
        parts = {
            findings[finding]: measures.summarise(np.where(pairs.numbers[:, None] == finding, values, np.nan), weights)
            for finding in np.unique(pairs.numbers)
        }
        table[method.name] = {
            "label": method.label,
            "kind": method.kind,
            **measures.summarise(values, weights),
            "true_positives": {key: true[key] for key in ("num_maps", "pointing_game", "hit_rate", "miou")},
            "findings": {
                name: {key: part[key] for key in ("num_maps", "pointing_game", "hit_rate", "miou")}
                for name, part in parts.items()
            },
        }
    members = [number for number, method in enumerate(methods) if method.kind == "member"]
    ensemble = [method.name for method in methods].index(ENSEMBLE)
    differences = {
        name: measures.against_best(
            pairs.values[:, ensemble, k],
            pairs.values[:, members, k],
            patients=pairs.patients,
            weights=weights,
            seed=seed,
        )
        for k, name in enumerate(MEASURES)
        if name != "iobb"
    }
    means = pairs.values[:, members].mean(axis=0)
    best = max(range(len(members)), key=lambda m: (means[m, 0], means[m, MEASURES.index("miou")]))
    return {
        "localisation": table,
        "best_member": methods[members[best]].name,
        "ensemble_minus_best_member": {name: found.to_dict() for name, found in differences.items()},
        "verdict": measures.verdict(differences["pointing_game"], differences["miou"], num_members=len(members)),
    }


def _faithfulness(curves: Sequence[Floats], methods: Sequence[Method], weights: Floats) -> dict[str, Any]:
    """The curves of each method of _FAITHFUL; empty when none were asked for."""
    if not curves:
        return {}
    labels = {method.name: method.label for method in methods}
    stacked = np.stack(curves)
    return {
        name: {
            "label": labels[name],
            **faithfulness.summarise(stacked[:, number], weights[:, : len(stacked)]),
        }
        for number, name in enumerate(_FAITHFUL)
    }


def _table(pairs: Pairs, methods: Sequence[Method], findings: Sequence[str]) -> pa.Table:
    """One row per image, finding and method, with every measure."""
    number, many = len(pairs.uris), len(methods)
    columns: dict[str, Any] = {
        "uri": np.repeat(pairs.uris, many),
        "finding": np.repeat([findings[finding] for finding in pairs.numbers], many),
        "probability": np.repeat(pairs.probabilities, many),
        "called": np.repeat(pairs.called, many),
        "method": np.tile([method.name for method in methods], number),
    }
    columns |= {name: pairs.values[:, :, k].ravel() for k, name in enumerate(MEASURES)}
    return pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})
