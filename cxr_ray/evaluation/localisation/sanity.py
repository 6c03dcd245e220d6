"""Do the maps depend on what was learned: they must change when the weights are replaced, from the outputs down.

Shapes: B images, F findings, G heat-map grid, P pairs of an image and a finding.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from cxr_ray.evaluation.bootstrap import Interval
from cxr_ray.evaluation.localisation.measures import mean_interval
from cxr_ray.evaluation.localisation.subjects import Subject
from cxr_ray.models import heatmaps
from cxr_ray.models.member import Member

STEPS = (
    ("the outputs", 0.0),
    ("the outputs and the last quarter of the layers", 0.25),
    ("the outputs and the last half of the layers", 0.5),
    ("the outputs and the last three quarters of the layers", 0.75),
    ("all weights", 1.0),
)
_UNLIKE = 0.5  # a rank correlation below this with all weights replaced counts as another map


def randomised(member: Member, share: float, *, seed: int) -> Member:
    """A copy whose outputs and last `share` of layers have their weights in random order; `member` stays as it is.

    Each tensor is shuffled in itself, which keeps its scale: with weights drawn anew the signal of a deep network may
    die out, and its maps with it. A layer is a module with weights or statistics of its own, in timm's order.

    Source: Adebayo et al. 2018, Sanity checks for saliency maps, cascading randomisation.
    """
    changed = copy.deepcopy(member)
    generator = torch.Generator().manual_seed(seed)
    backbone: Any = changed.backbone
    outputs = [module for module in backbone.get_classifier().modules() if _own(module)]
    layers = [module for module in backbone.modules() if _own(module) and module not in outputs]
    number = math.ceil(share * len(layers))
    for module in [*outputs, *layers[len(layers) - number :]]:
        for tensor in _own(module):
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))
    return changed


def _own(module: nn.Module) -> list[Tensor]:
    """The floating-point weights and statistics that belong to the module itself, to be changed in place."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [tensor.detach() for tensor in own if tensor.is_floating_point()]


def similarity(maps: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman's rank correlation (P,) of maps (P, G, G) and others; 0 where the other is flat, NaN where the map is.

    Source: Adebayo et al. 2018, section 3.
    """
    ranks, theirs = (rankdata(array.reshape(len(array), -1), axis=1) for array in (maps, others))
    ranks, theirs = (array - array.mean(axis=1, keepdims=True) for array in (ranks, theirs))
    norms, others_norms = (np.sqrt((array**2).sum(axis=1)) for array in (ranks, theirs))
    product = np.where(norms * others_norms > 0, norms * others_norms, 1.0)
    return np.where(norms > 0, (ranks * theirs).sum(axis=1) / product, np.nan)


def cascade(
    members: Sequence[Member], subjects: Sequence[Subject], pairs: NDArray[np.int64], *, grid: int, seed: int
) -> NDArray[np.float64]:
    """Similarity (steps, P) of the ensemble's Grad-CAM to itself after each of STEPS; `pairs` (P, 2) of image, finding.

    Members must lie on the device they are to run on.
    """
    inputs = torch.from_numpy(np.stack([subject.pixels for subject in subjects]))[:, None]
    before = _maps(members, inputs, grid)[pairs[:, 0], pairs[:, 1]]
    found = []
    for number, (_, share) in enumerate(STEPS):
        changed = [randomised(member, share, seed=seed + number) for member in members]
        found.append(similarity(before, _maps(changed, inputs, grid)[pairs[:, 0], pairs[:, 1]]))
    return np.stack(found)


def _maps(members: Sequence[Member], inputs: Tensor, grid: int) -> NDArray[Any]:
    """The ensemble's Grad-CAM (B, F, G, G), a few images at a time."""
    device = next(members[0].parameters()).device
    parts = []
    for start in range(0, len(inputs), 16):
        batch = inputs[start : start + 16]
        every = [heatmaps.member_maps(member, batch.to(device), grid=grid)[1] for member in members]
        parts.append(heatmaps.combine_maps(torch.stack(every))[0].cpu().numpy())
    return np.concatenate(parts)


def summarise(similarities: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Similarities (steps, P) with weights (D, P) as the audit's JSON has them, with a sentence."""
    intervals = [mean_interval(values, weights) for values in similarities]
    steps = zip(STEPS, intervals, strict=True)
    return {
        "steps": [{"randomised": label, "similarity": interval.to_dict()} for (label, _), interval in steps],
        "verdict": verdict(intervals[-1]),
    }


def verdict(last: Interval) -> str:
    """What the similarity with all weights replaced says."""
    if math.isnan(last.value):
        return "No map could be compared."
    found = f"With all weights in random order the maps keep a rank correlation of {last.words(2)}"
    if last.high < _UNLIKE:
        return f"{found}: they depend on what was learned."
    if last.low > _UNLIKE:
        return f"{found}: they show the image or the architecture as much as what was learned."
    return f"{found}: whether they depend on what was learned cannot be told."
