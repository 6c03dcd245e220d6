"""Training on Ray: decode once, one Ray Train run per member, then calibrate and bundle.

Flow: manifest -> uint8 shards (Ray Data) -> a TorchTrainer run per member, side by side -> validation logits ->
calibration and thresholds -> bundle. Everything written is keyed by a digest of what it depends on, so the same
command again continues: decoded shards, finished members and the last checkpoint of unfinished ones are kept.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from safetensors.torch import load as load_tensors

from cxr_ray import storage
from cxr_ray.cluster import attempt
from cxr_ray.config import DecodeConfig, MemberConfig, TrainConfig, digest_of
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.images.intake import Intake, decode_images
from cxr_ray.images.preprocess import preprocess_digest
from cxr_ray.labels.manifest import Manifest, read_manifest
from cxr_ray.models import member
from cxr_ray.models.member import MemberSpec
from cxr_ray.training.assembly import Job, assemble, file_member
from cxr_ray.training.cache import open_part, shard_schema, write_shard
from cxr_ray.training.loop import Epoch, State, Worker, fit

Log = Callable[[str], None]
_IMAGES_PER_SHARD = 256
_SAY_EVERY = 10.0  # seconds between lines about the decoding
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
        """The result as plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result for a person."""
        members = ", ".join(f"{name} {auroc:.3f}" for name, auroc in self.member_auroc.items())
        return [
            f"Ensemble {self.digest}: {self.bundle}",
            f"Validation macro AUROC: {self.ensemble_auroc:.3f} (members: {members}); {self.seconds:.0f} s.",
        ]


def train(config: TrainConfig, output: str, *, log: Log) -> TrainResult:
    """Train every member of `config`, calibrate the ensemble and write its bundle to OUTPUT/ensemble.

    Needs an initialised Ray. Progress goes to `log`, one line at a time.

    Raises:
        ManifestError: The table is wrong, or more images than allowed cannot be read.
        ConfigError: `output` cannot be written, a backbone cannot be had, or the cluster cannot hold a worker.
        StorageError: `output` stops taking what is written.
    """
    started = time.monotonic()
    output = storage.absolute(output)
    storage.check_writable(output)
    manifest = read_manifest(config.manifest, seed=config.seed)
    log(f"Training table {manifest.digest}: {_one_line(manifest)}")
    specs = [_prepare_member(config, item, index, manifest, output) for index, item in enumerate(config.members)]
    cache, unreadable = decode_once(manifest, config, output, log=log)
    fitted = _fit_members(config, specs, cache, output, log=log)
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


def _one_line(manifest: Manifest) -> str:
    """Images per part and positives per finding, as one sentence."""
    counts = manifest.counts()
    parts = ", ".join(f"{part} {row['images']}" for part, row in counts.iterrows())
    findings = ", ".join(f"{finding} {int(counts[finding].sum())}" for finding in manifest.findings)
    return f"images {parts}; positives {findings}."


# --- decode once -------------------------------------------------------------------------------------------------


def decode_once(manifest: Manifest, config: TrainConfig, output: str, *, log: Log) -> tuple[str, int]:
    """Decode every image of the manifest into uint8 shards; returns their folder and how many could not be read.

    The folder is named by the digest of table and settings; a finished one is used again.

    Raises:
        ManifestError: More images than `manifest.max_unreadable` cannot be read; names them with the reason.
    """
    digest = digest_of({"manifest": manifest.digest, "decode": config.decode.model_dump(mode="json")})
    folder = storage.join(output, "cache", digest)
    marker = storage.join(output, "cache", f"{digest}.json")
    if storage.exists(marker):
        faults = json.loads(storage.get(marker))["faults"]
        log(f"Decoded images are there already ({folder}).")
    else:
        table = pa.Table.from_pandas(manifest.frame, preserve_index=False)
        log(f"Decoding {table.num_rows:,} images to {config.decode.preprocess.size} pixels.")
        blocks = ray.data.from_arrow(table).repartition(target_num_rows_per_block=_IMAGES_PER_SHARD)
        arguments = {"folder": folder, "findings": manifest.findings, "settings": config.decode.model_dump()}
        done = blocks.map_batches(
            _decode_shard, batch_size=_IMAGES_PER_SHARD, batch_format="pyarrow", num_cpus=1, fn_kwargs=arguments
        )
        faults = _follow(done, table.num_rows, log)
        storage.put(marker, json.dumps({"faults": faults}).encode())
    allowed = int(config.manifest.max_unreadable * len(manifest.frame))
    if len(faults) > allowed:
        raise ManifestError(
            f"{len(faults)} images of the manifest cannot be read (allowed: {allowed}): {' '.join(faults[:5])}"
            " Remove them from the table or raise manifest.max_unreadable."
        )
    return folder, len(faults)


def _follow(done: ray.data.Dataset, total: int, log: Log) -> list[str]:
    """Run the decoding, say how far it is, and return the sentences of the images that could not be read."""
    faults: list[str] = []
    started = spoke = time.monotonic()
    finished = 0
    for row in done.iter_rows():
        finished += row["images"]
        faults += json.loads(row["faults"])
        now = time.monotonic()
        if now - spoke >= _SAY_EVERY:
            spoke, rate = now, finished / (now - started)
            left = (total - finished) / rate
            log(f"{finished:,} of {total:,} images decoded, {rate:.0f} images/s, about {left:.0f} s left")
    return faults


def _decode_shard(rows: pa.Table, *, folder: str, findings: tuple[str, ...], settings: dict[str, Any]) -> pa.Table:
    """Decode the images of one block into one shard; returns one row: how many images it was given, and the faults."""
    config = DecodeConfig.model_validate(settings)
    size = config.preprocess.size
    table = rows.to_pylist()
    intake = Intake(config.preprocess, config.limits)
    decoded = decode_images([(row["uri"], "") for row in table], intake, alone=attempt() > 0)
    kept: list[dict[str, Any]] = []
    faults: list[str] = []
    for row, image in zip(table, decoded, strict=True):
        if image.pixels is None:
            faults.append(f"{row['uri']}: {image.fault} ({image.fault_detail})")
            continue
        labels = [row[finding] for finding in findings]
        kept.append({"uri": row["uri"], "part": row["part"], "labels": labels, "pixels": image.pixels.tobytes()})
    if kept:
        name = digest_of([item["uri"] for item in kept])
        table = pa.Table.from_pylist(kept, schema=shard_schema(size=size, num_findings=len(findings)))
        write_shard(storage.join(folder, f"{name}.arrow"), table)
    return pa.table({"images": [rows.num_rows], "faults": [json.dumps(faults)]})


# --- one Ray Train run per member --------------------------------------------------------------------------------


def _prepare_member(config: TrainConfig, item: MemberConfig, index: int, manifest: Manifest, output: str) -> Job:
    """Build a member, with ImageNet weights when asked, and save its first weights for all workers to start from."""
    seed = item.seed if item.seed is not None else config.seed * 1_000 + index
    settings = config.model_dump(mode="json", include={"decode", "augment", "optimize"})
    workers = config.compute.workers
    digest = digest_of(
        {**settings, "member": item.model_dump(), "seed": seed, "manifest": manifest.digest, "workers": workers}
    )
    folder = storage.join(output, "work", f"{item.name}-{digest}")
    torch.manual_seed(seed)
    side, pixels = config.decode.preprocess.size, preprocess_digest(config.decode.preprocess)
    network, spec = member.create(item, findings=manifest.findings, size=side, preprocess_digest=pixels)
    start = storage.join(folder, "start.safetensors")
    if not storage.exists(start):
        storage.put(start, member.encode_weights(network.state_dict()))
    return Job(spec, seed, digest, folder)


def _fit_members(config: TrainConfig, jobs: Sequence[Job], cache: str, output: str, *, log: Log) -> dict[str, float]:
    """Run every unfinished member, as many side by side as fit, and return the best validation AUROC of each."""
    waiting = [job for job in jobs if not storage.exists(job.done)]
    for job in jobs:
        if job not in waiting:
            log(f"Member {job.spec.name} is trained already.")
    if waiting:
        resources, at_once = _share_cluster(config, len(waiting))
        board = ray.remote(num_cpus=0)(_Board).remote()
        fit_remotely = ray.remote(num_cpus=0)(_fit_member)
        running: dict[Any, Job] = {}
        started = time.monotonic()
        log(f"Training {len(waiting)} members, {at_once} at a time, with {config.compute.workers} worker(s) each.")
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                settings = config.model_dump(mode="json")
                task = fit_remotely.remote(settings, asdict(job), cache, resources, storage.join(output, "runs"), board)
                running[task] = job
            finished, _ = ray.wait(list(running), timeout=_POLL)
            _log_epochs(ray.get(board.drain.remote()), config, started, log)
            for task in finished:
                ray.get(task)
                log(f"Member {running.pop(task).spec.name} is trained.")
    return {job.spec.name: json.loads(storage.get(job.done))["best_auroc"] for job in jobs}


def _share_cluster(config: TrainConfig, num_members: int) -> tuple[dict[str, float], int]:
    """Resources of one worker, and how many members run at once on the cluster there is."""
    total, compute = ray.cluster_resources(), config.compute
    cpus, gpus = total.get("CPU", 1.0), total.get("GPU", 0.0)
    if compute.gpus_per_worker * compute.workers > gpus:
        raise ConfigError(
            f"compute asks for {compute.workers} workers with {compute.gpus_per_worker} GPUs each, the cluster has"
            f" {gpus:g}; lower compute.workers or compute.gpus_per_worker."
        )
    wanted = min(compute.parallel_members or num_members, num_members)
    share = compute.cpus_per_worker or max(0.1, min(1.0, int(10 * cpus / (wanted * compute.workers)) / 10))
    if share * compute.workers > cpus:
        raise ConfigError(
            f"compute asks for {compute.workers} workers with {share:g} CPUs each, the cluster has {cpus:g};"
            " lower compute.workers or compute.cpus_per_worker."
        )
    fits = int(cpus / (share * compute.workers) + 1e-6)
    if compute.gpus_per_worker:
        fits = min(fits, int(gpus / (compute.gpus_per_worker * compute.workers) + 1e-6))
    resources = {"CPU": share} | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {})
    return resources, max(1, min(wanted, fits))


class _Board:
    """Where the members' workers pin their epochs and the driver reads them."""

    def __init__(self) -> None:
        self._epochs: list[tuple[str, dict[str, float]]] = []

    def post(self, name: str, epoch: dict[str, float]) -> None:
        """Pin one epoch of one member."""
        self._epochs.append((name, epoch))

    def drain(self) -> list[tuple[str, dict[str, float]]]:
        """Take down everything that was pinned since the last call."""
        epochs, self._epochs = self._epochs, []
        return epochs


