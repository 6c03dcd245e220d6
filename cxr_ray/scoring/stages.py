"""The first and the last stage of both engines: parts of a worklist in, score files out. Knows no Ray and no torch."""

import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.config import digest_of
from cxr_ray.scoring import table
from cxr_ray.scoring.lease import check_held
from cxr_ray.scoring.progress import STAGES
from cxr_ray.scoring.table import FAULTED, SCORED, Contract


def read_part(uri: str) -> pa.Table:
    """The rows of one part of a worklist. Raises StorageError."""
    return pq.read_table(pa.BufferReader(storage.get(uri))).replace_schema_metadata()


def write_file(batch: pa.Table, output: str, contract: Contract, *, run_id: str) -> dict[str, Any]:
    """Write one score file, whole or not at all, and return its summary.

    The name is a digest of the rows' keys, so a task that is repeated replaces its own file with the same rows. A
    worker that outlives its driver writes nothing any more once another run has taken over the lease.

    Raises:
        LeaseError: Another run is at work on the output.
        StorageError: The output does not take the file.
    """
    started = time.perf_counter()
    schema = table.schema(contract)
    keys = [batch[name].to_pylist() for name in ("uri", "object_version")]
    uri = table.file_uri(output, run_id, digest_of(keys))
    check_held(output, run_id)
    storage.put(uri, table.encode(batch.select(schema.names).cast(schema)))
    faults = batch.filter(pc.equal(batch["status"], FAULTED))["fault"]
    seconds = {name: float(pc.sum(batch[f"{name}_seconds"]).as_py()) for name in STAGES[:3]}
    return {
        "uri": uri,
        "scored": int(pc.sum(pc.equal(batch["status"], SCORED)).as_py()),
        "faulted": len(faults),
        "faults": {item["values"]: item["counts"] for item in pc.value_counts(faults).to_pylist()},
        "seconds": {**seconds, "write": time.perf_counter() - started},
        "images_per_pass": int(pc.min(batch["images_per_pass"]).as_py()),
        "was_reduced": bool(pc.any(batch["was_reduced"]).as_py()),
        "syntaxes": _by_syntax(batch),
    }


def _by_syntax(batch: pa.Table) -> dict[str, list[float]]:
    """Images and decode seconds per transfer syntax; everything that is not DICOM counts as `none`."""
    grouped = (
        batch.select(["transfer_syntax_uid", "decode_seconds"])
        .group_by("transfer_syntax_uid")
        .aggregate([("decode_seconds", "count"), ("decode_seconds", "sum")])
    )
    return {
        row["transfer_syntax_uid"] or "none": [row["decode_seconds_count"], row["decode_seconds_sum"]]
        for row in grouped.to_pylist()
    }
