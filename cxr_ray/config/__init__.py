"""Settings: one YAML file is one run. Every default lives here and nowhere else.

Each section is frozen, refuses unknown keys and is handed down alone (`preprocess` gets `PreprocessConfig`,
not the whole). Sections cross into Ray workers as `model_dump()` and are stored beside each result.
"""

from cxr_ray.config.audit import AuditConfig
from cxr_ray.config.fitting import (
    AugmentConfig,
    ComputeConfig,
    LossConfig,
    MemberConfig,
    OptimizeConfig,
    SecondStageConfig,
)
from cxr_ray.config.images import DecodeConfig, GateConfig, ImageKind, LimitsConfig, PreprocessConfig
from cxr_ray.config.manifest import ManifestConfig, Source, Uncertain
from cxr_ray.config.nightly import ClusterConfig, DriftConfig, NightlyConfig
from cxr_ray.config.rule import ThresholdRule
from cxr_ray.config.scoring import ScanConfig, ScoreConfig
from cxr_ray.config.section import (
    AnySection,
    Section,
    digest_of,
    load_yaml,
    overridden,
    parse,
    read_yaml,
    without_password,
)
from cxr_ray.config.storage import StorageConfig, StoreConfig
from cxr_ray.config.training import CalibrationMethod, Combination, TrackingConfig, TrainConfig

__all__ = [
    "AnySection",
    "AuditConfig",
    "AugmentConfig",
    "CalibrationMethod",
    "ClusterConfig",
    "Combination",
    "ComputeConfig",
    "DecodeConfig",
    "DriftConfig",
    "GateConfig",
    "ImageKind",
    "LimitsConfig",
    "LossConfig",
    "ManifestConfig",
    "MemberConfig",
    "NightlyConfig",
    "OptimizeConfig",
    "PreprocessConfig",
    "ScanConfig",
    "ScoreConfig",
    "SecondStageConfig",
    "Section",
    "Source",
    "StorageConfig",
    "StoreConfig",
    "ThresholdRule",
    "TrackingConfig",
    "TrainConfig",
    "Uncertain",
    "digest_of",
    "load_yaml",
    "overridden",
    "parse",
    "read_yaml",
    "without_password",
]
