"""Settings: one YAML file is one run. Every default lives here and nowhere else.

Each section is frozen, refuses unknown keys and is handed down alone (`preprocess` gets `PreprocessConfig`,
not the whole). Sections cross into Ray workers as `model_dump()` and are stored beside each result.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr_ray.errors import ConfigError


class Section(BaseModel):
    """Base of all settings: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessConfig(Section):
    """How a radiograph becomes a model input. Part of the preprocess digest."""

    size: int = Field(224, ge=16, le=2048, description="Side S of the square model input, in pixels.")
    fit: Literal["pad", "stretch"] = Field(
        "pad",
        description="`pad` keeps the aspect ratio and centres the film on black; `stretch` scales both axes to S.",
    )
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5),
        description="Grey range, in percent of pixels, for images whose header gives no usable window.",
    )
    reduced_decode: Literal["never", "lossy", "always"] = Field(
        "lossy",
        description="JPEG 2000 decoded at 1/2, 1/4 or 1/8 of its size, down to 1.4 S: never, for the lossy transfer"
        " syntaxes, or always; a model input then differs by half a grey level of 255 on average.",
    )

    @model_validator(mode="after")
    def _percentiles_ascend(self) -> Self:
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, not {self.percentiles}")
        return self


class LimitsConfig(Section):
    """What one object may cost; checked before memory is taken."""

    object_bytes: int = Field(256 * 2**20, ge=1, description="Largest object that is read, in bytes.")
    pixels: int = Field(60_000_000, ge=1, description="Most pixels (rows x columns) of one image.")
    archive_members: int = Field(100_000, ge=1, description="Most members of one .zip or .tar.")
    expansion_ratio: float = Field(
        250.0,
        ge=1.0,
        description="Largest size of deflated data (an archive's member, a dataset) over its stored size.",
    )
    decode_seconds: float = Field(
        60.0, gt=0.0, description="Longest time one image may take from bytes to model input, in seconds."
    )


ImageKind = Literal["animal", "mammogram", "digitised_film", "screenshot", "localizer", "for_processing"]
"""What a DICOM image may be beside, or instead of, a radiograph of a patient that is meant to be looked at."""


class GateConfig(Section):
    """Which images are scored as frontal chest radiographs.

    What a header says is reduced to fixed codes first (images/dicom/terms.py), from several languages; the lists name
    such codes or any spelling of them (`thorax` stands for CHEST) and ignore case. In all of them '' stands for a
    header that does not say, and OTHER for a value that is in no vocabulary.
    """

    kinds: tuple[ImageKind, ...] = Field(
        ("digitised_film",),
        description="Kinds of images that are scored all the same: scanned films (secondary captures with Conversion"
        " Type DF and a Modality such as CR or DX), by default; screenshots, localizers and the others, if named.",
    )
    modalities: tuple[str, ...] = Field(
        ("CR", "DX", "RG", "DR", "XR"),
        description="Modality values that are scored; add '' to accept DICOM without one.",
    )
    body_parts: tuple[str, ...] = Field(
        ("", "CHEST", "LUNG", "HEART", "MEDIASTINUM"),
        description="Body parts that are scored: codes as in DICOM PS3.16 Annex L, for example RIB or CHESTABDOMEN.",
    )
    views: tuple[str, ...] = Field(
        ("", "PA", "AP", "FRONTAL", "OTHER"),
        description="Views that are scored. The others are LL, RL, LATERAL, LLD, RLD, DECUBITUS, LLO, RLO, LAO, RAO,"
        " LPO, RPO, OBLIQUE, LORDOTIC and AXIAL.",
    )
    min_side: int = Field(64, ge=1, description="Shorter side, in pixels, below which an image is not scored.")
    max_aspect: float = Field(
        2.5, ge=1.0, description="Longer over shorter side, in pixels, above which an image is not scored."
    )
    image_check: Literal["silent", "always", "never"] = Field(
        "silent",
        description="When the pixels are checked for flat pictures, text and forms: where no header names the body"
        " part (PNG, JPEG and TIFF among them), for every image, or never.",
    )


