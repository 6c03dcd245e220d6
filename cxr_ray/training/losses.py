"""Class weights from label counts, and masked, reweighted multilabel losses.

Shapes: B batch, F findings. A NaN label is not stated and contributes nothing.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Weighting = Literal["none", "inverse", "sqrt"]


def positive_weights(positives: Tensor, negatives: Tensor, *, weighting: Weighting, max_weight: float) -> Tensor:
    """Weight of the positives of each finding (F,) from its counts (F,) in the training part.

    `inverse` is negatives / positives, which gives both classes the same total weight; `sqrt` its square root, which
    moves the probabilities less; `none` is 1. Never below 1 / max_weight nor above max_weight, and 1 for a finding
    without positives.
    """
    ratio = negatives.float() / positives.float().clamp_min(1.0)
    weights = {"none": torch.ones_like(ratio), "inverse": ratio, "sqrt": ratio.sqrt()}[weighting]
    bounded = weights.clamp(1.0 / max_weight, max_weight)
    return torch.where(positives > 0, bounded, torch.ones_like(bounded))


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean binary cross-entropy over the stated labels of a batch: logits and labels (B, F), weights (F,) -> scalar.

    `weights` multiply the term of the positives. Zero, with a zero gradient, when no label is stated.
    """
    stated = ~labels.isnan()
    truth = labels.nan_to_num(0.0)
    losses = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weights, reduction="none")
    return (losses * stated).sum() / stated.sum().clamp_min(1)
