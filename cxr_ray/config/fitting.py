"""Settings of how a member is fitted: its backbone, views, loss, optimiser and share of the cluster."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cxr_ray.config.section import Section

# What is made of a seed for members and epochs (training/) must stay below 2**63; and NumPy's own limit.
LARGEST_SEED = 2**32 - 1


class MemberConfig(Section):
    """One backbone of the ensemble."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Name of the member; a folder in the bundle.")
    backbone: str = Field(description="timm model name of a CNN with global pooling, e.g. densenet201.")
    pretrained: bool = Field(False, description="Start from timm's ImageNet weights (downloaded once, or cached).")
    size: int | None = Field(None, ge=16, le=2048, description="Input side of this member; None takes preprocess.size.")
    output_stride: Literal[8, 16, 32] | None = Field(
        None, description="Input pixels per feature-map cell, where the backbone offers a choice; finer heat maps."
    )
    last_stage: int | None = Field(
        None,
        ge=0,
        description="Last feature level of the backbone that is kept (index in timm's feature_info); None: all. Fewer"
        " levels are faster, see less of the surroundings and give finer heat maps.",
    )
    pooling: Literal["avg", "max", "avgmax", "catavgmax"] = Field(
        "avg", description="Global pooling, where the backbone offers a choice; max favours small findings."
    )
    drop_rate: float = Field(
        0.0, ge=0.0, lt=1.0, description="Dropout before the outputs: behind the hidden layer, where there is one."
    )
    head_hidden: int | None = Field(
        None, ge=1, description="Width of a hidden ReLU layer before the outputs (the paper: 512); None: linear head."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of timm.create_model, e.g. {channels: [32, 64, 96, 128]}; checkpoint_path is a"
        " file with timm's ImageNet weights, for `pretrained` without a network.",
    )
    seed: int | None = Field(
        None, ge=0, le=LARGEST_SEED, description="Seed of this member; None derives one from the run's seed."
    )


class AugmentConfig(Section):
    """Random views of a training image. The default keeps left and right, so the heart stays where it is."""

    rotation: float = Field(7.0, ge=0.0, le=180.0, description="Largest rotation, in degrees.")
    shift: float = Field(0.05, ge=0.0, le=0.5, description="Largest shift, as a share of the side.")
    zoom: float = Field(0.08, ge=0.0, lt=1.0, description="Largest change of scale; 0.1 means 0.9 to 1.1.")
    shear: float = Field(0.0, ge=0.0, lt=1.0, description="Largest shear, as the tangent of its angle.")
    brightness: tuple[float, float] = Field((0.85, 1.15), description="Range of the factor on grey values.")
    offset: float = Field(0.05, ge=0.0, le=1.0, description="Largest shift of grey values, of the range 0..1.")
    flip: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a left-right flip.")
    fill: Literal["nearest", "zero", "reflect"] = Field(
        "nearest", description="What lies beyond the edge of the film: its last pixel, black, or its mirror image."
    )


class LossConfig(Section):
    """What is minimised, and how the imbalance of a finding is met. Papers and equations: training/losses.py."""

    name: Literal["bce", "w_cel", "focal", "asymmetric", "ldam", "distribution_balanced"] = Field(
        "bce", description="The loss; w_cel is Wang 2017's, weighted by the positives and negatives of each batch."
    )
    weighting: Literal["none", "inverse", "sqrt", "effective"] = Field(
        "sqrt",
        description="Weight of a finding's positives: 1, negatives/positives, its square root, or by the effective"
        " number of samples; w_cel and distribution_balanced bring their own instead.",
    )
    max_weight: float = Field(20.0, ge=1.0, description="Upper bound of a positive weight.")
    beta: float = Field(0.999, ge=0.0, lt=1.0, description="beta of the effective number of samples.")
    gamma: float = Field(2.0, ge=0.0, description="Focusing exponent of focal and of distribution_balanced.")
    gamma_positive: float = Field(0.0, ge=0.0, description="Focusing exponent of positives of asymmetric.")
    gamma_negative: float = Field(4.0, ge=0.0, description="Focusing exponent of negatives of asymmetric.")
    clip: float = Field(0.05, ge=0.0, lt=1.0, description="Probability that asymmetric takes off negatives.")
    max_margin: float = Field(0.5, ge=0.0, description="Largest margin of ldam, for the rarest finding.")
    scale: float = Field(
        30.0, gt=0.0, description="Factor of ldam on the outputs, which the last layer takes over after training."
    )
    map_alpha: float = Field(0.1, ge=0.0, description="Least weight of distribution_balanced; 1 more is the largest.")
    map_beta: float = Field(10.0, gt=0.0, description="Steepness of distribution_balanced's map to weights.")
    map_mu: float = Field(0.2, ge=0.0, description="Middle of distribution_balanced's map to weights.")
    negative_scale: float = Field(2.0, gt=0.0, description="Factor on the logits of distribution_balanced's negatives.")
    prior_scale: float = Field(
        0.05, ge=0.0, description="Share of a finding's prior logit that shifts distribution_balanced's logits."
    )
    deferred: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of the steps before the weighting sets in (deferred re-weighting)."
    )
    smoothing: float = Field(0.0, ge=0.0, lt=0.5, description="Labels 1 and 0 become 1 - s and s.")