class DecodeConfig(Section):
    """Everything between bytes and model input in training, where the table says what is a chest film."""

    preprocess: PreprocessConfig = PreprocessConfig()
    limits: LimitsConfig = LimitsConfig()


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
    drop_rate: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before the classifier.")
    head_hidden: int | None = Field(
        None, ge=1, description="Width of a hidden ReLU layer before the outputs (the paper: 512); None: linear head."
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of timm.create_model, e.g. {channels: [32, 64, 96, 128]}; checkpoint_path is a"
        " file with timm's ImageNet weights, for `pretrained` without a network.",
    )
    seed: int | None = Field(None, ge=0, description="Seed of this member; None derives one from the run's seed.")


Source = Literal["csv", "padchest", "nih14", "chexpert", "mimic", "vindr"]
Uncertain = Literal["ignore", "zeros", "ones"]

# Which settings belong to which data sets; for any other they are a mistake worth a sentence.
_BELONGS: dict[str, tuple[Source, ...]] = {
    "part_column": ("csv",),
    "label_column": ("csv",),
    "sex_column": ("csv",),
    "age_column": ("csv",),
    "view_column": ("csv",),
    "manufacturer_column": ("csv",),
    "tree_path": ("padchest",),
    "train_list": ("nih14",),
    "test_list": ("nih14",),
    "test_path": ("chexpert", "vindr"),
    "metadata_path": ("mimic",),
    "split_path": ("mimic",),
    "boxes_path": ("nih14", "vindr"),
    "test_boxes_path": ("vindr",),
}


