"""Several losses side by side: the first member is trained with each in turn, and a table says what each gives.

Nothing goes into a bundle. Each loss has its own digest, so the same command again continues, and a member that was
trained with one of the losses is used as it is. The figures are those of the validation part: choosing a loss is what
it is for, and the test part stays untouched.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.config import LossConfig, TrainConfig, parse, read_yaml
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.metrics import finding_metrics
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models.calibration import calibration_errors
from cxr_ray.models.thresholds import fit_thresholds
from cxr_ray.training.cache import ModelInputs, open_part
from cxr_ray.training.decoding import decode_once
from cxr_ray.training.rehearsal import Rehearsal, rehearse
from cxr_ray.training.trainer import check_run, fit_members, prepare_member

Log = Callable[[str], None]
RARE = 0.05  # share of the stated labels of the training part below which a finding is rare


@dataclass(frozen=True, slots=True)
class LossResult:
    """What one loss gives on the validation part: means over the findings that are defined, NaN without any."""

    loss: str
    macro_auroc: float
    mean_average_precision: float
    rare_average_precision: float  # mean over the findings rarer than RARE
    f1: float  # at the thresholds of the highest F1
    calibration_error: float  # of the probabilities as they come, before Platt scaling
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row per loss, in the order they were asked for."""

    member: str
    rare: tuple[str, ...]
    rows: tuple[LossResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values; an undefined one is null."""
        rows = [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            for row in map(asdict, self.rows)
        ]
        return {"member": self.member, "rare_below": RARE, "rare": list(self.rare), "losses": rows}

    def lines(self) -> list[str]:
        """The result as a table for a person."""
        width = max(len("loss"), *(len(row.loss) for row in self.rows))
        head = f"{'loss':<{width}}  AUROC    mAP  rare mAP     F1    ECE  seconds"
        body = [
            f"{row.loss:<{width}}  {row.macro_auroc:5.3f}  {row.mean_average_precision:5.3f}"
            f"  {row.rare_average_precision:8.3f}  {row.f1:5.3f}  {row.calibration_error:5.3f}  {row.seconds:7.0f}"
            for row in self.rows
        ]
        rare = ", ".join(self.rare) or "none"
        notes = [
            f"Member {self.member}, validation part. Rare, in less than {RARE:.0%} of the training images: {rare}.",
            "F1 at the best threshold of the same part; ECE before calibration. Nothing was written into a bundle.",
        ]
        return [head, *body, *notes]


def losses_of(text: str, config: TrainConfig) -> tuple[LossConfig, ...]:
    """The losses of `--compare`: names like `bce:none,focal`, or a YAML file with a list of optimize.loss sections.

    A name takes all else, its weighting unless it is named after a colon, from the configuration.

    Raises:
        ConfigError: A name or a section is not known, the file cannot be read, or there is but one loss.
    """
    base = config.optimize.loss.model_dump()
    if text.endswith((".yaml", ".yml")):
        sections = _read_list(Path(text))
    else:
        sections = [
            dict(zip(("name", "weighting"), name.strip().split(":", 1), strict=False)) for name in text.split(",")
        ]
    losses = tuple(parse(LossConfig, {**base, **section}, source=f"--compare {text}") for section in sections)
    if len(set(map(title, losses))) < max(2, len(losses)):
        raise ConfigError(f"--compare {text} does not name two losses or more that differ, e.g. --compare bce,focal.")
    return losses


def _read_list(path: Path) -> list[dict[str, Any]]:
    """A YAML list of mappings."""
    values = read_yaml(path)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ConfigError(f"--compare {path} must be a list of losses, e.g. '- {{name: focal, gamma: 1}}'.")
    return values


def title(loss: LossConfig) -> str:
    """The loss in a few words: its name and all that departs from the defaults."""
    default = LossConfig(name=loss.name)
    changed = {key: value for key, value in loss.model_dump().items() if value != getattr(default, key)}
    return " ".join([loss.name, *(f"{key}={value}" for key, value in changed.items())])


def compare(config: TrainConfig, output: str, losses: Sequence[LossConfig], *, log: Log) -> Comparison:
    """Train the first member of `config` with each of `losses` and measure it. Needs an initialised Ray.

    Raises:
        ManifestError: The table is wrong, or more images than allowed cannot be read.
        ConfigError: `output` cannot be written, the backbone cannot be had, or the cluster cannot hold a worker.
    """
    storage.configure(config.storage)
    output = storage.absolute(output)
    storage.check_writable(output)
    manifest = read_manifest(config.manifest, seed=config.seed)
    check_run(config, manifest)
    runs = [_with_loss(config, loss) for loss in losses]
    jobs = [prepare_member(run, run.members[0], 0, manifest, output) for run in runs]
    cache, _ = decode_once(manifest, config, output, log=log)
    validation, rare = open_part(cache, "validation"), rare_findings(manifest)
    rows = []
    for run, job in zip(runs, jobs, strict=True):
        name = title(run.optimize.loss)
        log(f"Loss {name}.")
        started = time.monotonic()
        fit_members(run, [job], cache, output, log=log)
        seconds = time.monotonic() - started
        logits = np.load(io.BytesIO(storage.get(job.logits("validation"))))
        rows.append(measure(name, logits, validation, findings=manifest.findings, rare=rare, seconds=seconds))
    return Comparison(config.members[0].name, rare, tuple(rows))


def rehearse_losses(config: TrainConfig, losses: Sequence[LossConfig], *, log: Log) -> Rehearsal:
    """Check all that `compare` checks before its long work, and estimate that work: the first member, once per loss.

    Raises:
        ManifestError: The table is wrong.
        ConfigError: The member cannot be built, or there are fewer images than workers.
    """
    found = rehearse(_with_loss(config, losses[0]), log=log)
    (member,) = found.members
    rows = tuple(replace(member, name=f"{member.name} with {title(loss)}") for loss in losses)
    return replace(found, members=rows, notes=(*found.notes, f"The weights are those of {title(losses[0])}."))


def _with_loss(config: TrainConfig, loss: LossConfig) -> TrainConfig:
    """`config` with its first member only, and another loss."""
    optimize = config.optimize.model_copy(update={"loss": loss})
    return config.model_copy(update={"members": config.members[:1], "optimize": optimize})


def rare_findings(manifest: Manifest) -> tuple[str, ...]:
    """Findings that are present in less than RARE of the stated labels of the training part."""
    labels = manifest.frame.loc[manifest.frame["part"] == "train", list(manifest.findings)]
    return tuple(finding for finding in manifest.findings if labels[finding].mean() < RARE)


def measure(
    name: str,
    logits: NDArray[np.float32],
    inputs: ModelInputs,
    *,
    findings: Sequence[str],
    rare: Sequence[str],
    seconds: float,
) -> LossResult:
    """The row of one loss from its logits (N, F)."""
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    thresholds = fit_thresholds(probabilities, inputs.labels.astype(np.float64))
    frame = finding_metrics(inputs.labels, probabilities, thresholds, findings)
    errors = np.array(calibration_errors(probabilities, inputs.labels.astype(np.float64)))
    return LossResult(
        loss=name,
        macro_auroc=float(frame["auroc"].mean()),
        mean_average_precision=float(frame["average_precision"].mean()),
        rare_average_precision=float(frame.loc[list(rare), "average_precision"].mean()),
        f1=float(frame["f1"].mean()),
        calibration_error=float(np.mean(errors[~np.isnan(errors)])) if (~np.isnan(errors)).any() else math.nan,
        seconds=seconds,
    )
