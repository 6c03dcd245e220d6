"""What Ray's tasks do before and after the ensemble: read parts of the worklist, decode, write score files.

Ray has a worker import the module of its task. This one knows no torch, so that such a worker is a quarter of the size
and begins seconds sooner.
"""

import json
from typing import Any

import pyarrow as pa
import ray

from cxr_ray import storage
from cxr_ray.cluster import attempt
from cxr_ray.config import PreprocessConfig, ScoreConfig
from cxr_ray.scoring.decoding import DECODED, decode_block, intake_of, items_of, tally
from cxr_ray.scoring.remote_meter import telling
from cxr_ray.scoring.stages import read_part, write_file
from cxr_ray.scoring.table import Contract
from cxr_ray.scoring.worklist import WORKLIST


def read_parts(batch: pa.Table, *, config: dict[str, Any], meter: Any) -> pa.Table:
    """The rows of parts of a worklist; none once the run drains."""
    if ray.get(meter.is_draining.remote()):
        return WORKLIST.empty_table()
    storage.configure(ScoreConfig.model_validate(config).storage)
    with telling(meter):
        return pa.concat_tables([read_part(uri) for uri in batch["part"].to_pylist()])


def decode_batch(
    batch: pa.Table, *, config: dict[str, Any], preprocess_config: dict[str, Any], tasks: float, meter: Any
) -> pa.Table:
    """A decoded block; none once the run drains.

    A task that Ray repeats may have lost its process to one of its images: its block is decoded in a child process.
    """
    if ray.get(meter.is_draining.remote()):
        return DECODED.empty_table()
    settings, target = ScoreConfig.model_validate(config), PreprocessConfig.model_validate(preprocess_config)
    storage.configure(settings.storage, share=1.0 / tasks)
    with telling(meter):
        decoded = decode_block(items_of(batch), intake_of(settings, target), alone=attempt() > 0)
    meter.add.remote(*tally(decoded))
    return decoded


def write_rows(
    batch: pa.Table, *, output: str, contract: str, run_id: str, config: dict[str, Any], meter: Any
) -> pa.Table:
    """Write one score file and return its summary as one row. Raises LeaseError, StorageError."""
    storage.configure(ScoreConfig.model_validate(config).storage)
    with telling(meter):
        summary = write_file(batch, output, Contract.from_json(contract), run_id=run_id)
    return pa.table({"summary": [json.dumps(summary)]})
