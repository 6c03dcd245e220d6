"""One member of an ensemble: a timm backbone with global pooling and a multilabel head.

Create, save and load (safetensors + member.json). Knows no other member, no calibration and no Ray.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pickle import UnpicklingError
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from cxr_ray import storage
from cxr_ray.config import MemberConfig
from cxr_ray.config.scoring import Precision
from cxr_ray.errors import BundleError, ConfigError, StorageError


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """What member.json says: enough to rebuild the network without timm's downloads."""

    name: str
    backbone: str
    findings: tuple[str, ...]
    size: int
    mean: float
    std: float
    preprocess_digest: str
    offset: tuple[float, float] = (0.0, 0.0)
    options: dict[str, Any] = field(default_factory=dict)
    output_stride: int | None = None
    last_stage: int | None = None
    pooling: str = "avg"
    drop_rate: float = 0.0
    head_hidden: int | None = None
    weights_sha256: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The spec as readable JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


# What a member's configuration and its spec share: enough to build the network.
_ARCHITECTURE = ("name", "backbone", "output_stride", "last_stage", "pooling", "drop_rate", "head_hidden", "options")


class Member(nn.Module):
    """Model inputs to logits, in two halves: `features`, the last feature map, and `head`, pooling and outputs."""

    def __init__(
        self, backbone: nn.Module, *, size: int, mean: float, std: float, offset: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Wrap a timm model with one input channel; `size` is the side it wants, mean and std those of 0..1 pixels.

        `offset` (rows, columns) is where its heat maps lie beside the nominal place, as measured by `heatmaps`.
        """
        super().__init__()
        self.offset = offset
        self.backbone = backbone
        self.precision: Precision = "fp32"  # of `features`; the head's is float32
        self.size, self.mean, self.std = size, mean, std

    def prepare(self, images: Tensor) -> Tensor:
        """Model inputs (B, 1, S, S), uint8 or 0..1, as normalised float32 (B, 1, size, size)."""
        pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return (pixels - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        """The last feature map (B, C, h, w) of model inputs (B, 1, S, S)."""
        pixels, forward = self.prepare(images), cast(Callable[[Tensor], Tensor], self.backbone.forward_features)
        if self.precision == "fp32":
            return forward(pixels)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            return forward(pixels).float()

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, F) of a feature map (B, C, h, w)."""
        logits: Tensor = self.backbone.forward_head(features)  # type: ignore[operator]
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, F) of model inputs (B, 1, S, S), uint8 or 0..1."""
        return self.head(self.features(images))


def create(
    config: MemberConfig, *, findings: Sequence[str], size: int, preprocess_digest: str
) -> tuple[Member, MemberSpec]:
    """A new member with random or ImageNet weights, for inputs of side `size` unless its own configuration says else.

    ImageNet weights of three channels are summed into one by timm, which keeps the response to grey films.

    Raises:
        ConfigError: timm has no such backbone, it is no CNN with global pooling, or its weights cannot be had.
    """
    backbone = _build(config, num_findings=len(findings))
    mean, std = _grey_statistics(backbone)
    architecture = {name: getattr(config, name) for name in _ARCHITECTURE}
    # Where the first weights came from is no part of the network, and a path of this machine.
    options = {key: value for key, value in config.options.items() if key != "checkpoint_path"}
    spec = MemberSpec(
        findings=tuple(findings),
        size=config.size or size,
        mean=mean,
        std=std,
        preprocess_digest=preprocess_digest,
        **{**architecture, "options": options},
    )
    member = Member(backbone, size=spec.size, mean=mean, std=std)
    _check_pooling(member, config)
    return member, spec


def rebuild(spec: MemberSpec) -> Member:
    """The network of a spec, with random weights, in evaluation mode."""
    config = MemberConfig.model_validate({name: getattr(spec, name) for name in _ARCHITECTURE})
    backbone = _build(config, num_findings=len(spec.findings))
    return Member(backbone, size=spec.size, mean=spec.mean, std=spec.std, offset=spec.offset).eval()


def synchronised(member: Member) -> Member:
    """`member` with batch norms whose statistics are those of all workers, changed in place; GPUs only."""
    synchronised_member: Member = convert_sync_batchnorm(member)
    return synchronised_member


def save(folder: str, member: Member, spec: MemberSpec) -> MemberSpec:
    """Write model.safetensors and member.json below `folder`; returns the spec with the digest of the weights."""
    weights = encode_weights(member.backbone.state_dict())
    final = replace(spec, weights_sha256=hashlib.sha256(weights).hexdigest())
    storage.put(storage.join(folder, "model.safetensors"), weights)
    storage.put(storage.join(folder, "member.json"), final.to_json().encode())
    return final


def scale_outputs(member: Member, factor: float) -> None:
    """Multiply the last layer in place, so that the logits become `factor` times what they were; 1 changes nothing."""
    backbone: Any = member.backbone
    *_, last = (layer for layer in backbone.get_classifier().modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(factor)


def encode_weights(state: Mapping[str, Tensor]) -> bytes:
    """A state dictionary as safetensors, which takes only contiguous tensors (channels_last is none)."""
    return save_tensors({name: tensor.contiguous() for name, tensor in state.items()})


def load_spec(folder: str) -> MemberSpec:
    """The spec of a saved member. Raises BundleError when it is missing or unreadable."""
    try:
        values = json.loads(storage.get(storage.join(folder, "member.json")))
        return MemberSpec(**{**values, "findings": tuple(values["findings"]), "offset": tuple(values["offset"])})
    except StorageError as error:
        raise BundleError(f"The ensemble lacks a member: {error.detail} Copy the whole bundle again.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder}/member.json is not what cxr-ray writes; copy the whole bundle again.") from error


def load(folder: str) -> tuple[Member, MemberSpec]:
    """A saved member in evaluation mode, without gradients on its weights. Raises BundleError."""
    spec = load_spec(folder)
    return load_weights(folder, spec), spec


def load_weights(folder: str, spec: MemberSpec) -> Member:
    """The saved member of a spec in evaluation mode, without gradients on its weights. Raises BundleError."""
    try:
        weights = storage.get(storage.join(folder, "model.safetensors"))
    except StorageError as error:
        raise BundleError(f"The ensemble lacks weights: {error.detail} Copy the whole bundle again.") from error
    if hashlib.sha256(weights).hexdigest() != spec.weights_sha256:
        raise BundleError(f"{folder}/model.safetensors differs from the weights member.json names; copy it again.")
    member = rebuild(spec)
    member.backbone.load_state_dict(load_tensors(weights))
    return member.requires_grad_(False)


def _build(config: MemberConfig, *, num_findings: int) -> nn.Module:
    """The timm model of a configuration, with one input channel and one output per finding."""
    if not timm.is_model(config.backbone.split(".")[0]):
        near = difflib.get_close_matches(config.backbone, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all names."
        raise ConfigError(f"Member {config.name}: timm knows no backbone {config.backbone!r}; {hint}")
    # Only what departs from timm's own default is handed on: not every backbone takes these arguments.
    options: dict[str, Any] = dict(config.options)
    # timm's own argument of this name takes only weights that already fit one channel and these findings.
    local = options.pop("checkpoint_path", None)
    options |= {} if local is None else {"pretrained_cfg_overlay": {"file": str(local)}}
    options |= {} if config.output_stride is None else {"output_stride": config.output_stride}
    options |= {} if config.pooling == "avg" else {"global_pool": config.pooling}
    try:
        backbone: nn.Module = timm.create_model(
            config.backbone,
            pretrained=config.pretrained,
            in_chans=1,
            num_classes=num_findings,
            # With a hidden layer its dropout lies behind that one, and nowhere else.
            drop_rate=0.0 if config.head_hidden else config.drop_rate,
            **options,
        )
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"Member {config.name}: {config.backbone} cannot be built with one channel and"
            f" {options or 'these settings'}; leave them out or choose another backbone."
        ) from error
    except (OSError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(
            f"Member {config.name}: the ImageNet weights of {config.backbone} cannot be had ({type(error).__name__});"
            " set pretrained: false, or fetch them once where there is a network and copy the Hugging Face cache"
            " (HF_HOME) here, or name timm's file of them with options: {checkpoint_path: FILE}."
        ) from error
    if config.last_stage is not None:
        _cut(backbone, config, num_findings=num_findings)
    if config.head_hidden:
        _widen_head(backbone, config, num_findings=num_findings)
    return backbone


def _cut(backbone: Any, config: MemberConfig, *, num_findings: int) -> None:
    """Drop all feature levels behind `last_stage` and put the outputs there."""
    try:
        backbone.prune_intermediate_layers([config.last_stage], prune_norm=True, prune_head=True)
        backbone.reset_classifier(num_findings, config.pooling)
    except (AttributeError, AssertionError, IndexError, RuntimeError) as error:
        raise ConfigError(
            f"Member {config.name}: {config.backbone} cannot be cut behind its feature level {config.last_stage};"
            " leave last_stage out or choose another backbone."
        ) from error


def _widen_head(backbone: Any, config: MemberConfig, *, num_findings: int) -> None:
    """Put a hidden ReLU layer with dropout before the outputs.

    Source: Liz et al. 2023, 512 hidden units and dropout 0.2.
    """
    hidden, name = config.head_hidden or 0, str(backbone.pretrained_cfg["classifier"])
    parent, _, last = name.rpartition(".")
    width = int(backbone.get_submodule(name).in_features)
    layers = (nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.drop_rate), nn.Linear(hidden, num_findings))
    setattr(backbone.get_submodule(parent), last, nn.Sequential(*layers))


def _grey_statistics(backbone: nn.Module) -> tuple[float, float]:
    """Mean and standard deviation the backbone was made for, averaged over its colours."""
    cfg: Any = backbone.pretrained_cfg
    return sum(cfg["mean"]) / len(cfg["mean"]), sum(cfg["std"]) / len(cfg["std"])


def _check_pooling(member: Member, config: MemberConfig) -> None:
    """Refuse what has no (B, C, h, w) feature map before its head: heat maps need one."""
    shape = _feature_shape(member, config)
    if len(shape) != 4:
        raise ConfigError(
            f"Member {config.name}: {config.backbone} ends in features of shape {shape}, not (B, C, h, w);"
            " choose a CNN with global pooling."
        )


def _feature_shape(member: Member, config: MemberConfig) -> tuple[int, ...]:
    """Shape of the last feature map for one blank input; raises ConfigError when the input is too small."""
    training = member.training
    try:
        with torch.no_grad():
            return tuple(member.eval().features(torch.zeros(1, 1, member.size, member.size)).shape)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"Member {config.name}: {config.backbone} cannot take inputs of {member.size} pixels; raise its size."
        ) from error
    finally:
        member.train(training)


def grid_of(member: Member) -> int:
    """Cells along the longer side of the member's feature map."""
    with torch.no_grad():
        return max(member.features(torch.zeros(1, 1, member.size, member.size)).shape[-2:])