class ManifestConfig(Section):
    """Where the labelled images are and what the columns mean."""

    source: Source = Field("csv", description="Data set whose tables are read as published; csv: a table of your own.")
    path: str = Field(
        description="The table, CSV or Parquet: one row per image (csv), PadChest's labels, NIH's Data_Entry_2017,"
        " CheXpert's train.csv, MIMIC's chexpert.csv.gz, or VinDr's image_labels_train.csv or annotations_train.csv."
    )
    image_root: str | None = Field(
        None, description="Folder or s3:// prefix of relative images; None: the file's folder."
    )
    layout: str | None = Field(
        None,
        description="Path of an image below image_root, columns of the table in braces, e.g. '{ImageDir}/{ImageID}';"
        " None: as the data set is published.",
    )
    uri_column: str = Field("uri", description="Column with the image: absolute, s3://, or relative to image_root.")
    patient_column: str = Field("patient_id", description="Column that identifies the patient.")
    part_column: str | None = Field(None, description="Column with train, validation or test; None: split by patient.")
    label_column: str | None = Field(
        None, description="Column with a list of what is present; None: one column per finding. A blank is not stated."
    )
    label_separator: str = Field("|", min_length=1, description="What stands between the names of such a list.")
    sex_column: str | None = Field(None, description="Column with F or M, for subgroups.")
    age_column: str | None = Field(None, description="Column with the age in years, for subgroups.")
    view_column: str | None = Field(None, description="Column with the view, for `views` and for subgroups.")
    manufacturer_column: str | None = Field(None, description="Column with the manufacturer, for subgroups.")
    tree_path: str | None = Field(
        None, description="PadChest's tree_term_CUI_counts file: labels are grouped into its top-level terms."
    )
    train_list: str | None = Field(None, description="NIH's train_val_list.txt; with test_list the official split.")
    test_list: str | None = Field(None, description="NIH's test_list.txt.")
    test_path: str | None = Field(
        None, description="Official test labels: CheXpert's valid.csv, VinDr's image_labels_test.csv."
    )
    metadata_path: str | None = Field(None, description="MIMIC's metadata.csv.gz, with the views.")
    split_path: str | None = Field(None, description="MIMIC's split.csv.gz; None: split by patient.")
    boxes_path: str | None = Field(None, description="NIH's BBox_List_2017.csv or VinDr's annotations_train.csv.")
    test_boxes_path: str | None = Field(None, description="VinDr's annotations_test.csv.")
    findings: tuple[str, ...] = Field(
        (),
        description="Findings in the order of the outputs; required for csv. Empty: those of the data set; for PadChest"
        " the paper's 35, or with tree_path all top-level terms.",
    )
    uncertain: Uncertain | None = Field(
        None, description="What -1 means: not stated, 0 or 1. None: not stated in CheXpert and MIMIC, refused in a csv."
    )
    uncertain_findings: dict[str, Uncertain] = Field(
        default_factory=dict, description="The same for single findings, e.g. {Edema: ones, Consolidation: zeros}."
    )
    unmentioned: Literal["ignore", "zeros"] = Field(
        "ignore",
        description="What a blank of CheXpert and MIMIC means: not stated, or 0 as in Irvin et al. 2019. Where"
        " No Finding is 1 a blank is always 0, but for Support Devices.",
    )
    consensus: Literal["majority", "any", "all"] = Field(
        "majority", description="When VinDr's readers make a finding present; a tie of the majority is not stated."
    )
    views: tuple[str, ...] | None = Field(
        None,
        description="Views that are kept, as the table spells them. None: PA of PadChest, AP and PA of CheXpert and"
        " MIMIC, all of the others; an empty list: all.",
    )
    min_images: int = Field(0, ge=0, description="A finding with fewer positive images is left out (the paper: 200).")
    require_finding: bool = Field(
        False, description="Leave out images on which none of the findings is present, as the paper does."
    )
    one_class: Literal["refuse", "allow"] = Field(
        "refuse", description="A finding that is never, or always, present in train or validation."
    )
    shares: tuple[float, float, float] = Field(
        (0.7, 0.1, 0.2), description="Shares of train, validation and test when the project splits by patient."
    )
    max_unreadable: float = Field(0.0, ge=0.0, lt=1.0, description="Share of images that may fail to decode.")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not self.findings and self.source == "csv":
            raise ValueError("findings must name at least one column")
        repeated = sorted({name for name in self.findings if self.findings.count(name) > 1})
        if repeated:
            raise ValueError(f"findings are named twice: {', '.join(repeated)}")
        if abs(sum(self.shares) - 1.0) > 1e-6 or min(self.shares) < 0.0 or min(self.shares[:2]) == 0.0:
            raise ValueError(f"shares must be positive for train and validation and add up to 1, not {self.shares}")
        strangers = sorted(set(self.uncertain_findings) - set(self.findings)) if self.findings else []
        if strangers:
            raise ValueError(f"uncertain_findings names no finding of the run: {', '.join(strangers)}")
        return self

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        for name, sources in _BELONGS.items():
            if getattr(self, name) is not None and self.source not in sources:
                raise ValueError(
                    f"{name} belongs to the source {' or '.join(sources)}, not to {self.source}; remove it"
                )
        if self.source == "mimic" and self.metadata_path is None:
            raise ValueError("the source mimic needs metadata_path, the table mimic-cxr-2.0.0-metadata.csv.gz")
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("train_list and test_list make the official split together; name both or none")
        if self.source == "csv" and self.views and self.view_column is None:
            raise ValueError("views of a csv need view_column, the column that states the view")
        if self.layout is not None and "{" not in self.layout:
            raise ValueError(f"layout must name a column in braces, e.g. '{{ImageID}}', not {self.layout!r}")
        return self


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
    scale: float = Field(30.0, gt=0.0, description="Factor on ldam's logits.")
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


class TrackingConfig(Section):
    """Where the epochs of a run can be looked at, beside the TensorBoard events and JSON lines in the output."""

    mlflow: str | None = Field(None, description="MLflow tracking URI, e.g. http://host:5000; needs the extra mlflow.")
    experiment: str = Field("cxr-ray", min_length=1, description="MLflow experiment.")


Combination = Literal["mean", "vote", "mode"]


class TrainConfig(Section):
    """One training run: a labelled table in, an ensemble bundle out."""

    manifest: ManifestConfig
    members: tuple[MemberConfig, ...]
    decode: DecodeConfig = DecodeConfig()
    augment: AugmentConfig = AugmentConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    combination: Combination = Field(
        "mean", description="`mean` of probabilities (CTP), majority `vote` per finding (PTC-lw), `mode` of label sets."
    )
    seed: int = Field(0, ge=0, description="Seed of the split, the weights, the order and the augmentation.")

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        names = [member.name for member in self.members]
        if not names:
            raise ValueError("members must list at least one backbone")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"member names are used twice: {', '.join(repeated)}")
        return self


