"""Settings of one training run: a labelled table in, an ensemble bundle out."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cxr_ray.config.fitting import LARGEST_SEED, AugmentConfig, ComputeConfig, MemberConfig, OptimizeConfig
from cxr_ray.config.images import DecodeConfig
from cxr_ray.config.manifest import ManifestConfig
from cxr_ray.config.section import Section
from cxr_ray.config.storage import StorageConfig


class TrackingConfig(Section):
    """Where the epochs of a run can be looked at, beside the TensorBoard events and JSON lines in the output."""

    mlflow: str | None = Field(
        None,
        description="MLflow tracking URI, e.g. http://host:5000; needs the extra mlflow. MLflow takes user and password"
        " from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD too, where they stand in no file.",
    )
    experiment: str = Field("cxr-ray", min_length=1, description="MLflow experiment.")


Combination = Literal["mean", "vote", "mode"]


class TrainConfig(Section):
    """One training run: a labelled table in, an ensemble bundle out."""

    manifest: ManifestConfig
    members: tuple[MemberConfig, ...]
    storage: StorageConfig = StorageConfig()
    decode: DecodeConfig = DecodeConfig()
    augment: AugmentConfig = AugmentConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    combination: Combination = Field(
        "mean", description="`mean` of probabilities (CTP), majority `vote` per finding (PTC-lw), `mode` of label sets."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the split, the weights, the order and the augmentation."
    )

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        names = [member.name for member in self.members]
        if not names:
            raise ValueError("members must list at least one backbone")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"member names are used twice: {', '.join(repeated)}")
        return self
