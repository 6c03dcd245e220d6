"""Signs of life of a run: its lease, a heartbeat file in its output, metrics, and lines in its log.

A thread of the driver gives them while the pipeline works, so that they come whatever the pipeline waits for. Knows no
Ray.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from cxr_ray import storage
from cxr_ray.errors import CxrRayError, Fault, LeaseError, StoppedError, StorageError
from cxr_ray.scoring.lease import Lease
from cxr_ray.scoring.meter import Watched
from cxr_ray.scoring.progress import Progress
from cxr_ray.scoring.worklist import Counts

Log = Callable[[str], None]
_TICK = 0.5  # seconds until a wish to stop is passed on


class Heartbeat:
    """The signs of life of one run while its block runs."""

    def __init__(
        self, output: str, run_id: str, *, lease: Lease, every: float, say_every: float, stop: threading.Event, log: Log
    ) -> None:
        """Nothing is sent yet. `every` and `say_every` are seconds between files and between lines."""
        self.output, self.run_id, self.lease, self.log = output, run_id, lease, log
        self.every, self.say_every, self.stop = min(every, lease.seconds / 3), say_every, stop
        self.progress = Progress()
        self.state = "listing"
        self.facts: dict[str, Any] = {}
        self.meter: Watched | None = None
        self.lost: LeaseError | None = None
        self._started = datetime.now(UTC)
        self._spoke = self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send a last one that says how it ended."""
        self._ended.set()
        self._thread.join()
        if error is not None:
            self.state = "stopped" if isinstance(error, StoppedError) else "failed"
            self.facts["error"] = str(error) if isinstance(error, CxrRayError) else type(error).__name__
        self._send()

    def check(self) -> None:
        """Raise LeaseError when another run has taken over."""
        if self.lost is not None:
            raise self.lost

    def listed(self, counts: Counts) -> None:
        """Note how many objects are listed so far."""
        self.check()
        self.facts["listed_so_far"] = counts.candidates

    def speak(self, line: str) -> None:
        """A line in the log, which counts as a sign of life."""
        self._spoke = time.monotonic()
        self.log(line)

    def _beat_on(self) -> None:
        """The thread: a beat now and then until the end."""
        sent = time.monotonic()
        while not self._ended.wait(_TICK):
            self._renew()
            wishes_to_stop = self.stop.is_set() and self.state == "scoring"
            if time.monotonic() - sent >= self.every or wishes_to_stop:
                sent = time.monotonic()
                self._ask_meter()
                self._send()
            if time.monotonic() - self._spoke >= self.say_every:
                self.speak(f"{self.state}: {self._how_far()}")

    def _how_far(self) -> str:
        """What there is to say at the present state."""
        if self.progress.todo:
            return self.progress.line()
        return f"{self.facts.get('listed_so_far', 0):,} objects so far"

    def _renew(self) -> None:
        """Renew the lease when it is time; a storage that does not answer is asked again at the next beat."""
        if self.lost is not None or time.monotonic() - self._renewed < self.lease.seconds / 3:
            return
        try:
            self.lease.renew()
            self._renewed = time.monotonic()
        except LeaseError as error:
            self.lost = error
            self.stop.set()
        except StorageError as error:
            self._complain(error)

    def _ask_meter(self) -> None:
        """Read the meter, and tell it to drain when the run is asked to stop."""
        if self.meter is None:
            return
        if self.stop.is_set():
            if not self.meter.drain():  # said anew each time: it may have been restarted
                return
            if self.state == "scoring":
                self.state = "draining"
                self.speak("Asked to stop: nothing new is begun, what is in flight is finished and written.")
        told = self.meter.read()
        if told is not None:
            self.progress.told(told["images"])
            self.meter.show(self.progress, told)

    def _send(self) -> None:
        """Write the heartbeat file."""
        beat = {
            "run_id": self.run_id,
            "state": self.state,
            "host": socket.gethostname(),
            "started_at": self._started.isoformat(),
            "updated_at": datetime.now(UTC).isoformat(),
            "every_seconds": self.every,
            **self.facts,
            **self.progress.to_dict(),
        }
        try:
            storage.put(heartbeat_uri(self.output), json.dumps(beat, indent=2).encode())
        except StorageError as error:
            self._complain(error)

    def _complain(self, error: StorageError) -> None:
        """Say once that signs of life cannot be written; the run itself finds out whether it can go on."""
        if not self._complained:
            self._complained = True
            self.log(f"A sign of life could not be written: {error.detail}")


@dataclass(frozen=True, slots=True)
class Status:
    """What a heartbeat file says, and how old it is by this machine's clock."""

    output: str
    beat: dict[str, Any]
    age_seconds: float

    @property
    def is_silent(self) -> bool:
        """Whether a run that has not ended gives no sign of life any more."""
        return self.beat["state"] not in ENDED and self.age_seconds > max(6 * self.beat["every_seconds"], 60.0)

    def to_dict(self) -> dict[str, Any]:
        """The status as plain values."""
        return {**self.beat, "output": self.output, "age_seconds": round(self.age_seconds), "silent": self.is_silent}

    def lines(self) -> list[str]:
        """The status for a person."""
        beat = self.beat
        lines = [
            f"Run {beat['run_id']} on {beat['host']}: {beat['state']}, last sign of life {self.age_seconds:.0f} s ago.",
            f"{beat['done']:,} of {beat['todo']:,} images have a row ({beat['scored']:,} scored, {beat['faulted']:,}"
            f" faulted), {beat['left']:,} left"
            + (f", about {beat['seconds_left']:,} s" if beat["seconds_left"] is not None else "")
            + ".",
        ]
        if beat["faults"]:
            lines.append("Faults: " + ", ".join(f"{code} {count:,}" for code, count in beat["faults"].items()))
        if beat["images_per_second"]:
            rates = ", ".join(f"{stage} {rate:g}" for stage, rate in beat["images_per_second"].items())
            lines.append(f"Images per second: {rates}")
        if "bottleneck" in beat:
            lines.append(f"Held up by {beat['bottleneck']}; add {beat['advice']}.")
        if "error" in beat:
            lines.append(f"It failed: {beat['error']}")
        if self.is_silent:
            lines.append("It has been silent for too long and is probably dead: run the same command again.")
        return lines


ENDED = ("finished", "stopped", "failed")


def read_status(output: str) -> Status:
    """The last sign of life in an output. Raises StorageError: NOT_FOUND when no run ever wrote there."""
    output = storage.absolute(output)
    try:
        beat = json.loads(storage.get(heartbeat_uri(output)))
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            detail = f"There is no heartbeat in {output}; no run has begun there, or the path is another."
            raise StorageError(Fault.NOT_FOUND, detail) from error
        raise
    age = (datetime.now(UTC) - datetime.fromisoformat(beat["updated_at"])).total_seconds()
    return Status(output, beat, max(0.0, age))


def heartbeat_uri(output: str) -> str:
    """Where the heartbeat of an output lies."""
    return storage.join(output, "heartbeat.json")