# What lies beside images in real archives and is none.
_SIDECARS = (
    *("*.csv", "*.tsv", "*.parquet", "*.json", "*.jsonl", "*.xml", "*.yaml", "*.yml"),
    *("*.txt", "*.md", "*.html", "*.pdf", "*.log", "*.md5", "*.sha256"),
)


class ScoreConfig(Section):
    """One scoring run: images in, one row each out."""

    limits: LimitsConfig = LimitsConfig()
    gate: GateConfig = GateConfig()
    exclude: tuple[str, ...] = Field(
        _SIDECARS,
        description="File names in folders that are no images and get no row; an input named itself always gets one.",
    )
    heatmaps: Literal["positive", "all", "none"] = Field(
        "positive", description="Findings with a heat map: those at or above threshold, all, or none."
    )
    heatmap_method: Literal["gradcam", "gradcam++", "layercam", "eigencam"] = Field(
        "gradcam", description="Explanation; all but gradcam go through pytorch-grad-cam and cost a backward pass each."
    )
    batch_size: int = Field(32, ge=1, description="Images per forward pass.")
    rows_per_file: int | None = Field(
        None, ge=1, description="Rows of one score file; None: 1/20 of the run, 64 to 4096."
    )
    images_per_task: int = Field(32, ge=1, description="Images one decode task fetches and decodes.")
    actors: int | None = Field(None, ge=1, description="Ensemble actors; None: one per GPU, or one per CPU.")
    max_fault_share: float = Field(
        1.0, ge=0.0, le=1.0, description="Share of faulted images above which the exit code is 3."
    )
    storage_retries: int = Field(4, ge=0, description="Repeated reads of an object after a passing storage error.")
    progress_every: float = Field(10.0, gt=0.0, description="Seconds between progress lines.")


class ScanConfig(Section):
    """One survey of an archive: how it is read, and on what its estimate of scoring rests."""

    workers: int | None = Field(None, ge=1, description="Processes that parse headers; None: one per CPU.")
    threads: int = Field(16, ge=1, le=64, description="Objects that one process reads at the same time.")
    cpus: float = Field(16.0, gt=0.0, description="CPU cores of the cluster whose wall time is estimated.")
    gpus: float = Field(1.0, ge=0.0, description="GPUs of the cluster whose wall time is estimated.")
    gpu_images_per_second: float = Field(
        150.0,
        gt=0.0,
        description="Images per second of one GPU through the ensemble. Assumed, not measured: the paper's five members"
        " at 224 px in float32 with heat maps, about 19 billion multiply-adds an image. Yours: images over seconds of"
        " the ensemble stage in a run manifest.",
    )
    core_images_per_second: float = Field(
        2.0,
        gt=0.0,
        description="Images per second of one CPU core through the same ensemble, where there is no GPU; measured 2.2"
        " on one core of an AMD EPYC.",
    )


AnySection = TypeVar("AnySection", bound=Section)


def digest_of(value: Any) -> str:
    """Hex SHA-256 of `value` as canonical JSON (sorted keys, no blanks), first 16 digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(section: type[AnySection], values: dict[str, Any], *, source: str) -> AnySection:
    """Validate `values` as `section`; raises ConfigError naming `source`, the key, the value and what is allowed."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            + ("" if item["type"] == "missing" or isinstance(item["input"], dict) else f" (got {item['input']!r})")
            for item in error.errors()
        )
        raise ConfigError(f"{source} cannot be used: {problems}.") from error


def load_yaml(section: type[AnySection], path: Path, *, overrides: tuple[str, ...] = ()) -> AnySection:
    """Read `path` as `section`, then apply `key.sub=value` overrides (values are YAML). Raises ConfigError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read ({error.strerror}); check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} must be a mapping of sections, not {type(values).__name__}.")
    return parse(section, overridden(values, overrides), source=str(path))


def overridden(values: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """`values`, changed in place by `key.sub=value` overrides whose values are YAML. Raises ConfigError."""
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `key.sub=value` in the freshly read mapping `values`; list items by their number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, for example optimize.epochs=5, not {override!r}.")
    *parents, last = key.split(".")
    node: Any = values
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ConfigError(f"--set {override!r} names no place in the configuration.") from error
