"""Masked multilabel losses for rare findings, each a pure function, and the one a configuration names.

Shapes: B batch, F findings. Logits and labels are (B, F); every loss is (B, F) too, one term per label. A NaN label is
not stated and has neither value nor gradient. Labels lie in 0..1 and enter linearly: truth * (loss as a positive) +
(1 - truth) * (loss as a negative), so that smoothed ones mean the same to every loss. The arithmetic is float32, also
under autocast and of half-precision logits, and float64 of float64 logits. Knows no model, no sampler and no step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_ray.config import LossConfig


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """The loss of a configuration, with the label counts of the training part. Made by `loss_function`.

    `weights` (F,) is what a class table shows: the weight of a finding's positives over that of its negatives. It is 1
    for distribution_balanced, which weighs each image by its labels; for w_cel the ratio over the whole part.
    """

    config: LossConfig
    weights: Tensor
    positives: Tensor
    negatives: Tensor

    def __call__(self, logits: Tensor, labels: Tensor, *, progress: float, counts: Tensor | None = None) -> Tensor:
        """Losses (B, F) of logits and labels (B, F), 0 for NaN labels.

        `progress` is the share 0..1 of the training steps done: before `config.deferred` nothing is reweighted.
        `counts`, positives and negatives as `label_counts` has them, are needed by w_cel alone, where a batch is dealt
        to several workers: those of the whole batch; None takes them from `labels`.
        """
        config, reweighted = self.config, progress >= self.config.deferred
        truth = smoothed(labels, smoothing=config.smoothing)
        weights = self.weights if reweighted else torch.ones_like(self.weights)
        match config.name:
            case "bce":
                return bce(logits, truth, weights)
            case "w_cel":
                return w_cel(logits, truth, counts=counts) if reweighted else bce(logits, truth, weights)
            case "focal":
                return focal(logits, truth, weights, gamma=config.gamma)
            case "asymmetric":
                gammas = (config.gamma_positive, config.gamma_negative)
                return asymmetric(logits, truth, weights, gammas=gammas, clip=config.clip)
            case "ldam":
                margins = ldam_margins(self.positives, self.negatives, largest=config.max_margin)
                return ldam(logits, truth, weights, margins=margins, scale=config.scale)
            case "distribution_balanced":
                ratios = rebalancing(truth, self.positives, config=config) if reweighted else torch.ones_like(labels)
                prior = logit_prior(self.positives, self.negatives, config=config)
                return distribution_balanced(logits, truth, ratios, prior=prior, config=config)


def loss_function(config: LossConfig, *, positives: Tensor, negatives: Tensor, num_images: int) -> Loss:
    """The loss a configuration names, from the counts (F,) of stated labels among the images of the training part.

    It follows the logits to their device; counts that lie there already save a copy in each step.

    Raises:
        ValueError: a finding has more labels than there are images.
    """
    if bool((positives + negatives > num_images).any()):
        raise ValueError(f"a finding has more stated labels than the {num_images} images of the training part")
    match config.name:
        case "w_cel":
            weights = (negatives.sum() / positives.sum().clamp_min(1)).expand(len(positives)).clone()
        case "distribution_balanced":
            weights = torch.ones_like(positives, dtype=torch.float32)
        case _:
            weights = positive_weights(positives, negatives, config=config)
    return Loss(config, weights, positives, negatives)


def output_scale(config: LossConfig) -> float:
    """What the outputs of a network trained with a loss are to be multiplied by to be the logits of probabilities.

    The scale s of ldam, whose probabilities are sigmoid(s z); 1 for every other loss. It goes into the last layer when
    training is over: s z in the place of z during training would slow that layer, as against all before it, s times.
    """
    return config.scale if config.name == "ldam" else 1.0


def reduced(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean of losses over the stated labels (B, F) of a batch, a scalar; 0, with gradient 0, when none is stated.

    Over several workers: the sum of `losses.sum()` over the sum of `label_counts(labels).sum()`.
    """
    return losses.sum() / (~labels.isnan()).sum().clamp_min(1)


def label_counts(labels: Tensor) -> Tensor:
    """Positives and negatives (2,) among the stated labels (B, F); a smoothed label counts as what it was."""
    return torch.stack([(labels > 0.5).sum(), (labels < 0.5).sum()])


def smoothed(labels: Tensor, *, smoothing: float) -> Tensor:
    """Labels (B, F) with 1 and 0 moved to 1 - s and s, for s below 0.5; NaN stays NaN.

    Source: Szegedy 2016, Rethinking the Inception architecture, section 7, for two classes and epsilon = 2 s.
    """
    return labels * (1.0 - 2.0 * smoothing) + smoothing


