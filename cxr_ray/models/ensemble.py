"""The ensemble: a bundle on disk, the stack of its members, and the rules that combine them.

A bundle is a folder, local or s3://: ensemble.json, members/NAME/{model.safetensors, member.json}, README.md (the
model card) and golden/ (a reference model input and the logits it must give). Shapes: B batch, M members, F findings,
S input side, G heat-map grid. Knows no Ray, no score table and no image formats.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cxr_ray import __version__, storage
from cxr_ray.config import Combination, PreprocessConfig, digest_of
from cxr_ray.config.scoring import Precision, Runtime
from cxr_ray.errors import BundleError, ConfigError, DeviceError, StorageError
from cxr_ray.images.preprocess import preprocess_digest
from cxr_ray.models import agreement, heatmaps
from cxr_ray.models.calibration import Calibration
from cxr_ray.models.device import device_errors, is_out_of_memory
from cxr_ray.models.member import Member, MemberSpec, load, load_spec, load_weights
from cxr_ray.models.precision import check_precision, prepared
from cxr_ray.models.runtime import by_onnx, check_runtime

# Of a probability. float32 on another device or thread count differs by about 1e-6, bfloat16 by about 2e-3.
GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 1e-2}
HeatmapMethod = Literal["gradcam", "gradcam++", "layercam", "eigencam"]


@dataclass(frozen=True, slots=True)
class EnsembleSpec:
    """What ensemble.json says. `digest` is over everything that changes a score."""

    findings: tuple[str, ...]
    members: tuple[str, ...]
    weights: tuple[str, ...]
    combination: Combination
    calibration: Calibration
    thresholds: tuple[float, ...]
    member_thresholds: tuple[tuple[float, ...], ...]
    grid: int
    preprocess: PreprocessConfig
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def preprocess_digest(self) -> str:
        """Digest of the way from radiograph to model input."""
        return preprocess_digest(self.preprocess)

    @property
    def digest(self) -> str:
        """Digest of weights, findings, combination, calibration, thresholds, grid and preprocessing."""
        values = {name: getattr(self, name) for name in _DIGESTED}
        return digest_of({**values, "calibration": self.calibration.to_dict(), "preprocess": self.preprocess_digest})

    @property
    def threshold_rules(self) -> dict[str, str]:
        """Finding -> the rule that set its threshold; one that is not named has the default of 0.5."""
        rules: dict[str, str] = self.training.get("threshold_rules", dict.fromkeys(self.findings, "f1"))
        return rules

    def to_json(self) -> str:
        """ensemble.json, with its digests and the version that wrote it."""
        values = {name: getattr(self, name) for name in (*_DIGESTED, "training")}
        derived = {"digest": self.digest, "preprocess_digest": self.preprocess_digest, "version": __version__}
        sections = {"calibration": self.calibration.to_dict(), "preprocess": self.preprocess.model_dump()}
        return json.dumps({**values, **sections, **derived}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> "EnsembleSpec":
        """Read ensemble.json; raises BundleError when it is no such file or was edited by hand."""
        try:
            values = json.loads(text)
            spec = cls(
                findings=tuple(values["findings"]),
                members=tuple(values["members"]),
                weights=tuple(values["weights"]),
                combination=values["combination"],
                calibration=Calibration.from_dict(values["calibration"]),
                thresholds=tuple(values["thresholds"]),
                member_thresholds=tuple(tuple(row) for row in values["member_thresholds"]),
                grid=values["grid"],
                preprocess=PreprocessConfig.model_validate(values["preprocess"]),
                training=values["training"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{source} is not what cxr-ray writes; copy the whole bundle again.") from error
        if (spec.digest, spec.preprocess_digest) != (values.get("digest"), values.get("preprocess_digest")):
            raise BundleError(
                f"{source} does not match its own digest: it was edited, or made by a version of cxr-ray that reads"
                " pixels in another way; train or calibrate again."
            )
        return spec


_DIGESTED = ("findings", "members", "weights", "combination", "thresholds", "member_thresholds", "grid")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a batch, all on one device. Maps and peaks are None when no heat maps were asked for."""

    probabilities: Tensor  # (B, F) combined and calibrated
    member_probabilities: Tensor  # (M, B, F)
    votes: Tensor  # (B, F) int64, 0..M
    spread: Tensor  # (B, F)
    maps: Tensor | None = None  # (B, F, G, G) mean over members, 0..1
    map_spread: Tensor | None = None  # (B, F, G, G)
    map_agreement: Tensor | None = None  # (B, F), NaN where undefined
    peaks: Tensor | None = None  # (B, F) mean of the members' raw maxima
    member_maps: Tensor | None = None  # (M, B, F, G, G) each member's own map, 0..1; None unless kept


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Members ready to score, on one device."""

    spec: EnsembleSpec
    members: tuple[Member, ...]
    device: torch.device
    precision: Precision = "fp32"  # of the members' backbones

    def score(
        self,
        images: Tensor,
        *,
        with_heatmaps: bool,
        method: HeatmapMethod = "gradcam",
        keep_member_maps: bool = False,
    ) -> Scores:
        """Scores of model inputs (B, 1, S, S), uint8 or 0..1; the members' own maps are kept only when asked."""
        inputs = images.to(self.device)
        if not with_heatmaps:
            with torch.inference_mode():
                logits = torch.stack([member(inputs) for member in self.members])
            return combine(logits, self.spec)
        explained = [self._explain(member, inputs, method) for member in self.members]
        scores = combine(torch.stack([logits for logits, _, _ in explained]), self.spec)
        maps = torch.stack([maps for _, maps, _ in explained])
        mean, deviation = heatmaps.combine_maps(maps)
        return Scores(
            scores.probabilities,
            scores.member_probabilities,
            scores.votes,
            scores.spread,
            mean,
            deviation,
            agreement.map_agreement(maps),
            torch.stack([peaks for _, _, peaks in explained]).mean(dim=0),
            maps if keep_member_maps else None,
        )

    def _explain(self, member: Member, inputs: Tensor, method: HeatmapMethod) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, maps and peaks of one member."""
        if method == "gradcam":
            return heatmaps.member_maps(member, inputs, grid=self.spec.grid)
        return heatmaps.library_maps(member, inputs, grid=self.spec.grid, method=method)


def combine(logits: Tensor, spec: EnsembleSpec) -> Scores:
    """Scores of the members' logits (M, B, F) by the rule, calibration and thresholds of `spec`."""
    members = torch.sigmoid(logits.float())
    thresholds = torch.tensor(spec.member_thresholds, dtype=members.dtype, device=members.device)
    votes = agreement.votes(members, thresholds)
    combined = combine_probabilities(members, thresholds, rule=spec.combination)
    return Scores(spec.calibration.apply(combined), members, votes, agreement.spread(members))


