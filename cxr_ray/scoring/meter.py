"""What the stages of a run tell while they work, and whether they shall go on.

Its numbers are for people who watch: they are lost with the process that holds them. What counts are the written rows.
"""

from collections import Counter
from threading import Lock
from typing import Any, Protocol

from cxr_ray.errors import CxrRayError
from cxr_ray.scoring.progress import Progress

Told = dict[str, dict[str, Any]]


class Watched(Protocol):
    """A meter as its run's heartbeat sees it, wherever it is."""

    def drain(self) -> bool:
        """From now on nothing new is begun; False when it did not answer."""

    def read(self) -> Told | None:
        """All counts, or None when it did not answer."""

    def show(self, progress: Progress, told: Told) -> None:
        """Hand the counts to those who collect metrics, if there are any."""


class Meter:
    """Images, seconds and faults by stage since the run began; threads may share it."""

    def __init__(self) -> None:
        """Nothing was done yet."""
        self.images: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.draining = False
        self.end: CxrRayError | None = None
        self._lock = Lock()  # a Counter reads and writes in two steps

    def give_up(self, error: CxrRayError) -> None:
        """Keep why the run cannot go on."""
        self.end = self.end or error

    def why(self) -> CxrRayError | None:
        """Why the run cannot go on, or None."""
        return self.end

    def add(self, images: dict[str, int], seconds: dict[str, float], faults: dict[str, int]) -> bool:
        """Count what a task did; returns whether the run drains, so that what is not begun is left."""
        with self._lock:
            self.images.update(images)
            self.seconds.update(seconds)
            self.faults.update(faults)
        return self.draining

    def is_draining(self) -> bool:
        """Whether what is not begun is to be left."""
        return self.draining

    def drain(self) -> bool:
        """From now on nothing new is begun."""
        self.draining = True
        return True

    def read(self) -> Told:
        """All counts."""
        with self._lock:
            return {"images": dict(self.images), "seconds": dict(self.seconds), "faults": dict(self.faults)}

    def show(self, progress: Progress, told: Told) -> None:
        """Nobody collects metrics of a run on one machine."""
