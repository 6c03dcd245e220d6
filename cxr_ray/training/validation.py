"""Logits of a whole part from all workers, and the metrics an epoch is judged by.

Shapes: N images of the part, F findings.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from cxr_ray.errors import ConfigError
from cxr_ray.training.cache import ModelInputs
from cxr_ray.training.step import autocast, first_named
from cxr_ray.training.workers import Worker, gathered

_BATCH = 64
_Metric = Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], float]


@torch.no_grad()
def predict(
    network: nn.Module,
    inputs: ModelInputs,
    *,
    indices: npt.NDArray[np.int64],
    worker: Worker,
    precision: str = "fp32",
) -> Tensor:
    """Logits (n, F) of the images at `indices`, on the CPU."""
    network.eval()
    logits = [torch.empty(0, inputs.labels.shape[1])]
    for start in range(0, len(indices), _BATCH):
        images = torch.from_numpy(inputs.pixels(indices[start : start + _BATCH])).to(worker.device)
        with autocast(worker.device, precision):
            logits.append(network(images).float().cpu())
    return torch.cat(logits)


def predict_part(network: nn.Module, inputs: ModelInputs, *, worker: Worker, precision: str = "fp32") -> Tensor:
    """Logits (N, F) of a whole part on every worker: each computes its share, all gather the rest.

    `network` is the bare one: a data-parallel wrapper may talk in every forward pass, and shares differ in length.
    """
    mine = np.arange(worker.rank, len(inputs), worker.world)
    logits = predict(network, inputs, indices=mine, worker=worker, precision=precision)
    whole = torch.empty(len(inputs), logits.shape[1])
    for indices, share in gathered((mine, logits), worker):
        whole[torch.from_numpy(indices)] = share
    return whole


def check_logits(logits: Tensor, inputs: ModelInputs, *, place: str) -> None:
    """Refuse logits (N, F) of a whole part that are not finite; all workers hold the same ones, so they agree.

    Raises:
        ConfigError: Names `place` and the first images.
    """
    broken = (~logits.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        listed = first_named([inputs.uris[index] for index in broken])
        raise ConfigError(
            f"The logits are not finite in {place}, with {listed}; lower optimize.learning_rate or optimize.clip_norm,"
            " or take bf16 or fp32 for optimize.precision."
        )


def macro_auroc(labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """Mean AUROC over the findings of labels and scores (N, F) with both classes; NaN when there is none."""
    return _macro(roc_auc_score, labels, scores)


def mean_average_precision(labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """Mean average precision over the findings of labels and scores (N, F) with both classes; NaN without any."""
    return _macro(average_precision_score, labels, scores)


def has_both_classes(labels: npt.NDArray[np.float32]) -> bool:
    """Whether a finding of labels (N, F), or the one of labels (N,), is stated both present and absent."""
    return bool(((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).any())


def _macro(metric: _Metric, labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """Mean of a metric over the findings whose stated labels hold both classes."""
    values = []
    for truth, score in zip(labels.T, scores.T, strict=True):
        stated = ~np.isnan(truth)
        if has_both_classes(truth):
            values.append(metric(truth[stated], score[stated]))
    return float(np.mean(values)) if values else math.nan