def combine_probabilities(probabilities: Tensor, thresholds: Tensor, *, rule: Combination) -> Tensor:
    """One value per image and finding, (B, F), of member probabilities (M, B, F) and thresholds (M, F).

    `mean`: the mean probability (CTP). `vote`: the share of members that vote for the finding (PTC-lw). `mode`: 1 for
    the findings of the label set that most members agree on, else 0 (PTC-mode); among equally frequent sets the one
    whose members are surest wins.

    Source: Liz et al. 2023, combination rules.
    """
    if rule == "mean":
        return probabilities.mean(dim=0)
    voted = probabilities >= thresholds[:, None, :]
    if rule == "vote":
        return voted.float().mean(dim=0)
    same = (voted[:, None] == voted[None]).all(dim=-1).sum(dim=0).float()  # (M, B) members with this label set
    sureness = (probabilities - thresholds[:, None, :]).abs().mean(dim=-1)  # (M, B), below 1: it only breaks ties
    chosen = (same + sureness).argmax(dim=0)
    return voted[chosen, torch.arange(voted.shape[1], device=voted.device)].float()


def load_ensemble(
    bundle: str,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    runtime: Runtime = "torch",
    onnx_cache: str | None = None,
) -> Ensemble:
    """Load, check and warm a bundle: every member, the digests, and the golden image's scores on this device.

    `onnx_cache` is where runtime `onnx` keeps its graphs, see `runtime.by_onnx`.

    Raises:
        BundleError: Something is missing, edited, inconsistent, or scores differently here.
        ConfigError: The device has no such precision or runtime.
        DeviceError: The members do not fit into its memory, or it is gone.
    """
    check_precision(torch.device(device), precision)
    check_runtime(runtime, torch.device(device), precision)
    spec, members = _read_specs(bundle)
    folders = (storage.join(bundle, "members", name) for name in spec.members)
    try:
        with device_errors(torch.device(device)):
            networks: list[Member] = []
            for folder, member in zip(folders, members, strict=True):  # one at a time: a GPU's copy replaces the CPU's
                network = load_weights(folder, member)
                networks.append(
                    by_onnx(network, member, cache=onnx_cache)
                    if runtime == "onnx"
                    else prepared(network, device, precision)
                )
            ensemble = Ensemble(spec, tuple(networks), torch.device(device), precision)
            _check_golden(ensemble, bundle)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(
            f"The {len(members)} members of {bundle} do not fit into the memory that is left on {device}; end what"
            f" else runs there, {'' if device == 'cpu' else 'score on the CPU, '}or use an ensemble of fewer members."
        ) from error
    return ensemble


def load_ensemble_spec(bundle: str) -> EnsembleSpec:
    """The spec of a bundle, checked against those of its members, without weights. Raises BundleError."""
    return _read_specs(bundle)[0]


def _read_specs(bundle: str) -> tuple[EnsembleSpec, list[MemberSpec]]:
    """The spec of a bundle, and those of its members, which must fit it. Raises BundleError."""
    source = storage.join(bundle, "ensemble.json")
    try:
        spec = EnsembleSpec.from_json(storage.get(source), source=source)
    except StorageError as error:
        raise BundleError(f"{bundle} is no ensemble bundle: {error.detail}") from error
    members = [load_spec(storage.join(bundle, "members", name)) for name in spec.members]
    for member, digest in zip(members, spec.weights, strict=True):
        _check_member(spec, member, digest)
    return spec, members