def positive_weights(positives: Tensor, negatives: Tensor, *, config: LossConfig) -> Tensor:
    """Weight (F,) of the positives of each finding from its counts (F,) in the training part.

    `inverse` is negatives / positives, which gives both classes the same total weight; `sqrt` its square root, which
    moves the probabilities less; `effective` the ratio of effective numbers, E(negatives) / E(positives) with
    E(n) = (1 - beta^n) / (1 - beta), which is 1 for beta = 0 and `inverse` for beta -> 1; `none` is 1. Never below
    1 / max_weight nor above max_weight, and 1 for a finding without positives.

    Source: `effective` is Cui 2019, Class-balanced loss based on effective number of samples, proposition 1 and section
    4, whose class weight 1 / E(n) is divided by that of the negatives, so that one factor on the positives is left.
    """
    ratio = negatives.float() / positives.float().clamp_min(1.0)
    match config.weighting:
        case "none":
            weights = torch.ones_like(ratio)
        case "inverse":
            weights = ratio
        case "sqrt":
            weights = ratio.sqrt()
        case "effective":
            # In float64: 1 - beta^n of a beta near 1 would lose its digits.
            absent, present = (1.0 - config.beta ** counts.double() for counts in (negatives, positives.clamp_min(1)))
            weights = (absent / present).to(ratio)
    bounded = weights.clamp(1.0 / config.max_weight, config.max_weight)
    return torch.where(positives > 0, bounded, torch.ones_like(bounded))


def bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy (B, F), the positives weighted by `weights` (F,)."""
    z = _full_precision(logits)
    truth = labels.nan_to_num(0.0).to(z.dtype)
    losses = F.binary_cross_entropy_with_logits(z, truth, pos_weight=weights.to(z), reduction="none")
    return _stated(losses, labels)


def w_cel(logits: Tensor, labels: Tensor, *, counts: Tensor | None = None) -> Tensor:
    """Cross-entropy (B, F) that gives all positives of a batch, of any finding, the weight of all its negatives.

    -beta_P ln p for a positive and -beta_N ln(1 - p) for a negative, with beta_P = (P + N) / P and beta_N =
    (P + N) / N; P and N are `counts` (2,), by default those of `labels`. A batch without positives has no term with
    beta_P, and beta_N = 1: it is plain cross-entropy. The weights are not bounded, as in the paper.

    Source: Wang 2017, ChestX-ray8, equation 1 (W-CEL).
    """
    z = _full_precision(logits)
    found = (label_counts(labels) if counts is None else counts).to(z)
    beta_positive, beta_negative = found.sum() / found.clamp_min(1.0)
    return _blend(-beta_positive * F.logsigmoid(z), -beta_negative * F.logsigmoid(-z), labels)


def focal(logits: Tensor, labels: Tensor, weights: Tensor, *, gamma: float) -> Tensor:
    """Focal loss (B, F), -(1 - p_t)^gamma ln p_t, the positives weighted by `weights` (F,).

    Source: Lin 2017, Focal loss for dense object detection, equation 4; `weights` stands for alpha / (1 - alpha) of
    equation 5.
    """
    z = _full_precision(logits)
    return _blend(weights.to(z) * _focused(z, gamma=gamma), _focused(-z, gamma=gamma), labels)


def asymmetric(logits: Tensor, labels: Tensor, weights: Tensor, *, gammas: tuple[float, float], clip: float) -> Tensor:
    """Asymmetric loss (B, F), the positives weighted by `weights` (F,).

    -(1 - p)^gamma_positive ln p for a positive and -p_m^gamma_negative ln(1 - p_m) for a negative, where
    p_m = max(p - clip, 0): a negative below `clip` costs nothing.

    Source: Ben-Baruch 2021, Asymmetric loss for multi-label classification, section 2.
    """
    z = _full_precision(logits)
    positive = weights.to(z) * _focused(z, gamma=gammas[0])
    negative = _shifted(z, gamma=gammas[1], clip=clip) if clip else _focused(-z, gamma=gammas[1])
    return _blend(positive, negative, labels)


def ldam(logits: Tensor, labels: Tensor, weights: Tensor, *, margins: Tensor, scale: float) -> Tensor:
    """Cross-entropy (B, F) of logits that must pass a margin, the positives weighted by `weights` (F,).

    The classes of a finding are present, with logit z, and absent, with logit 0: -ln sigmoid(s (z - margin)) for a
    positive and -ln sigmoid(s (-z - margin)) for a negative; `margins` (2, F) as `ldam_margins` has them. The logit of
    a probability is s z, see `output_scale`.

    Source: Cao 2019, Learning imbalanced datasets with label-distribution-aware margin loss, section 3.2, L_LDAM, in
    its two-class form for each finding; the scale s is that of the authors' code, where z is a cosine, of a last layer
    whose inputs and weights are normalised. Here z is what any last layer gives.
    """
    z, (present, absent) = _full_precision(logits), margins.to(logits.device)
    positive = -weights.to(z) * F.logsigmoid(scale * (z - present.to(z)))
    return _blend(positive, -F.logsigmoid(scale * (-z - absent.to(z))), labels)


def ldam_margins(positives: Tensor, negatives: Tensor, *, largest: float) -> Tensor:
    """Margins (2, F) of positives and negatives: C / n^(1/4) of their counts (F,).

    C gives the rarest class with a label the margin `largest`; one without any has it as well.

    Source: Cao 2019, section 3.1, and the authors' code for C.
    """
    counts = torch.stack([positives, negatives]).double()
    rarity = torch.where(counts > 0, counts, torch.inf).pow(-0.25)
    margins = largest * rarity / rarity.max().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(counts > 0, margins, largest).float()


def distribution_balanced(
    logits: Tensor, labels: Tensor, ratios: Tensor, *, prior: Tensor, config: LossConfig
) -> Tensor:
    """Distribution-balanced focal loss (B, F): terms weighted by `ratios` (B, F), and tolerant to negatives.

    With z the logit shifted by `prior` (F,), and lambda = negative_scale: ratio * 2 * -(1 - q)^gamma ln q for a
    positive, q = sigmoid(z), and ratio * 2 / lambda * -(1 - q)^gamma ln q for a negative, q = sigmoid(-lambda z),
    whose gradient fades sooner. The 2 is the constant of the authors' focal configuration.

    Source: Wu 2020, Distribution-balanced loss for multi-label classification in long-tailed datasets, sections 3.1
    (re-balanced weighting) and 3.2 (negative-tolerant regularization).
    """
    z, slope = _full_precision(logits) + prior.to(logits.device), config.negative_scale
    positive, negative = _focused(z, gamma=config.gamma), _focused(-slope * z, gamma=config.gamma) / slope
    return 2.0 * _blend(ratios.to(z) * positive, ratios.to(z) * negative, labels)


def rebalancing(labels: Tensor, positives: Tensor, *, config: LossConfig) -> Tensor:
    """Weights (B, F), in map_alpha .. 1 + map_alpha, of each term of distribution_balanced, from counts (F,).

    r = (1 / n_i) / sum of 1 / n_j over the findings j of the image, then alpha + sigmoid(beta (r - mu)): small for
    a finding that comes along with rarer ones. An image without findings has the largest weight.

    Source: Wu 2020, section 3.1, r and its smooth map.
    """
    rarity = 1.0 / positives.to(labels.device).float().clamp_min(1.0)
    repeated = ((labels > 0.5) * rarity).sum(dim=1, keepdim=True)
    ratio = rarity / repeated.clamp_min(torch.finfo(torch.float32).tiny)
    return config.map_alpha + torch.sigmoid(config.map_beta * (ratio - config.map_mu))


def logit_prior(positives: Tensor, negatives: Tensor, *, config: LossConfig) -> Tensor:
    """Shift (F,) of the logits of distribution_balanced: kappa ln(p / (1 - p)) / lambda, p the share of positives.

    The share is that of the stated labels, the paper's n_i / N where all are stated. Source: Wu 2020, section 3.2.
    """
    stated = (positives + negatives).float().clamp_min(2.0)
    present = positives.float().clamp_min(1.0).minimum(stated - 1.0)
    return -config.prior_scale * torch.log(stated / present - 1.0) / config.negative_scale


def _full_precision(logits: Tensor) -> Tensor:
    """Logits in float32, or as they are in float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _stated(losses: Tensor, labels: Tensor) -> Tensor:
    """Losses (B, F), 0 where a label is not stated."""
    return torch.where(labels.isnan(), torch.zeros_like(losses), losses)


def _blend(positive: Tensor, negative: Tensor, labels: Tensor) -> Tensor:
    """Losses (B, F) of labels (B, F), from what each would cost as a positive and as a negative."""
    truth = labels.nan_to_num(0.0).to(positive.dtype)
    return _stated(truth * positive + (1.0 - truth) * negative, labels)


def _focused(z: Tensor, *, gamma: float) -> Tensor:
    """-(1 - q)^gamma ln q of q = sigmoid(z), by logarithms: a power of a vanished 1 - q has no gradient."""
    return -torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)


def _shifted(z: Tensor, *, gamma: float, clip: float) -> Tensor:
    """-p_m^gamma ln(1 - p_m) with p_m = max(sigmoid(z) - clip, 0), for clip > 0."""
    shifted = torch.sigmoid(z) - clip
    # 1 - p_m from the other side of the sigmoid, which does not vanish where p reaches 1.
    log_rest = torch.log((torch.sigmoid(-z) + clip).clamp_max(1.0))
    # The power sees no 0, whose gradient is infinite for gamma < 1 and would spoil the 0 that `where` chooses.
    power = torch.where(shifted > 0.0, shifted, 0.5) ** gamma
    return torch.where(shifted > 0.0, -power * log_rest, 0.0)
