"""Decoded model inputs on disk: every image is decoded once, and epochs read uint8 from memory-mapped shards.

A shard is an Arrow IPC file with one row per image: uri, part, labels (F float32), pixels (S x S bytes). Knows no
Ray and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxr_ray import storage


def shard_schema(*, size: int, num_findings: int) -> pa.Schema:
    """Columns of a shard for model inputs of side `size` and F findings."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
            pa.field("labels", pa.list_(pa.float32(), num_findings), nullable=False),
            pa.field("pixels", pa.binary(size * size), nullable=False),
        ]
    )


def write_shard(uri: str, table: pa.Table) -> None:
    """Write one shard, whole or not at all, uncompressed so that it can be memory-mapped."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    storage.put(uri, bytes(sink.getvalue()))


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """One part of the training table: N decoded images and their labels."""

    uris: tuple[str, ...]
    labels: npt.NDArray[np.float32]  # (N, F), NaN where not stated
    _shards: tuple[npt.NDArray[np.uint8], ...]  # each (n, S, S), mapped from disk
    _places: npt.NDArray[np.int64]  # (N, 2) shard and row of each image

    def __len__(self) -> int:
        return len(self.uris)

    def pixels(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Model inputs (n, 1, S, S) of the images at `indices`, copied."""
        return np.stack([self._shards[shard][row] for shard, row in self._places[np.asarray(indices)]])[:, None]


def open_part(folder: str, part: str) -> ModelInputs:
    """The images of one part over all shards below `folder`, in order of uri so that runs are reproducible."""
    tables = [_open_shard(item.uri) for item in sorted(storage.list_objects(folder), key=lambda item: item.uri)]
    size = int(np.sqrt(tables[0].schema.field("pixels").type.byte_width))
    num_findings = tables[0].schema.field("labels").type.list_size
    shards, uris, labels, places = [], [], [], []
    for number, table in enumerate(tables):
        rows = np.flatnonzero(np.asarray(table["part"]) == part)
        shards.append(_as_array(table["pixels"].combine_chunks(), size))
        uris.extend(table["uri"].take(pa.array(rows)).to_pylist())
        labels.append(np.stack(table["labels"].to_numpy(zero_copy_only=False)).reshape(-1, num_findings)[rows])
        places.append(np.column_stack([np.full(len(rows), number), rows]))
    order = np.argsort(np.array(uris, dtype=object), kind="stable")
    return ModelInputs(
        tuple(uris[index] for index in order),
        np.concatenate(labels)[order].astype(np.float32),
        tuple(shards),
        np.concatenate(places)[order].astype(np.int64),
    )


def _open_shard(uri: str) -> pa.Table:
    """The table of one shard: mapped when local, read when remote."""
    source = pa.BufferReader(storage.get(uri)) if storage.is_remote(uri) else pa.memory_map(uri)
    return pa.ipc.open_file(source).read_all()


def _as_array(pixels: pa.FixedSizeBinaryArray, size: int) -> npt.NDArray[np.uint8]:
    """The bytes of a column as (n, S, S), without a copy."""
    whole = np.frombuffer(pixels.buffers()[1], np.uint8)
    start = pixels.offset * size * size
    return whole[start : start + len(pixels) * size * size].reshape(len(pixels), size, size)