def _check_member(spec: EnsembleSpec, member: MemberSpec, digest: str) -> None:
    """Refuse a member that was trained for other findings, other pixels, or is another than the bundle was made of."""
    if member.findings != spec.findings:
        raise BundleError(f"Member {member.name} was trained for other findings than the ensemble; train it again.")
    if member.preprocess_digest != spec.preprocess_digest:
        raise BundleError(
            f"Member {member.name} was trained with preprocessing {member.preprocess_digest}, the ensemble says"
            f" {spec.preprocess_digest}; train it again."
        )
    if member.weights_sha256 != digest:
        raise BundleError(f"Member {member.name} has other weights than the ensemble was made of; copy it again.")


def save_bundle(bundle: str, spec: EnsembleSpec, *, card: str, golden: np.ndarray[Any, Any]) -> None:
    """Finish a bundle whose members are saved: golden/ from `golden` (S, S) uint8, README.md, ensemble.json last."""
    members = tuple(load(storage.join(bundle, "members", name))[0] for name in spec.members)
    ensemble = Ensemble(spec, members, torch.device("cpu"))
    scores = ensemble.score(_batch_of_one(golden), with_heatmaps=False)
    expected = {"side": golden.shape[0], "member_probabilities": scores.member_probabilities[:, 0].tolist()}
    storage.put(storage.join(bundle, "golden", "reference.raw"), golden.tobytes())
    storage.put(storage.join(bundle, "golden", "scores.json"), json.dumps(expected, indent=2).encode())
    storage.put(storage.join(bundle, "README.md"), card.encode())
    storage.put(storage.join(bundle, "ensemble.json"), spec.to_json().encode())


def derive_bundle(source: str, target: str, spec: EnsembleSpec, *, card: str) -> None:
    """Write the bundle `source` with another spec and card to `target`, ensemble.json last; the weights are copied.

    Raises:
        ConfigError: Something is at `target` that no interrupted copy leaves there.
        BundleError: A member of `source` is missing or has other weights.
    """
    target = storage.absolute(target)
    ours = tuple(storage.join(target, folder) + "/" for folder in ("members", "golden"))
    for item in storage.list_objects(target, missing_ok=True):
        if not item.uri.startswith(ours):
            raise ConfigError(f"{target} holds {item.uri} already; choose another --output for the new bundle.")
    for name, digest in zip(spec.members, spec.weights, strict=True):
        _copy(source, target, "members", name, "model.safetensors", sha256=digest)
        _copy(source, target, "members", name, "member.json")
    _copy(source, target, "golden", "reference.raw")
    _copy(source, target, "golden", "scores.json")
    storage.put(storage.join(target, "README.md"), card.encode())
    storage.put(storage.join(target, "ensemble.json"), spec.to_json().encode())


def _copy(source: str, target: str, *parts: str, sha256: str | None = None) -> None:
    """Copy one object of a bundle; raises BundleError when it is gone or its digest differs."""
    uri = storage.join(source, *parts)
    try:
        data = storage.get(uri)
    except StorageError as error:
        raise BundleError(f"{source} is incomplete: {error.detail} Copy the whole bundle again.") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{uri} has other weights than the ensemble was made of; copy it again.")
    storage.put(storage.join(target, *parts), data)


def _check_golden(ensemble: Ensemble, bundle: str) -> None:
    """Score the golden image and compare; raises BundleError when this device computes something else."""
    try:
        expected = json.loads(storage.get(storage.join(bundle, "golden", "scores.json")))
        pixels = storage.get(storage.join(bundle, "golden", "reference.raw"))
        image = np.frombuffer(pixels, np.uint8).reshape(expected["side"], expected["side"])
        wanted = torch.tensor(expected["member_probabilities"])
    except StorageError as error:
        raise BundleError(f"{bundle} lacks its golden image: {error.detail} Copy the whole bundle again.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{bundle}/golden is not what cxr-ray writes; copy the whole bundle again.") from error
    found = ensemble.score(_batch_of_one(image), with_heatmaps=False).member_probabilities[:, 0].cpu()
    worst = float((found - wanted).abs().max())
    allowed = GOLDEN_TOLERANCE[ensemble.precision]
    if not worst <= allowed:
        raise BundleError(
            f"The golden image of {bundle} scores differently on {ensemble.device} by {worst:.4f} (allowed"
            f" {allowed}); check the device and the versions of torch and timm."
        )


def _batch_of_one(image: np.ndarray[Any, Any]) -> Tensor:
    """A model input (S, S) as a batch (1, 1, S, S)."""
    return torch.from_numpy(image.copy())[None, None]


def choose_device(requested: str = "auto") -> str:
    """The device to score on: what was asked for, or CUDA where there is one. Raises ConfigError."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {requested} is not there; use --device cpu.")
    return requested
