"""The first stage of both engines: the images of a block, fetched and decoded, as one Arrow table.

What a decoding process imports is kept small. Knows no Ray and no model.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxr_ray import storage
from cxr_ray.config import PreprocessConfig, ScoreConfig, StorageConfig
from cxr_ray.images.intake import Decoded, Intake, decode_images
from cxr_ray.scoring.table import FAULTED, HEADER, IDENTITY, READING, SCORED

PATIENT_KEY = "CXR_RAY_PATIENT_KEY"  # environment variable with the secret of the patient hash
BEFORE_SCORES = (*IDENTITY, *HEADER, *READING)
DECODED = pa.schema(
    [pa.field(c.name, c.type, c.nullable) for c in BEFORE_SCORES]
    + [
        pa.field("pixels", pa.binary()),
        pa.field("fetch_seconds", pa.float64(), nullable=False),
        pa.field("decode_seconds", pa.float64(), nullable=False),
    ]
)


def intake_of(config: ScoreConfig, preprocess: PreprocessConfig) -> Intake:
    """How a run takes images in; the secret of the patient hash is in the environment, or there is none."""
    key = os.environ.get(PATIENT_KEY)
    return Intake(preprocess, config.limits, config.gate, key.encode() if key else None)


def items_of(block: pa.Table) -> list[storage.Item]:
    """The rows of a worklist as what is to be fetched."""
    return list(zip(*(block[name].to_pylist() for name in ("uri", "object_version", "size")), strict=True))


def decode_block(items: Sequence[storage.Item], intake: Intake, *, alone: bool) -> pa.Table:
    """Fetch, decode and resize every image of a block; faults become data here. `alone`: see `decode_images`."""
    return decoded_table(list(decode_images(items, intake, alone=alone)))


def decode_in_child(
    block: tuple[Sequence[storage.Item], bool], *, intake: Intake, stores: tuple[StorageConfig, float]
) -> pa.Table:
    """`decode_block` of (items, alone), in a process that has not been told of its stores yet."""
    config, share = stores
    storage.configure(config, share=share)
    items, alone = block
    return decode_block(items, intake, alone=alone)


def tally(decoded: pa.Table) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    """What a meter is told of a decoded block: images and seconds by stage, and faults by code."""
    stages = ("fetch", "decode")
    faults = Counter(code for code in decoded["fault"].to_pylist() if code is not None)
    seconds = {stage: float(pc.sum(decoded[f"{stage}_seconds"], min_count=0).as_py()) for stage in stages}
    return dict.fromkeys(stages, decoded.num_rows), seconds, dict(faults)


def decoded_table(images: Sequence[Decoded]) -> pa.Table:
    """The images as one Arrow table; pixels are the S x S bytes of the model input."""
    return pa.Table.from_pylist([_decoded_row(image) for image in images], schema=DECODED)


def _decoded_row(image: Decoded) -> dict[str, Any]:
    """One image as plain values."""
    return {
        **{column.name: getattr(image.header, column.name, None) for column in HEADER},
        "uri": image.uri,
        "object_version": image.object_version,
        "status": SCORED if image.fault is None else FAULTED,
        "fault": None if image.fault is None else image.fault.value,
        "fault_detail": image.fault_detail,
        "voi_source": image.voi_source,
        "gate": image.gate,
        "placement": None if image.placement is None else asdict(image.placement),
        "pixels": None if image.pixels is None else image.pixels.tobytes(),
        "fetch_seconds": image.fetch_seconds,
        "decode_seconds": image.decode_seconds,
    }
