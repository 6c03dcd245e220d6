"""Settings of one scoring run, and of its preflight."""

from typing import Literal

from pydantic import Field

from cxr_ray.config.images import GateConfig, LimitsConfig
from cxr_ray.config.section import Section
from cxr_ray.config.storage import StorageConfig

# What lies beside images in real archives and is none.
_SIDECARS = (
    *("*.csv", "*.tsv", "*.parquet", "*.json", "*.jsonl", "*.xml", "*.yaml", "*.yml"),
    *("*.txt", "*.md", "*.html", "*.pdf", "*.log", "*.md5", "*.sha256"),
)


class ScoreConfig(Section):
    """One scoring run: images in, one row each out."""

    limits: LimitsConfig = LimitsConfig()
    gate: GateConfig = GateConfig()
    storage: StorageConfig = StorageConfig()
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
    progress_every: float = Field(10.0, gt=0.0, le=30.0, description="Seconds between progress lines.")
    heartbeat_every: float = Field(5.0, gt=0.0, le=60.0, description="Seconds between heartbeat files in the output.")
    lease_seconds: float = Field(
        30.0,
        ge=3.0,
        le=600.0,
        description="Seconds without a sign of life after which a run on another machine is dead.",
    )


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
