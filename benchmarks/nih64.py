"""Training on real radiographs: three small members against PCA and logistic regression.

600 images of NIH ChestX-ray14 at 64 px (Wang 2017), split by patient; the members learn from the training part through
the project's own `train`, on the CPU and from nothing, and both sides choose their settings on the validation part.
Prints the macro AUROC on the test part over the findings with at least 5 positives there, with 95 % intervals by
drawing patients, and the interval of the difference under the same draws. Each seed is another split.

    python benchmarks/nih64.py ../shared/data/nih64 [--config jobs/train_nih64.yaml] [--seeds 1 2 3] [--output FOLDER]
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_ray.cluster import session
from cxr_ray.config import TrainConfig, load_yaml
from cxr_ray.evaluation import bootstrap
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.training.cache import ModelInputs, open_part
from cxr_ray.training.decoding import decode_once
from cxr_ray.training.trainer import train
from cxr_ray.training.validation import macro_auroc

LEAST_POSITIVES = 5
COMPONENTS, PENALTIES = (10, 20, 40, 80, 160), (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Test scores (N, F) of both sides on one split, and what they took."""

    seed: int
    test: ModelInputs
    patients: list[str]
    ensemble: NDArray[np.float64]
    baseline: NDArray[np.float64]
    choice: str
    train_seconds: float
    baseline_seconds: float


def main() -> None:
    """Train, fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default=Path("jobs/train_nih64.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    data = arguments.data.absolute()
    places = (f"manifest.path={data / 'labels.csv'}", f"manifest.image_root={data / 'images'}")
    config = load_yaml(TrainConfig, arguments.config, overrides=(*places, *arguments.overrides))
    print("| seed | test images, patients | findings | ensemble | baseline | difference | seconds (both) |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, session(None, debug=False):
        output = arguments.output or Path(scratch)
        for seed in arguments.seeds:
            outcome = compare(config.model_copy(update={"seed": seed}), str(output / f"seed{seed}"))
            print(row(outcome), flush=True)


def compare(config: TrainConfig, output: str) -> Outcome:
    """Both sides on the split of one seed."""
    trained = train(config, output, log=lambda line: None)
    manifest = read_manifest(config.manifest, seed=config.seed)
    cache, _ = decode_once(manifest, config, output, log=lambda line: None)
    parts = {part: open_part(cache, part) for part in ("train", "validation", "test")}
    ensemble = load_ensemble(trained.bundle)
    images = torch.from_numpy(parts["test"].pixels(range(len(parts["test"]))))
    scores = ensemble.score(images, with_heatmaps=False).probabilities.double().numpy()
    started = time.monotonic()
    baseline, choice = fit_baseline(parts)
    seconds = time.monotonic() - started
    patients = patients_of(manifest, parts["test"])
    return Outcome(config.seed, parts["test"], patients, scores, baseline, choice, trained.seconds, seconds)


def patients_of(manifest: Manifest, part: ModelInputs) -> list[str]:
    """The patient of each image of a part."""
    owner = manifest.frame.set_index("uri")["patient_id"]
    return [str(patient) for patient in owner.loc[list(part.uris)]]


def fit_baseline(parts: dict[str, ModelInputs]) -> tuple[NDArray[np.float64], str]:
    """Test scores of the components and penalty that are best on the validation part, fitted to the training part."""
    flat = {name: part.pixels(range(len(part))).reshape(len(part), -1) / 255.0 for name, part in parts.items()}
    best, scores, choice = -np.inf, np.zeros(parts["test"].labels.shape), ""
    for components, penalty in itertools.product(COMPONENTS, PENALTIES):
        found = {name: np.full(parts[name].labels.shape, 0.5) for name in ("validation", "test")}
        project = make_pipeline(PCA(components, random_state=0), StandardScaler()).fit(flat["train"])
        projected = {name: project.transform(pixels) for name, pixels in flat.items()}
        for finding, truth in enumerate(parts["train"].labels.T):
            if len(np.unique(truth)) < 2:
                continue
            model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)
            model.fit(projected["train"], truth)
            for name, values in found.items():
                values[:, finding] = model.predict_proba(projected[name])[:, 1]
        auroc = macro_auroc(parts["validation"].labels, found["validation"])
        if auroc > best:
            best, scores, choice = auroc, found["test"], f"{components} components, C={penalty:g}"
    return scores, choice


def row(outcome: Outcome) -> str:
    """One line of the table."""
    kept = (outcome.test.labels == 1).sum(axis=0) >= LEAST_POSITIVES
    truth, count = outcome.test.labels[:, kept], int(kept.sum())
    sides = [outcome.ensemble[:, kept], outcome.baseline[:, kept]]
    points = [macro_auroc(truth, side) for side in sides]
    drawn = [
        bootstrap.macro_in_draws(drawn["auroc"], np.ones(count, bool))
        for drawn in (
            bootstrap.draw(truth, side, thresholds=(0.5,) * count, patients=outcome.patients) for side in sides
        )
    ]
    cells = [
        cell(value, draws)
        for value, draws in zip([*points, points[0] - points[1]], [*drawn, drawn[0] - drawn[1]], strict=True)
    ]
    sizes = f"{len(truth)}, {len(set(outcome.patients))}"
    seconds = f"{outcome.train_seconds:.0f}, {outcome.baseline_seconds:.0f}"
    return f"| {outcome.seed} | {sizes} | {count} | {' | '.join(cells)} ({outcome.choice}) | {seconds} |"


def cell(value: float, draws: NDArray[np.float64]) -> str:
    """A value with its interval."""
    (low,), (high,) = bootstrap.percentiles(draws[:, None])
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
