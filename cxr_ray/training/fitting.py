"""One member through Ray Train: its run, what each of its workers does, and what they tell the driver."""

import os
import tempfile
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from safetensors.torch import load as load_tensors

from cxr_ray import storage
from cxr_ray.config import TrainConfig
from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.models import member
from cxr_ray.models.member import MemberSpec
from cxr_ray.models.memory import allocation_environment
from cxr_ray.training.assembly import Job, file_logits, file_member
from cxr_ray.training.cache import open_part
from cxr_ray.training.epoch import Epoch, Plan
from cxr_ray.training.failures import explained
from cxr_ray.training.loop import fit
from cxr_ray.training.stages import final_scale
from cxr_ray.training.state import State, read_state, write_state
from cxr_ray.training.validation import check_logits, predict_part
from cxr_ray.training.workers import Worker


def run_name(job: Job) -> str:
    """The folder of a member below `runs`, where its checkpoints and what is tracked of it lie."""
    return f"{job.spec.name}-{job.digest}"


def fit_member(
    settings: dict[str, Any], job: dict[str, Any], cache: str, resources: dict[str, float], runs: str, board: Any
) -> None:
    """Run one member through Ray Train and file its best weights, validation logits and history.

    Raises:
        ConfigError: What its workers found wrong together, such as a loss that is not finite.
        StorageError: A checkpoint cannot be written.
        TrainingError: Ray Train gave it up for another reason, which the sentence names.
    """
    config = TrainConfig.model_validate(settings)
    storage.configure(config.storage)
    item = Job(**{**job, "spec": MemberSpec(**job["spec"])})
    # A report waits until the controller looks, every 2 s by default: a checkpoint took as long (Ray 2.60).
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Ray Train calls the loop in a thread of its own, whose arena is settled before: so by the worker's environment.
    on_gpu = config.compute.gpus_per_worker > 0
    trainer = ray.train.torch.TorchTrainer(
        worker_loop,
        train_loop_config={"settings": settings, "job": job, "cache": cache, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.compute.workers,  # (fewest, most) makes Ray Train elastic
            use_gpu=on_gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=run_name(item),
            storage_path=runs,
            failure_config=ray.train.FailureConfig(max_failures=config.compute.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            worker_runtime_env={} if on_gpu else {"env_vars": allocation_environment()},
        ),
    )
    try:
        result = trainer.fit()
    except (ray.train.TrainingFailedError, RayError) as error:
        raise explained(error, item.spec.name) from error
    end = ray.get(board.end_of.remote(item.spec.name))
    if end is not None:
        raise end
    with result.checkpoint.as_directory() as folder:
        file_member(item, read_state(folder), scale=final_scale(config.optimize))


def worker_loop(arguments: dict[str, Any]) -> None:
    """What each Ray Train worker runs: open the shards, build the member, resume if there is a checkpoint, fit.

    What all workers find wrong together is told and not raised: Ray Train would begin again, to no other end.
    """
    config = TrainConfig.model_validate(arguments["settings"])
    storage.configure(config.storage)
    job = Job(**{**arguments["job"], "spec": MemberSpec(**arguments["job"]["spec"])})
    context, device, board = ray.train.get_context(), ray.train.torch.get_device(), arguments["board"]
    worker = Worker(context.get_world_rank(), context.get_world_size(), str(device))
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(config.compute.cpus_per_worker or 1)))
    network = member.rebuild(job.spec)
    network.load_state_dict(load_tensors(storage.get(storage.join(job.folder, "start.safetensors"))))
    if device.type == "cuda" and worker.world > 1 and config.compute.sync_batchnorm:
        network = member.synchronised(network)
    try:
        state = fit(
            network,
            train=open_part(arguments["cache"], "train"),
            validation=open_part(arguments["cache"], "validation"),
            plan=Plan(config.optimize, config.augment, config.compute, job.seed, job.digest),
            worker=worker,
            resume=last_state(),
            report=partial(report_to_ray, worker=worker, name=job.spec.name, board=board),
            wrap=data_parallel,
            say=partial(board.say.remote, job.spec.name) if worker.rank == 0 else lambda sentence: None,
        )
        network.load_state_dict(state["best_weights"])
        member.scale_outputs(network, final_scale(config.optimize))
        _predict_test(network, job, arguments["cache"], config.optimize.precision, worker)
    except ConfigError as error:
        ray.get(board.give_up.remote(job.spec.name, error))


def _predict_test(network: member.Member, job: Job, cache: str, precision: str, worker: Worker) -> None:
    """File the best weights' logits of the test part, if there is one: all workers compute, the first one writes.

    Raises:
        ConfigError: Logits are not finite.
    """
    test = open_part(cache, "test")
    if len(test):
        logits = predict_part(network, test, worker=worker, precision=precision)
        check_logits(logits, test, place="the test part, with the best weights")
        if worker.rank == 0:
            file_logits(job, "test", logits)


def data_parallel(network: torch.nn.Module) -> torch.nn.Module:
    """The member as Ray Train prepares it; its running statistics are ours to keep alike."""
    wrapped: torch.nn.Module = ray.train.torch.prepare_model(
        network, parallel_strategy_kwargs={"broadcast_buffers": False}
    )
    return wrapped


def last_state() -> State | None:
    """The state of the last checkpoint of this run, or None at its start."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return read_state(folder)


def report_to_ray(epoch: Epoch | None, state: State, *, worker: Worker, name: str, board: Any) -> None:
    """Hand an epoch, or a place within one, to Ray Train with a checkpoint from the first worker; pin epochs."""
    metrics = {"epoch": state["epoch"], "step": state["step"]} if epoch is None else epoch.to_dict()
    if worker.rank != 0:
        ray.train.report(metrics)
        return
    if epoch is not None:
        board.post.remote(name, epoch.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        write_state(folder, state)
        try:
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageError(
                Fault.STORAGE_UNAVAILABLE,
                f"The checkpoint of member {name} cannot be written ({reason}); check the space and the permissions of"
                " --output.",
            ) from error
