"""The accounting of a scoring run, from its manifest OUT/runs/RUN_ID.json. Tolerant: what is not said is None."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxr_ray import storage


@dataclass(frozen=True, slots=True)
class Run:
    """What a run manifest says of the run's accounting; what it does not say is None."""

    run_id: str
    started_at: str | None
    wall_seconds: float | None
    listed: int | None
    scored: int | None
    faulted: int | None
    already_done: int | None
    deferred: int | None

    @property
    def adds_up(self) -> bool | None:
        """Whether listed = scored + faulted + already done + left for later; None where a number is missing."""
        if self.listed is None or self.scored is None or self.faulted is None or self.already_done is None:
            return None
        return self.listed == self.scored + self.faulted + self.already_done + (self.deferred or 0)


def newest_run(output: str, ensemble_digest: str) -> Run | None:
    """The last started run of this ensemble, from OUT/runs/RUN_ID.json; None where no manifest tells."""
    found = []
    for item in storage.list_objects(storage.join(output, "runs"), missing_ok=True):
        if item.uri.endswith(".json"):
            manifest = _manifest(storage.get(item.uri))
            if _mapping(manifest, "ensemble").get("digest") == ensemble_digest:
                found.append(manifest)
    newest = max(found, key=lambda manifest: str(manifest.get("started_at") or ""), default=None)
    return None if newest is None else _run(newest)


def _manifest(data: bytes) -> dict[str, Any]:
    """A run manifest, empty when the bytes are none: the report does without."""
    try:
        values = json.loads(data)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _run(manifest: Mapping[str, Any]) -> Run:
    """The accounting in a run manifest."""
    counts, wall, started = _mapping(manifest, "counts"), manifest.get("wall_seconds"), manifest.get("started_at")
    numbers = {
        name: counts[name] if isinstance(counts.get(name), int) else None
        for name in ("listed", "scored", "faulted", "already_done", "deferred")
    }
    return Run(
        run_id=str(manifest.get("run_id", "")),
        started_at=None if started is None else str(started),
        wall_seconds=float(wall) if isinstance(wall, int | float) else None,
        **numbers,
    )


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under `key`, empty when there is none."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}