def _log_epochs(epochs: Sequence[tuple[str, dict[str, float]]], config: TrainConfig, started: float, log: Log) -> None:
    """One line per epoch, with rate and time left for its member."""
    for name, epoch in epochs:
        number, total = int(epoch["number"]) + 1, config.optimize.epochs
        left = (time.monotonic() - started) / number * (total - number)
        log(
            f"{name} epoch {number}/{total}: loss {epoch['train_loss']:.3f}, validation {epoch['validation_loss']:.3f},"
            f" macro AUROC {epoch['macro_auroc']:.3f}{' (best)' if epoch['best'] else ''},"
            f" {epoch['images_per_second']:.0f} images/s, about {left:.0f} s left"
        )


def _fit_member(
    settings: dict[str, Any], job: dict[str, Any], cache: str, resources: dict[str, float], runs: str, board: Any
) -> None:
    """Run one member through Ray Train and file its best weights, validation logits and history."""
    config = TrainConfig.model_validate(settings)
    item = Job(**{**job, "spec": MemberSpec(**job["spec"])})
    trainer = ray.train.torch.TorchTrainer(
        _worker_loop,
        train_loop_config={"settings": settings, "job": job, "cache": cache, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.compute.workers,
            use_gpu=config.compute.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=f"{item.spec.name}-{item.digest}",
            storage_path=runs,
            failure_config=ray.train.FailureConfig(max_failures=config.compute.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder, "state.pt"), weights_only=True)
        file_member(item, state)


def _worker_loop(arguments: dict[str, Any]) -> None:
    """What each Ray Train worker runs: open the shards, build the member, resume if there is a checkpoint, fit."""
    config = TrainConfig.model_validate(arguments["settings"])
    job = Job(**{**arguments["job"], "spec": MemberSpec(**arguments["job"]["spec"])})
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), str(device))
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.compute.cpus_per_worker or 1)))
    torch.manual_seed(job.seed + worker.rank)
    network = member.rebuild(job.spec)
    network.load_state_dict(load_tensors(storage.get(storage.join(job.folder, "start.safetensors"))))
    network = network.to(memory_format=torch.channels_last)

    def report(epoch: Epoch, state: State) -> None:
        _report(epoch, state, worker=worker, name=job.spec.name, board=arguments["board"])

    fit(
        ray.train.torch.prepare_model(network),
        train=open_part(arguments["cache"], "train"),
        validation=open_part(arguments["cache"], "validation"),
        optimize=config.optimize,
        views=config.augment,
        seed=job.seed,
        worker=worker,
        resume=_last_state(),
        report=report,
    )


def _last_state() -> State | None:
    """The state of the last checkpoint of this run, or None at its start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        state: State = torch.load(Path(folder, "state.pt"), weights_only=True)
    return state


def _report(epoch: Epoch, state: State, *, worker: Worker, name: str, board: Any) -> None:
    """Hand one epoch to Ray Train, with a checkpoint from the first worker, and pin it to the board."""
    if worker.rank != 0:
        ray.train.report(epoch.to_dict())
        return
    board.post.remote(name, epoch.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, "state.pt"))
        ray.train.report(epoch.to_dict(), checkpoint=ray.train.Checkpoint.from_directory(folder))
