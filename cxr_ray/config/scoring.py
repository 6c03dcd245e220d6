"""Settings of one scoring run, and of its preflight."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, field_validator

from cxr_ray.config.images import GateConfig, LimitsConfig
from cxr_ray.config.section import Section
from cxr_ray.config.storage import StorageConfig
from cxr_ray.errors import Fault

# What lies beside images in real archives and is none.
_SIDECARS = (
    *("*.csv", "*.tsv", "*.parquet", "*.json", "*.jsonl", "*.xml", "*.yaml", "*.yml"),
    *("*.txt", "*.md", "*.html", "*.pdf", "*.log", "*.md5", "*.sha256"),
)


_CPU_BATCH, _GPU_BATCH = 16, 32

EngineName = Literal["auto", "local", "ray"]
Precision = Literal["fp32", "bf16"]
Runtime = Literal["torch", "onnx"]


class ScoreConfig(Section):
    """One scoring run: images in, one row each out."""

    engine: EngineName = Field(
        "auto",
        description="Who does the work: `local` this machine without Ray, `ray` a cluster. auto: Ray where an address"
        " is given or in RAY_ADDRESS, or where this machine has several GPUs, else local.",
    )
    limits: LimitsConfig = LimitsConfig()
    gate: GateConfig = GateConfig()
    storage: StorageConfig = StorageConfig()
    include: tuple[str, ...] = Field(
        (),
        description="Patterns of the names in folders, prefixes and archives that get a row; none: all. A pattern with"
        " a `/` is held against the whole path below the input.",
    )
    exclude: tuple[str, ...] = Field(
        _SIDECARS,
        description="Patterns, as in `include`, of what is no image and gets no row; an input named itself always gets"
        " one.",
    )
    since: str | None = Field(
        None,
        description="Leave out what was last modified before this: a date or time (2026-11-01, 2026-11-01T06:00+01:00;"
        " UTC unless it says) or an age (36h, 2d). What has no date stays in.",
    )
    retry_faults: tuple[Fault, ...] = Field(
        (Fault.STORAGE_UNAVAILABLE,),
        description="Faults that are not final: such a row is taken back when its object is listed again.",
    )
    worklist_bytes: int = Field(
        2**29, ge=2**27, description="Memory for sorting out what is new; beyond it, files below TMPDIR are used."
    )
    heatmaps: Literal["positive", "all", "none"] = Field(
        "positive", description="Findings with a heat map: those at or above threshold, all, or none."
    )
    heatmap_method: Literal["gradcam", "gradcam++", "layercam", "eigencam"] = Field(
        "gradcam", description="Explanation; all but gradcam go through pytorch-grad-cam and cost a backward pass each."
    )
    member_heatmaps: bool = Field(
        False,
        description="Also keep each member's own map of the reported findings, which the report shows side by side."
        " Size: M x G x G bytes a reported finding before compression; 768 of three members at 16 x 16 became 480 for"
        " smooth invented maps.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Images per forward pass; None: 16 on CPUs, where more are slower, and 32 on GPUs. Halved"
        " as often as the device's memory asks for it.",
    )
    precision: Precision = Field(
        "fp32",
        description="Numbers the backbones compute with; outputs, probabilities and maps are float32 with both. bf16 is"
        " faster on GPUs and on CPUs with bfloat16 units, and moves probabilities by up to 0.01.",
    )
    runtime: Runtime = Field(
        "torch",
        description="What computes the feature maps. onnx: ONNX Runtime (extra `onnx`), CPUs and fp32 only, 1.1 to 2"
        " times as fast as torch there; exported once per machine and member, which takes up to half a minute each.",
    )
    onnx_cache: str | None = Field(
        None, description="Local folder of the exported graphs; None: cxr_ray/onnx in XDG_CACHE_HOME or ~/.cache."
    )
    rows_per_file: int | None = Field(
        None, ge=1, description="Rows of one score file; None: 1/20 of the run, 64 to 4096."
    )
    images_per_task: int = Field(32, ge=1, description="Images one decode task fetches and decodes.")
    actors: int | None = Field(
        None,
        ge=1,
        description="Ensemble actors, threads in local runs; None: one per GPU, or per CPU, and on the GPU of a local"
        " run two.",
    )
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

    @field_validator("since", mode="before")
    @classmethod
    def _check_since(cls, since: object) -> object:
        """Refuse what is neither a time nor an age; YAML makes dates of what looks like one."""
        text = since.isoformat() if isinstance(since, date) else since
        if isinstance(text, str):
            _instant(text, datetime.now(UTC))
        return text

    def numerics(self) -> dict[str, Any]:
        """How an ensemble is loaded to compute: the keyword arguments of `load_ensemble` beside bundle and device."""
        return {name: getattr(self, name) for name in ("precision", "runtime", "onnx_cache")}

    def batch_on(self, device: str) -> int:
        """Images per forward pass on a kind of device, such as `cpu`."""
        return self.batch_size or (_CPU_BATCH if device == "cpu" else _GPU_BATCH)

    def modified_after(self, now: datetime) -> datetime | None:
        """What `since` means at the time `now`, in UTC; None takes objects of any age."""
        return None if self.since is None else _instant(self.since, now)


def _instant(text: str, now: datetime) -> datetime:
    """A time, or an age before `now`, as a time in UTC. Raises ValueError."""
    age = re.fullmatch(r"(\d{1,5})([hd])", text.strip())
    if age:
        return now - timedelta(hours=int(age[1]) * {"h": 1, "d": 24}[age[2]])
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be a date (2026-11-01), a time (2026-11-01T06:00) or an age (36h, 2d)") from error


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
