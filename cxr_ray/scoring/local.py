"""The engine that works on this machine alone, without Ray: for a folder, which must not pay for a cluster.

Decoding is done by child processes, because a damaged file may end one; the ensemble by threads that share its
weights, one core each, because cores that share one batch wait for each other. All else is done by the driver's main
thread, which holds a bounded number of blocks, whatever the archive holds.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, repeat
from queue import SimpleQueue
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self, TypeVar

import joblib
import pyarrow as pa
import torch

from cxr_ray import storage
from cxr_ray.config import ScoreConfig, StorageConfig
from cxr_ray.config.scoring import EngineName
from cxr_ray.errors import ConfigError, StoppedError
from cxr_ray.images.intake import Intake
from cxr_ray.images.isolation import Child, Died
from cxr_ray.models.ensemble import Ensemble, EnsembleSpec, choose_device, load_ensemble
from cxr_ray.models.memory import FittedEnsemble, tune_allocation
from cxr_ray.models.precision import emulates
from cxr_ray.scoring.batch import score_batch
from cxr_ray.scoring.decoding import DECODED, decode_in_child, intake_of, items_of, tally
from cxr_ray.scoring.flow import Pending, regroup, spread
from cxr_ray.scoring.meter import Meter
from cxr_ray.scoring.progress import STAGES
from cxr_ray.scoring.stages import read_part, write_file
from cxr_ray.scoring.work import Job

Answer = TypeVar("Answer")
_FIRST = 4  # images of the first block, batch and file: a person waits for them
_PIECES = 4  # of a small run for each who works on it, so that nobody is idle for long at its end
_LISTERS = 8
_POLL = 1.0  # seconds until a wish to stop is seen
_ATTEMPTS = 4
_GPU_SCORERS = 2  # one makes rows of what came back while the other has the GPU


class LocalEngine:
    """Processes and threads of this machine do the work."""

    name: EngineName = "local"

    def __init__(self) -> None:
        """Nothing is loaded or started yet."""
        self._ensemble: Ensemble | None = None

    def load(self, bundle: str, config: ScoreConfig) -> EnsembleSpec:
        """Load the ensemble that will score. Raises BundleError, ConfigError, DeviceError."""
        tune_allocation()
        self._ensemble = load_ensemble(bundle, device=choose_device(), **config.numerics())
        return self._ensemble.spec

    def over(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        each: Callable[[Any], None],
        *,
        stores: StorageConfig,
        stop: Event,
    ) -> None:
        """Calls are made in threads: they wait for folders and stores. This process knows its `stores` already.

        Nobody waits for a call that runs when the run stops: a store may take minutes to answer.
        """
        running = set[Future[Any]]()
        for given in chain(arguments, [None]):
            if given is not None:
                running.add(_called(function, given))
            while running and (given is None or len(running) >= _LISTERS):
                done, running = wait(running, _POLL, FIRST_COMPLETED)
                for call in done:
                    each(call.result())
                    if stop.is_set():
                        raise StoppedError
                if stop.is_set():
                    raise StoppedError

    def begin(self, job: Job) -> "LocalWork":
        """Fit the work to the cores that this process may use, by its affinity and its container's quota."""
        assert self._ensemble is not None, "load() comes first"
        return LocalWork(job, self._ensemble, cores=joblib.cpu_count())