class SecondStageConfig(Section):
    """A second stage that trains the classifier anew on a frozen backbone (cRT, Kang 2020)."""

    epochs: int = Field(5, ge=1, description="Most passes over the training part.")
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak learning rate of AdamW.")
    loss: LossConfig = LossConfig(weighting="none")
    sampler: Literal["shuffle", "class_aware"] = Field(
        "class_aware", description="Order of an epoch; the paper's stage is class_aware, with an unweighted loss."
    )


class OptimizeConfig(Section):
    """How a member is fitted."""

    epochs: int = Field(20, ge=1, description="Most passes over the training part.")
    batch_size: int = Field(32, ge=2, description="Images per step over all workers of a member.")
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="AdamW, whose weight decay is decoupled, or Adam, which adds it to the gradient."
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak learning rate.")
    weight_decay: float = Field(0.05, ge=0.0, description="Weight decay.")
    warmup: float = Field(0.1, ge=0.0, lt=1.0, description="Share of the steps with rising learning rate, then cosine.")
    clip_norm: float = Field(5.0, gt=0.0, description="Largest gradient norm.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Arithmetic of the forward pass; weights stay float32, and fp16 gets a gradient scaler."
    )
    freeze: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the convolution layers, from the input, that do not learn."
    )
    ema: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Decay per step of a moving average of the weights, which is then what is validated and kept;"
        " None: the weights themselves.",
    )
    mixup: float = Field(
        0.0,
        ge=0.0,
        description="alpha of the Beta distribution by which images are mixed in pairs; 0: not at all. A finding of a"
        " mixture is stated only where both images state it.",
    )
    loss: LossConfig = LossConfig()
    sampler: Literal["shuffle", "class_aware"] = Field(
        "shuffle", description="Order of an epoch: a permutation, or findings in turn and an image of each."
    )
    second_stage: SecondStageConfig | None = Field(
        None, description="A second stage that trains the classifier anew on a frozen backbone; None: no such stage."
    )
    selection: Literal["macro_auroc", "map", "loss"] = Field(
        "macro_auroc",
        description="What of the validation part makes an epoch the best: the mean AUROC or average precision of the"
        " findings, or the loss. Where the first two are undefined, the loss decides.",
    )
    patience: int | None = Field(None, ge=1, description="Stop after this many epochs without a better selection.")
    min_delta: float = Field(0.0, ge=0.0, description="Gain in the selection that counts as better for patience.")


class ComputeConfig(Section):
    """What of the cluster a training run takes."""

    workers: int | tuple[int, int] = Field(
        1,
        description="Data-parallel workers of each member, or (fewest, most): Ray Train then takes what the cluster"
        " has and goes on from the last checkpoint when that changes. The batch of all workers stays the same.",
    )
    gpus_per_worker: float = Field(0.0, ge=0.0, description="GPUs of one worker; 0 trains on the CPU with gloo.")
    cpus_per_worker: float | None = Field(
        None, gt=0.0, description="CPUs of one worker; None shares the cluster among the members trained together."
    )
    parallel_members: int | None = Field(
        None, ge=1, description="Members trained at the same time; None: all that fit."
    )
    max_failures: int = Field(2, ge=0, description="Restarts of a member from its last checkpoint after a failure.")
    checkpoint_minutes: float | None = Field(
        10.0, gt=0.0, description="Minutes between checkpoints within an epoch; None: only by steps and epochs."
    )
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Steps between checkpoints within an epoch; None: only by minutes and epochs."
    )
    accumulate: int = Field(
        1, ge=1, description="Parts of a worker's share of a batch that go through the network one after the other."
    )
    channels_last: bool = Field(True, description="Memory layout with the channels innermost; faster on most machines.")
    compile: bool = Field(False, description="Compile the network with torch.compile; pays on GPUs in long runs.")
    sync_batchnorm: bool = Field(
        True, description="Batch statistics over all GPU workers rather than each worker's own; CPUs cannot."
    )

    @property
    def fewest_workers(self) -> int:
        """Workers without which a member does not start."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers a member takes where there is room."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _some_workers(self) -> Self:
        if not 1 <= self.fewest_workers <= self.most_workers:
            raise ValueError(f"workers must be at least 1, and fewest before most, not {self.workers}")
        return self
