"""One run at a time on one output: a lease in the output that its run renews, and another takes once it is dead.

No clocks are compared: a lease is dead when its process is gone from this very machine, or when it was watched for
as long as it lives without a change. Knows no Ray and no images.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cxr_ray import storage
from cxr_ray.errors import Fault, LeaseError, StorageError

Log = Callable[[str], None]
_LOOK = 1.0  # seconds between looks at another run's lease


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: a run, and the process that works for it, told apart from every other one there ever was."""

    run_id: str
    host: str
    boot: str  # id of the kernel's start: the same in all containers of a machine, and nowhere else
    namespace: str  # of process numbers
    pid: int
    started: str  # clock ticks from the kernel's start to the process's
    renewals: int = 0

    def to_json(self) -> bytes:
        """The holder as one JSON object."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Holder":
        """The holder back from its JSON."""
        return cls(**json.loads(data))

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended: only this machine can tell."""
        here = this_process(self.run_id)
        same_machine = (self.boot, self.namespace) == (here.boot, here.namespace) and bool(self.boot)
        return same_machine and _start_of(self.pid) != self.started

    @property
    def is_here(self) -> bool:
        """Whether its process runs on this machine."""
        here = this_process(self.run_id)
        return bool(self.boot) and (self.boot, self.namespace) == (here.boot, here.namespace) and not self.is_gone


def this_process(run_id: str) -> Holder:
    """This process as the holder of a lease. Where the kernel tells nothing (not Linux), boot and namespace are ''."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    return Holder(run_id, socket.gethostname(), boot, namespace, os.getpid(), _start_of(os.getpid()))


def _start_of(pid: int) -> str:
    """When a process of this machine started, in clock ticks since the kernel did; '' when there is none.

    Source: proc_pid_stat(5), field 22; the name before it, in parentheses, may hold blanks.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else fields[18]


class Lease:
    """The right of one run to write to one output, from `with` to the end of its block.

    The one who renews it calls `renew` at least every third of `seconds`.
    """

    def __init__(self, output: str, run_id: str, *, seconds: float, log: Log) -> None:
        """Nothing is held yet; `seconds` is how long a lease lives that nobody renews."""
        self.output, self.seconds, self.log = output, seconds, log
        self.holder = this_process(run_id)
        self.version: str | None = None

    def __enter__(self) -> Self:
        """Take the lease. Raises LeaseError when another run is at work, StorageError."""
        while self.version is None:
            self.version = storage.create(lease_uri(self.output), self.holder.to_json())
            if self.version is None:
                self.version = self._take_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the lease back, if it is still ours."""
        try:
            if holder_of(self.output) == self.holder:
                storage.delete(lease_uri(self.output))
        except StorageError as failure:  # the run itself is over: the next one finds the lease dead
            self.log(f"The lease could not be given back: {failure.detail}")

    def renew(self) -> None:
        """Say that the run is alive. Raises LeaseError when another run has taken over, StorageError."""
        renewed = replace(self.holder, renewals=self.holder.renewals + 1)
        version = storage.replace(lease_uri(self.output), renewed.to_json(), self.version or "")
        if version is None:
            # An answer that was lost on its way: the write before this one may have been ours.
            if holder_of(self.output) != renewed:
                raise lost(self.output, self.holder.run_id)
            version = storage.stat(lease_uri(self.output)).version
        self.holder, self.version = renewed, version

    def _take_over(self) -> str | None:
        """The version of the lease taken from a dead run, or None when it must be tried again. Raises LeaseError."""
        uri = lease_uri(self.output)
        try:
            seen = storage.stat(uri).version
            other = Holder.from_json(storage.get(uri))
        except StorageError as error:
            if error.fault is Fault.NOT_FOUND:
                return None  # given back in this moment
            raise
        if not other.is_gone:
            if other.is_here:
                raise _busy(self.output, other)
            self.log(
                f"Run {other.run_id} on {other.host} holds a lease on {self.output}; watching for up to"
                f" {self.seconds:.0f} s whether it is alive."
            )
            if not self._stands_still(uri, seen):
                raise _busy(self.output, other)
        self.log(f"Run {other.run_id} on {other.host} is dead; taking over.")
        return storage.replace(uri, self.holder.to_json(), seen)

    def _stands_still(self, uri: str, seen: str) -> bool:
        """Whether nobody renews the lease for as long as it lives; one that is given back meanwhile counts."""
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(min(_LOOK, self.seconds / 10))
            try:
                if storage.stat(uri).version != seen:
                    return False
            except StorageError as error:
                if error.fault is not Fault.NOT_FOUND:
                    raise
                return True
        return True


def lease_uri(output: str) -> str:
    """Where the lease of an output lies."""
    return storage.join(output, "lease.json")


def holder_of(output: str) -> Holder | None:
    """Who holds the lease of an output, or None. Raises StorageError."""
    try:
        return Holder.from_json(storage.get(lease_uri(output)))
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            return None
        raise


def check_held(output: str, run_id: str) -> None:
    """Raise LeaseError unless `run_id` holds the lease: what a worker asks before it writes."""
    holder = holder_of(output)
    if holder is None or holder.run_id != run_id:
        raise lost(output, run_id)


def lost(output: str, run_id: str) -> LeaseError:
    """The error of a run that another took for dead."""
    return LeaseError(
        f"Run {run_id} has lost its lease on {output}: it was silent for too long and another run has taken over; its"
        " written rows are kept, and that run does the rest."
    )


def _busy(output: str, other: Holder) -> LeaseError:
    """The error of a run that comes second."""
    return LeaseError(
        f"Run {other.run_id} on {other.host} (process {other.pid}) is at work on {output}; wait until it ends"
        " (`cxr-ray status` shows how far it is), or choose another --output."
    )
