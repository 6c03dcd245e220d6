"""Training on Ray: decode once, one Ray Train run per member, then calibrate and bundle.

Flow: manifest -> uint8 shards (Ray Data) -> a TorchTrainer run per member, side by side -> validation logits ->
calibration and thresholds -> bundle. Everything written is keyed by a digest of what it depends on, so the same
command again continues: decoded shards, finished members and the last checkpoint of unfinished ones are kept.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cxr_ray import storage
from cxr_ray.config import MemberConfig, TrainConfig, digest_of
from cxr_ray.errors import ConfigError
from cxr_ray.images.preprocess import preprocess_digest
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models import member
from cxr_ray.training.assembly import Job, assemble
from cxr_ray.training.board import Board
from cxr_ray.training.decoding import decode_once
from cxr_ray.training.failures import explained
from cxr_ray.training.fitting import fit_member, run_name
from cxr_ray.training.progress import Pace, epoch_line
from cxr_ray.training.rehearsal import check_workers
from cxr_ray.training.stages import num_epochs
from cxr_ray.training.tracking import Tracking, check_tracking

Log = Callable[[str], None]
_POLL = 2.0  # seconds between looks at the progress of the members


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run made: the bundle, its digest, and validation AUROC per member and of the ensemble."""

    bundle: str
    digest: str
    counts: dict[str, dict[str, int]]
    member_auroc: dict[str, float]
    ensemble_auroc: float
    unreadable: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values; an undefined AUROC is null."""
        auroc = {name: defined(value) for name, value in self.member_auroc.items()}
        return {**asdict(self), "member_auroc": auroc, "ensemble_auroc": defined(self.ensemble_auroc)}

    def lines(self) -> list[str]:
        """The result for a person."""
        members = ", ".join(f"{name} {auroc:.3f}" for name, auroc in self.member_auroc.items())
        return [
            f"Ensemble {self.digest}: {self.bundle}",
            f"Validation macro AUROC: {self.ensemble_auroc:.3f} (members: {members}); {self.seconds:.0f} s.",
        ]


def defined(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else value


def train(config: TrainConfig, output: str, *, log: Log) -> TrainResult:
    """Train every member of `config`, calibrate the ensemble and write its bundle to OUTPUT/ensemble.

    Needs an initialised Ray. Progress goes to `log`, one line at a time.

    Raises:
        ManifestError: The table is wrong, or more images than allowed cannot be read.
        ConfigError: `output` cannot be written, a backbone cannot be had, the cluster cannot hold a worker, MLflow does
            not answer, or a loss or a logit is not finite.
        StorageError: `output` stops taking what is written.
        TrainingError: A member failed more often than `compute.max_failures`.
    """
    started = time.monotonic()
    storage.configure(config.storage)
    output = storage.absolute(output)
    storage.check_writable(output)
    manifest = read_manifest(config.manifest, seed=config.seed)
    log(f"Training table {manifest.digest}: {_one_line(manifest)}")
    check_run(config, manifest)
    specs = [prepare_member(config, item, index, manifest, output) for index, item in enumerate(config.members)]
    cache, unreadable = decode_once(manifest, config, output, log=log)
    fitted = fit_members(config, specs, cache, output, log=log)
    spec, metrics = assemble(config, specs, manifest, cache, output)
    log(f"Ensemble {spec.digest}: validation macro AUROC {metrics:.3f}.")
    return TrainResult(
        bundle=storage.join(output, "ensemble"),
        digest=spec.digest,
        counts={str(part): {str(k): int(v) for k, v in row.items()} for part, row in manifest.counts().iterrows()},
        member_auroc=fitted,
        ensemble_auroc=metrics,
        unreadable=unreadable,
        seconds=time.monotonic() - started,
    )


def check_run(config: TrainConfig, manifest: Manifest) -> None:
    """Refuse now, with a ConfigError, what would stop the run after hours of decoding."""
    check_workers(config, manifest)
    share_cluster(config, len(config.members))
    check_tracking(config.tracking)


def _one_line(manifest: Manifest) -> str:
    """Images per part and positives per finding, as one sentence."""
    counts = manifest.counts()
    parts = ", ".join(f"{part} {row['images']}" for part, row in counts.iterrows())
    findings = ", ".join(f"{finding} {int(counts[finding].sum())}" for finding in manifest.findings)
    return f"images {parts}; positives {findings}."


def prepare_member(config: TrainConfig, item: MemberConfig, index: int, manifest: Manifest, output: str) -> Job:
    """Build a member, with ImageNet weights when asked, and save its first weights for all workers to start from."""
    seed = item.seed if item.seed is not None else config.seed * 1_000 + index
    # What `compute` says is left out: a run may go on with other workers.
    settings = config.model_dump(mode="json", include={"decode", "augment", "optimize"})
    digest = digest_of({**settings, "member": item.model_dump(), "seed": seed, "manifest": manifest.digest})
    folder = storage.join(output, "work", f"{item.name}-{digest}")
    torch.manual_seed(seed)
    side, pixels = config.decode.preprocess.size, preprocess_digest(config.decode.preprocess)
    network, spec = member.create(item, findings=manifest.findings, size=side, preprocess_digest=pixels)
    start = storage.join(folder, "start.safetensors")
    if not storage.exists(start):
        storage.put(start, member.encode_weights(network.state_dict()))
    return Job(spec, seed, digest, folder)


def fit_members(config: TrainConfig, jobs: Sequence[Job], cache: str, output: str, *, log: Log) -> dict[str, float]:
    """Run every unfinished member, as many side by side as fit, and return the best validation AUROC of each."""
    folders = {job.spec.name: storage.join(output, "runs", run_name(job)) for job in jobs}
    with Tracking(folders, config.tracking, say=log) as tracking:
        _fit_unfinished(config, jobs, cache, output, tracking=tracking, log=log)
        histories = {job.spec.name: json.loads(storage.get(job.done)) for job in jobs}
        for name, history in histories.items():
            tracking.finish(name, history["epochs"], best_epoch=history["best_epoch"])
    return {name: history["best_auroc"] for name, history in histories.items()}


def _fit_unfinished(
    config: TrainConfig, jobs: Sequence[Job], cache: str, output: str, *, tracking: Tracking, log: Log
) -> None:
    """Run every unfinished member, as many side by side as fit; their epochs go to `tracking` and to `log`."""
    waiting = [job for job in jobs if not storage.exists(job.done)]
    for job in jobs:
        if job not in waiting:
            log(f"Member {job.spec.name} is trained already.")
    if waiting:
        resources, at_once = share_cluster(config, len(waiting))
        # Its node may die; what is pinned then is lost, and the members' histories fill the ledger.
        board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board).remote()
        fit_remotely = ray.remote(num_cpus=0)(fit_member)
        running: dict[Any, Job] = {}
        pace, total = Pace(), num_epochs(config.optimize)
        log(f"Training {len(waiting)} members, {at_once} at a time, with {_workers(config)} each.")
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                arguments = (worker_settings(config), asdict(job), cache, resources, storage.join(output, "runs"))
                running[fit_remotely.remote(*arguments, board)] = job
                pace.begin(job.spec.name, now=time.monotonic())
            finished, _ = ray.wait(list(running), timeout=_POLL)
            epochs, sentences = ray.get(board.drain.remote())
            for sentence in sentences:
                log(sentence)
            for name, epoch in epochs:
                left = pace.left(name, done=int(epoch["number"]) + 1, total=total, now=time.monotonic())
                log(epoch_line(name, epoch, total=total, left=left))
                tracking.add(name, epoch)
            for task in finished:
                _finish(task, running[task].spec.name)
                log(f"Member {running.pop(task).spec.name} is trained.")


def worker_settings(config: TrainConfig) -> dict[str, Any]:
    """What workers get to know of the settings: not the tracking, whose address may hold a password."""
    return config.model_dump(mode="json", exclude={"tracking"})


def _finish(task: Any, name: str) -> None:
    """Raise what ended the task of a member, if anything did."""
    try:
        ray.get(task)
    except RayTaskError:  # holds the error as `fit_member` raised it
        raise
    except RayError as error:  # the process or the node of `fit_member` itself
        raise explained(error, name) from error


def share_cluster(config: TrainConfig, num_members: int) -> tuple[dict[str, float], int]:
    """Resources of one worker, and how many members run at once on the cluster there is.

    Raises:
        ConfigError: The cluster cannot hold the workers of one member.
    """
    total, compute = ray.cluster_resources(), config.compute
    cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
    fewest, most = compute.fewest_workers, compute.most_workers
    if compute.gpus_per_worker * fewest > gpus:
        raise ConfigError(
            f"compute asks for {fewest} workers with {compute.gpus_per_worker} GPUs each, the cluster has"
            f" {gpus:g}; lower compute.workers or compute.gpus_per_worker."
        )
    wanted = min(compute.parallel_members or num_members, num_members)
    share = compute.cpus_per_worker or max(0.1, min(1.0, int(10 * cpus / (wanted * most)) / 10))
    if share * fewest > cpus:
        raise ConfigError(
            f"compute asks for {fewest} workers with {share:g} CPUs each, the cluster has {cpus:g};"
            " lower compute.workers or compute.cpus_per_worker."
        )
    fits = int(cpus / (share * most) + 1e-6)
    if compute.gpus_per_worker:
        fits = min(fits, int(gpus / (compute.gpus_per_worker * most) + 1e-6))
    resources = {"CPU": share} | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {})
    return resources, max(1, min(wanted, fits))


def _workers(config: TrainConfig) -> str:
    """How many workers a member has, in words."""
    fewest, most = config.compute.fewest_workers, config.compute.most_workers
    return f"{most} worker(s)" if fewest == most else f"{fewest} to {most} workers"
