"""From finished members to a bundle: calibration, thresholds, golden image, model card. Knows no Ray.

Shapes: M members, N images of the validation part, F findings.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load as load_tensors

from cxr_ray import storage
from cxr_ray.config import CalibrationMethod, ThresholdRule, TrainConfig
from cxr_ray.labels.manifest import Manifest
from cxr_ray.labels.split import PARTS
from cxr_ray.models import ensemble, heatmaps, member
from cxr_ray.models.calibration import Calibration
from cxr_ray.models.card import PartResult, model_card
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.models.member import MemberSpec
from cxr_ray.models.refit import combined, labelled_enough, refit
from cxr_ray.training.cache import ModelInputs, open_part
from cxr_ray.training.results import card_facts, part_result, patients_of, readable
from cxr_ray.training.state import State
from cxr_ray.training.validation import macro_auroc

_PLACES = ("path", "_list", "image_root")
"""Ends of the names of settings that say where something lies."""


@dataclass(frozen=True, slots=True)
class Job:
    """One member to fit: its network, its seed, and the folder that its digest names."""

    spec: MemberSpec
    seed: int
    digest: str
    folder: str

    @property
    def done(self) -> str:
        """The object that is written last."""
        return storage.join(self.folder, "history.json")

    def logits(self, part: str) -> str:
        """The object with the best weights' logits (N, F) of a part."""
        return storage.join(self.folder, f"{part}.npy")


def file_logits(job: Job, part: str, logits: torch.Tensor) -> None:
    """Write the logits (N, F) of a part."""
    data = io.BytesIO()
    np.save(data, logits.numpy())
    storage.put(job.logits(part), data.getvalue())


def file_member(job: Job, state: State, *, scale: float) -> None:
    """Write the best weights and validation logits of a finished member, and its history last.

    The outputs of the network are multiplied by `scale`, see `losses.output_scale`: what is filed gives the logits of
    probabilities.
    """
    network = member.rebuild(job.spec)
    network.load_state_dict(state["best_weights"])
    member.scale_outputs(network, scale)
    storage.put(storage.join(job.folder, "best.safetensors"), member.encode_weights(network.state_dict()))
    file_logits(job, "validation", scale * state["best_logits"])
    best = state["history"][state["best_epoch"]]
    history = {"epochs": state["history"], "best_epoch": state["best_epoch"], "best_auroc": best["macro_auroc"]}
    storage.put(job.done, json.dumps(history, indent=2).encode())


def assemble(
    config: TrainConfig, jobs: Sequence[Job], manifest: Manifest, cache: str, output: str
) -> tuple[EnsembleSpec, float]:
    """Calibrate on the validation part and write the bundle; returns its spec and its validation macro AUROC."""
    bundle = storage.join(output, "ensemble")
    validation = open_part(cache, "validation")
    read = readable(manifest, [open_part(cache, part) for part in PARTS])
    logits = np.stack([np.load(io.BytesIO(storage.get(job.logits("validation")))) for job in jobs])
    saved, grid = _save_members(jobs, bundle)
    spec, probabilities = calibrate(
        torch.from_numpy(logits),
        validation.labels,
        EnsembleSpec(
            findings=manifest.findings,
            members=tuple(item.name for item in saved),
            weights=tuple(item.weights_sha256 for item in saved),
            combination=config.combination,
            calibration=Calibration.identity(len(manifest.findings)),
            thresholds=(0.5,) * len(manifest.findings),
            member_thresholds=((0.5,) * len(manifest.findings),) * len(saved),
            grid=grid,
            preprocess=config.decode.preprocess,
            training={
                "manifest_digest": manifest.digest,
                "images": [int(count) for count in read.counts()["images"]],
                "settings": portable_settings(config),
                "threshold_rules": {},
            },
        ),
        patients=patients_of(manifest, validation),
        method="keep" if config.calibration == "none" else config.calibration,
        rule=ThresholdRule.parse(config.threshold_rule),
    )
    results = [_measure(spec, jobs, manifest, cache, part) for part in ("validation", "test")]
    unreadable = len(manifest.frame) - len(read.frame)
    facts = card_facts(config, read, [result for result in results if result is not None], unreadable=unreadable)
    card = model_card(spec, facts)
    ensemble.save_bundle(bundle, spec, card=card, golden=_golden(validation))
    return spec, macro_auroc(validation.labels, probabilities)


def _measure(spec: EnsembleSpec, jobs: Sequence[Job], manifest: Manifest, cache: str, part: str) -> PartResult | None:
    """Metrics of one part; None when there is no such part, or a member of an earlier version left no logits of it."""
    inputs = open_part(cache, part)
    files = [job.logits(part) for job in jobs]
    if not len(inputs) or not all(storage.exists(file) for file in files):
        return None
    logits = torch.from_numpy(np.stack([np.load(io.BytesIO(storage.get(file))) for file in files]))
    return part_result(spec, logits, inputs, manifest=manifest, part=part)


def portable_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings of a run that a bundle may tell.

    Without paths, which are those of one machine, and without the tracking address, which may hold a password.
    """
    settings = config.model_dump(mode="json", exclude={"tracking"})
    manifest = settings["manifest"]
    settings["manifest"] = {name: value for name, value in manifest.items() if not name.endswith(_PLACES)}
    for item in settings["members"]:
        item["options"] = {name: value for name, value in item["options"].items() if name != "checkpoint_path"}
    return settings


def _golden(validation: ModelInputs) -> npt.NDArray[np.uint8]:
    """A reference model input that shows no patient: the mean of the validation images, with its contrast stretched."""
    mean = validation.pixels(range(min(len(validation), 256))).astype(np.float64).mean(axis=(0, 1))
    stretched = (mean - mean.min()) / max(float(np.ptp(mean)), 1e-9) * 255.0
    golden: npt.NDArray[np.uint8] = stretched.round().astype(np.uint8)
    return golden


def _save_members(jobs: Sequence[Job], bundle: str) -> tuple[list[MemberSpec], int]:
    """Save the best weights of every member into the bundle; returns their specs and the finest grid among them."""
    saved, grids = [], []
    for job in jobs:
        network = member.rebuild(job.spec)
        network.load_state_dict(load_tensors(storage.get(storage.join(job.folder, "best.safetensors"))))
        history = json.loads(storage.get(job.done))
        spec = replace(
            job.spec,
            offset=heatmaps.measure_offset(network),
            training={"digest": job.digest, "seed": job.seed, **history},
        )
        saved.append(member.save(storage.join(bundle, "members", spec.name), network, spec))
        grids.append(member.grid_of(network))
    return saved, max(grids)


def calibrate(
    logits: torch.Tensor,
    labels: npt.NDArray[np.float32],
    spec: EnsembleSpec,
    *,
    patients: Sequence[str],
    method: CalibrationMethod,
    rule: ThresholdRule,
) -> tuple[EnsembleSpec, npt.NDArray[np.float32]]:
    """`spec` with thresholds and calibration fitted to validation logits (M, N, F) and labels (N, F).

    Also returns the calibrated probabilities (N, F). A finding that the part has not enough labels of stays as it is.
    """
    truth = labels.astype(np.float64)
    members = torch.sigmoid(logits.float())
    _, owners = np.unique(np.asarray(patients), return_inverse=True)
    fitted = refit(
        spec,
        members,
        truth,
        patients=owners,
        method=method,
        rules=(rule,) * len(spec.findings),
        enough=labelled_enough(truth, 1),
    ).spec
    return fitted, combined(fitted, members).numpy()
