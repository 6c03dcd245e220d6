"""Settings of one night: what is scored, on which cluster, and how much it may differ from the nights before."""

from typing import Literal

from pydantic import Field

from cxr_ray.config.scoring import ScoreConfig
from cxr_ray.config.section import Section


class ClusterConfig(Section):
    """The nodes a job asks the autoscaler for before it begins; nothing is asked for where both numbers are 0."""

    gpus: int = Field(0, ge=0, description="GPUs of the whole cluster to wait for.")
    cpus: int = Field(0, ge=0, description="CPUs of the whole cluster to wait for, those of GPU nodes included.")
    min_gpus: int = Field(
        1, ge=0, description="With fewer GPUs than this after the wait the job fails; never more than `gpus`."
    )
    wait_minutes: float = Field(15.0, gt=0.0, description="Minutes to wait; then the job takes what there is.")


class DriftConfig(Section):
    """How tonight's rows are compared with those of the nights before."""

    nights: int = Field(7, ge=1, description="Earlier nights with rows that are the reference.")
    min_rows: int = Field(200, ge=2, description="Scored rows that both sides need; with fewer nothing is computed.")
    max_rows: int = Field(200_000, ge=1000, description="Rows of each side that are read; of more, every k-th.")
    num_bins: int = Field(10, ge=2, le=100, description="Bins of a probability, equally filled by the reference.")
    max_psi: float = Field(
        0.25, gt=0.0, description="Population stability index above which a change is drift; 0.25 by rule of thumb."
    )
    on_drift: Literal["warn", "fail"] = Field("warn", description="Drift is a line in the log, or exit code 4 too.")


class NightlyConfig(Section):
    """One nightly job: score what is new of an archive, then compare it with the nights before."""

    inputs: tuple[str, ...] = Field(min_length=1, description="Files, folders, s3:// prefixes, or tables of uris.")
    ensemble: str = Field(description="Folder or s3:// prefix of the ensemble bundle.")
    output: str = Field(description="Folder or s3:// prefix of the scores; the same one every night.")
    rescore: bool = Field(False, description="Add rows of another ensemble to an output that holds scores.")
    cluster: ClusterConfig = ClusterConfig()
    score: ScoreConfig = ScoreConfig()
    drift: DriftConfig = DriftConfig()
