"""How far the members of an ensemble agree: votes, spread, entropy, map agreement.

Shapes: M members, B batch, F findings, G heat-map grid. Pure functions on tensors.
"""

import math
from itertools import combinations

import torch
from torch import Tensor


def votes(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Members (M, B, F) at or above their own threshold (M, F): int64 (B, F), 0..M.

    Source: Liz et al. 2023, inter-model agreement.
    """
    return (probabilities >= thresholds[:, None, :]).sum(dim=0)


def spread(probabilities: Tensor) -> Tensor:
    """Standard deviation over members (population, so 0 for one member): (M, B, F) -> (B, F), 0..0.5."""
    return probabilities.std(dim=0, correction=0)


def entropy(probabilities: Tensor) -> Tensor:
    """Binary entropy of a probability in bits, 0 (certain) to 1 (0.5)."""
    inside = probabilities.clamp(1e-12, 1 - 1e-7)
    nats: Tensor = torch.special.entr(inside) + torch.special.entr(1 - inside)
    return nats / math.log(2.0)


def map_agreement(maps: Tensor) -> Tensor:
    """Mean over pairs of members of sum(min) / sum(max) of their heat maps: (M, ..., G, G) -> (...), 0..1.

    1 means equal maps, 0 maps that nowhere overlap. Maps that are zero everywhere take part in no pair; NaN where
    fewer than two maps are left.
    """
    alive = maps.amax(dim=(-2, -1)) > 0
    total = torch.zeros(maps.shape[1:-2], dtype=maps.dtype, device=maps.device)
    pairs = torch.zeros_like(total)
    for first, second in combinations(range(maps.shape[0]), 2):
        both = alive[first] & alive[second]
        low = torch.minimum(maps[first], maps[second]).sum(dim=(-2, -1))
        high = torch.maximum(maps[first], maps[second]).sum(dim=(-2, -1))
        total += torch.where(both, low / high.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)
        pairs += both
    return torch.where(pairs > 0, total / pairs, torch.nan)
