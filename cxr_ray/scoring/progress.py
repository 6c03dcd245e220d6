"""How far a run is: counts of what is written, rates, time left, and the stage that holds the others up.

Pure arithmetic on counts; knows no Ray, no files and no clock but the one it is given.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STAGES = ("fetch", "decode", "ensemble", "write")
_WINDOW = 60.0  # seconds over which a present rate is taken
_ADVICE = {
    "fetch": "network: more bandwidth to the storage, or more storage.requests_in_flight",
    "decode": "CPUs: more cores or CPU workers for decoding",
    "ensemble": "GPUs: more or faster ones; without any, more CPUs",
    "write": "storage of the output: more bandwidth, or fewer heat maps",
}


@dataclass(slots=True)
class Progress:
    """The counts of one run, brought together from written files and from what the tasks tell."""

    todo: int = 0
    clock: Callable[[], float] = time.monotonic
    scored: int = 0
    faulted: int = 0
    files: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)  # of the written images, by stage
    images_per_pass: int | None = None  # the fewest that an ensemble took at a time
    was_reduced: bool = False  # because the memory of a device took no more
    syntaxes: dict[str, list[float]] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # images that each stage has done, written or not
    marks: deque[tuple[float, dict[str, int]]] = field(default_factory=deque)

    def written(self, summary: dict[str, Any]) -> None:
        """Count one score file by its summary."""
        self.files += 1
        self.scored += summary["scored"]
        self.faulted += summary["faulted"]
        self.faults.update(summary["faults"])
        self.seconds.update(summary["seconds"])
        fewest = summary["images_per_pass"]
        self.images_per_pass = min(self.images_per_pass or fewest, fewest)
        self.was_reduced |= summary["was_reduced"]
        for syntax, (images, seconds) in summary["syntaxes"].items():
            total = self.syntaxes.setdefault(syntax, [0, 0.0])
            total[0] += images
            total[1] += seconds

    def told(self, images: dict[str, int]) -> None:
        """Note what the tasks say they have done so far, by stage."""
        self.stages = {**images, "write": self.done}
        now = self.clock()
        self.marks.append((now, self.stages))
        while len(self.marks) > 2 and now - self.marks[1][0] >= _WINDOW:
            self.marks.popleft()

    @property
    def done(self) -> int:
        """Images with a row."""
        return self.scored + self.faulted

    @property
    def left(self) -> int:
        """Images without one."""
        return self.todo - self.done

    def rates(self) -> dict[str, float]:
        """Images per second of each stage over the last minute; nothing before there are two marks."""
        if len(self.marks) < 2:
            return {}
        (start, before), (end, now) = self.marks[0], self.marks[-1]
        span = max(end - start, 1e-9)
        return {stage: (now.get(stage, 0) - before.get(stage, 0)) / span for stage in STAGES}

    def seconds_left(self) -> float | None:
        """Seconds until all images have a row, at the rate of the last minute; None while there is no rate.

        Rows come in bursts, a file at a time, so the rate is that of the stage before the writing.
        """
        rate = self.rates().get("ensemble", 0.0)
        return self.left / rate if rate > 0 else None

    def line(self) -> str:
        """How far the run is, as one line."""
        rate, left = self.rates().get("ensemble"), self.seconds_left()
        through = max(self.stages.get("ensemble", 0), self.done)
        return (
            f"{self.done:,} of {self.todo:,} images written ({self.faulted:,} faulted), {through:,} through the"
            f" ensemble" + (f", {rate:.1f} images/s" if rate else "") + (f", about {left:.0f} s left" if left else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """The counts and rates as plain values."""
        left = self.seconds_left()
        return {
            "todo": self.todo,
            "done": self.done,
            "left": self.left,
            "scored": self.scored,
            "faulted": self.faulted,
            "faults": dict(self.faults.most_common()),
            "stages": self.stages,
            "images_per_second": {stage: round(rate, 2) for stage, rate in self.rates().items()},
            "seconds_left": None if left is None else round(left),
        }


def bottleneck(seconds: dict[str, float], slots: dict[str, float]) -> tuple[str | None, str | None]:
    """The stage that holds the others up, and what to add.

    `seconds` are spent by all images together in each stage; `slots` how many tasks of a stage run at the same time.
    The stage that would take longest if it ran alone on its slots is the narrowest.
    """
    alone = {stage: spent / max(slots.get(stage, 1.0), 1e-9) for stage, spent in seconds.items() if spent > 0}
    if not alone:
        return None, None
    stage = max(alone, key=lambda name: alone[name])
    return stage, _ADVICE[stage]
