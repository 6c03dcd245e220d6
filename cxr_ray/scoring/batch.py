"""The ensemble stage of both engines: a decoded batch in, its rows of the score table out. Knows no Ray."""

import time

import numpy as np
import pyarrow as pa
import torch

from cxr_ray.config import ScoreConfig
from cxr_ray.models.memory import FittedEnsemble
from cxr_ray.scoring import rows
from cxr_ray.scoring.table import Contract


def score_batch(
    ensemble: FittedEnsemble, decoded: pa.Table, contract: Contract, *, run_id: str, config: ScoreConfig
) -> tuple[pa.Table, float]:
    """Score rows of a decoded batch, with what each image took in every stage; and the seconds of the ensemble."""
    images, places = rows.stack_pixels(decoded, size=contract.size)
    started = time.perf_counter()
    scores = None
    if len(places):
        scores = ensemble.score(
            torch.from_numpy(images.copy()),
            with_heatmaps=config.heatmaps != "none",
            method=config.heatmap_method,
            keep_member_maps=config.member_heatmaps,
        )
    scored = rows.score_rows(decoded, places, scores, contract, run_id=run_id, heatmaps=config.heatmaps)
    seconds = time.perf_counter() - started
    forward = np.zeros(decoded.num_rows)
    forward[places] = seconds / max(1, len(places))
    for name in ("fetch_seconds", "decode_seconds"):
        scored = scored.append_column(name, decoded[name])
    scored = scored.append_column("ensemble_seconds", pa.array(forward))
    batch = config.batch_on(ensemble.ensemble.device.type)
    together = min(ensemble.most or batch, batch)
    scored = scored.append_column("images_per_pass", pa.array([together] * decoded.num_rows, pa.int32()))
    return scored.append_column("was_reduced", pa.array([together < batch] * decoded.num_rows)), seconds
