"""Score tables without any scoring: rows of one contract, written as a run writes them; and who hears Ctrl-C."""

import signal
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cxr_ray import storage
from cxr_ray.config import digest_of
from cxr_ray.errors import Fault
from cxr_ray.images.packed.archives import forget_archives
from cxr_ray.scoring import table
from cxr_ray.scoring.table import FAULTED, SCORED, Contract
from tests.conftest import PREPROCESS

CONTRACT = Contract(
    findings=("Mass",),
    members=("a",),
    grid=7,
    size=PREPROCESS.size,
    thresholds=(0.5,),
    ensemble_digest="e",
    preprocess_digest="p",
)


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "archive") if request.param == "local" else str(request.getfixturevalue("s3"))


@pytest.fixture
def forget() -> None:
    """S3 objects of one test have the uris and versions of those of another."""
    forget_archives()


def write_rows(
    output: str,
    run_id: str,
    keys: Iterable[tuple[str, str]],
    *,
    fault: Fault | None = None,
    contract: Contract = CONTRACT,
    name: str | None = None,
) -> str:
    """One score file of a run, with a row of this fault or none for each (uri, version); returns its uri."""
    rows: list[dict[str, Any]] = [
        {
            "uri": uri,
            "object_version": version,
            "status": FAULTED if fault else SCORED,
            "fault": fault,
            "fault_detail": "A sentence." if fault else None,
            "ensemble_digest": contract.ensemble_digest,
            "preprocess_digest": contract.preprocess_digest,
            "run_id": run_id,
            "scored_at": datetime(2026, 11, 23, tzinfo=UTC),
        }
        for uri, version in keys
    ]
    uri = name or table.file_uri(output, run_id, digest_of([list(row.values())[:3] for row in rows]))
    storage.put(uri, table.encode(pa.Table.from_pylist(rows, schema=table.schema(contract))))
    return uri


def keys_in(output: str, contract: Contract = CONTRACT) -> list[tuple[str, str]]:
    """Key of every row of an output, old versions included, sorted."""
    rows = table.rows_of(output, wanted=["uri", "object_version"], contract=contract)
    return sorted(zip(rows["uri"].to_pylist(), rows["object_version"].to_pylist(), strict=True))


@pytest.fixture
def heeded_interrupts() -> Iterator[None]:
    """What is started hears SIGINT, also where a shell runs the tests in its background and so has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
