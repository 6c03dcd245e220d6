"""A job and who does it: what `run` hands to an engine, and what it asks of one. Knows no Ray.

Both engines give every image the same row; what differs is what the first one costs.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

from cxr_ray.config import PreprocessConfig, ScoreConfig, StorageConfig
from cxr_ray.config.scoring import EngineName
from cxr_ray.models.ensemble import EnsembleSpec
from cxr_ray.scoring.meter import Watched
from cxr_ray.scoring.table import Contract


@dataclass(frozen=True, slots=True)
class Job:
    """The images of a worklist, from bytes to score files. `parts` are the uris of the worklist, `todo` its rows."""

    parts: tuple[str, ...]
    todo: int
    bundle: str
    contract: Contract
    preprocess: PreprocessConfig
    config: ScoreConfig
    output: str
    run_id: str
    rows_per_file: int


class Work(Protocol):
    """A job that has begun; `words` say on what."""

    words: str

    @property
    def meter(self) -> Watched:
        """What its stages tell."""

    @property
    def slots(self) -> Mapping[str, float]:
        """Tasks of each stage that work at the same time."""

    def summaries(self) -> Generator[dict[str, Any]]:
        """Do it: every score file's summary as it appears. Raises LeaseError, StorageError."""


class Engine(Protocol):
    """Who does the work of a run."""

    name: EngineName

    def load(self, bundle: str, config: ScoreConfig) -> EnsembleSpec:
        """The spec of a bundle, of which every part was loaded and its golden image scored.

        Raises:
            BundleError: It is incomplete or inconsistent.
            ConfigError: The device has no such precision or runtime.
            DeviceError: It does not fit into the device's memory.
        """

    def over(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        each: Callable[[Any], None],
        *,
        stores: StorageConfig,
        stop: Event,
    ) -> None:
        """Call `function` with each of the tuples and hand each result over as it comes.

        The arguments are drawn while it goes, a few calls ahead. What dies is repeated, so `function` must bear that.

        Raises:
            StoppedError: `stop` was set.
            CxrRayError: What `function` raises.
        """

    def begin(self, job: Job) -> Work:
        """Get ready for a job. Raises ConfigError where it does not fit."""