class LocalWork:
    """A job on this machine."""

    def __init__(self, job: Job, ensemble: Ensemble, *, cores: int) -> None:
        """Share out the cores: each decodes and scores, whatever is there to be done."""
        self.job, self.ensemble = job, FittedEnsemble(ensemble)
        self.decoders = min(cores, job.todo)
        scorers = job.config.actors or (cores if ensemble.device.type == "cpu" else _GPU_SCORERS)
        # pytorch-grad-cam hooks the networks and adds up gradients in them, which threads cannot share.
        alone = job.config.heatmaps != "none" and job.config.heatmap_method != "gradcam"
        self.scorers = 1 if alone else min(scorers, math.ceil(job.todo / _FIRST))
        self.torch_threads = max(1, cores // self.scorers)
        self.block = _piece(job.config.images_per_task, job.todo, self.decoders)
        self.batch = _piece(job.config.batch_on(ensemble.device.type), job.todo, self.scorers)
        self.meter = Meter()
        self.words = (
            f"On this machine: {self.decoders} decoding processes, {self.scorers} ensemble threads on"
            f" {ensemble.device.type}, {cores} CPUs."
        )
        if emulates(ensemble.device, ensemble.precision):
            self.words += " This CPU has no bfloat16 units: bf16 is slower here than fp32."
        self.slots = dict.fromkeys(STAGES, 1.0)
        if ensemble.device.type != "cpu":
            decoders = float(self.decoders)
            self.slots |= {"fetch": decoders, "decode": decoders, "ensemble": float(self.scorers)}

    def summaries(self) -> Generator[dict[str, Any]]:
        """Decode, score and write, each stage as far ahead of the next as its bound allows."""
        job = self.job
        with _torch_threads(self.torch_threads), closing(self._decoded()) as decoded:
            batches = regroup(decoded, chain([_FIRST], repeat(self.batch)))
            with (
                ThreadPoolExecutor(self.scorers, "ensemble") as threads,
                closing(spread(threads, self._score, batches, ahead=self.scorers + 1)) as scored,
            ):
                for rows in regroup(scored, chain([_FIRST], repeat(job.rows_per_file))):
                    if isinstance(rows, Pending):
                        wait(rows.calls, return_when=FIRST_COMPLETED)
                    else:
                        yield write_file(rows, job.output, job.contract, run_id=job.run_id)

    def _decoded(self) -> Generator[pa.Table | Pending]:
        """The decoded blocks of the worklist as they come; those that are not begun when the run drains are empty."""
        ahead = 2 * self.decoders + math.ceil(2 * self.batch / self.block)
        intake = intake_of(self.job.config, self.job.preprocess)
        with Decoders(self.decoders, intake, draining=self.meter.is_draining) as decoders:
            for decoded in spread(decoders.threads, decoders.decode, self._blocks(), ahead=ahead):
                if not isinstance(decoded, Pending):
                    self.meter.add(*tally(decoded))
                yield decoded

    def _blocks(self) -> Iterator[list[storage.Item]]:
        """The worklist in blocks, until the run drains."""
        sizes = chain(repeat(min(_FIRST, self.block), self.decoders), repeat(self.block))
        for block in regroup(map(read_part, self.job.parts), sizes):
            if self.meter.draining:
                return
            yield items_of(block)

    def _score(self, decoded: pa.Table) -> pa.Table:
        """Score rows of a batch."""
        scored, seconds = score_batch(
            self.ensemble, decoded, self.job.contract, run_id=self.job.run_id, config=self.job.config
        )
        self.meter.add({"ensemble": decoded.num_rows}, {"ensemble": seconds}, {})
        return scored


class Decoders:
    """Threads that each have a child process decode, while the block runs; nothing new is begun while `draining`."""

    def __init__(self, number: int, intake: Intake, *, draining: Callable[[], bool]) -> None:
        """No process is started before it has something to do."""
        stores, share = storage.configured()
        self._start = partial(Child, decode_in_child, {"intake": intake, "stores": (stores, share / number)})
        self._idle: SimpleQueue[Child | None] = SimpleQueue()
        for _ in range(number):
            self._idle.put(None)
        self._children = set[Child]()
        self._closed = Event()
        self._draining = draining
        self.threads = ThreadPoolExecutor(number, "decode")

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all children, whatever they do."""
        self._closed.set()
        for child in tuple(self._children):
            child.kill()
        self.threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def decode(self, items: list[storage.Item]) -> pa.Table:
        """The decoded block; one that cost its process is decoded again, image by image, and the culprit is a fault.

        None of its rows, where the run drains already.

        Raises:
            ConfigError: Its process is ended again and again even so, which no image does.
            ChildProcessError: No process comes so far as to begin.
        """
        if self._draining():
            return DECODED.empty_table()
        child = self._idle.get()
        try:
            for attempt in range(_ATTEMPTS):
                child = child or self._started()
                try:
                    found = child.ask((items, attempt > 0))
                    if not isinstance(found, Died):
                        return found
                except ChildProcessError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                self._children.discard(child)
                child.close()
                child = None
        finally:
            self._idle.put(child)
        raise ConfigError(
            f"The process that decoded {items[0][0]} and {len(items) - 1} more was ended {_ATTEMPTS} times from"
            " outside; give the machine more memory or lower images_per_task, and run the same command again."
        )

    def _started(self) -> Child:
        """A new child. Raises StoppedError when all are to end."""
        if self._closed.is_set():
            raise StoppedError
        child = self._start()
        self._children.add(child)
        if self._closed.is_set():  # since it was asked above, and the others may have been ended without this one
            child.kill()
        return child


def _called(function: Callable[..., Answer], given: tuple[Any, ...]) -> Future[Answer]:
    """A call in a thread of its own; the process may end before it does, as it may not with a pool's threads."""
    answer: Future[Answer] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*given))
        except BaseException as error:  # raised where the answer is taken
            answer.set_exception(error)

    Thread(target=call, name="list", daemon=True).start()
    return answer


def _piece(most: int, todo: int, workers: int) -> int:
    """Images of a block or batch: `most`, or fewer where the run is so small that someone would be idle."""
    return min(most, max(_FIRST, math.ceil(todo / (_PIECES * workers))))


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Threads that one operation of torch takes, while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
