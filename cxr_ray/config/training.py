"""Settings of one training run: a labelled table in, an ensemble bundle out."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cxr_ray.config.fitting import LARGEST_SEED, AugmentConfig, ComputeConfig, MemberConfig, OptimizeConfig
from cxr_ray.config.images import DecodeConfig
from cxr_ray.config.manifest import ManifestConfig
from cxr_ray.config.rule import ThresholdRule
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
CalibrationMethod = Literal["auto", "platt", "temperature", "isotonic", "keep"]


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
    calibration: Literal["auto", "platt", "temperature", "isotonic", "none"] = Field(
        "platt",
        description="How each finding's mean probability is calibrated on the validation part; auto: the simplest of"
        " none, temperature, Platt and isotonic within one standard error of the least cross-validated log loss.",
    )
    threshold_rule: str = Field(
        "f1",
        description="How thresholds are chosen on the validation part: f1, youden, sensitivity>=0.95, specificity>=0.9,"
        " alerts<=5 (of a hundred images) or a probability such as 0.5.",
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Seed of the split, the weights, the order and the augmentation."
    )

    @field_validator("threshold_rule", mode="before")
    @classmethod
    def _rule_exists(cls, value: Any) -> str:
        # Before the type is checked: YAML reads 0.5 as a number.
        return str(ThresholdRule.parse(str(value)))

    @model_validator(mode="after")
    def _members_differ(self) -> Self:
        names = [member.name for member in self.members]
        if not names:
            raise ValueError("members must list at least one backbone")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"member names are used twice: {', '.join(repeated)}")
        return self
