"""Decode once, on Ray Data: a checked training table to uint8 shards, which epochs read without decoding."""

import json
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.data

from cxr_ray import storage
from cxr_ray.cluster import attempt
from cxr_ray.config import DecodeConfig, StorageConfig, TrainConfig, digest_of
from cxr_ray.errors import ManifestError
from cxr_ray.images.intake import Intake, decode_images
from cxr_ray.labels.manifest import Manifest
from cxr_ray.training.cache import open_part, shard_schema, write_shard

Log = Callable[[str], None]
_IMAGES_PER_SHARD = 256
_SAY_EVERY = 10.0  # seconds between lines about the decoding


def decode_once(manifest: Manifest, config: TrainConfig, output: str, *, log: Log) -> tuple[str, int]:
    """Decode every image of the manifest into uint8 shards; returns their folder and how many could not be read.

    The folder is named by the digest of table and settings; a finished one is used again.

    Raises:
        ManifestError: More images than `manifest.max_unreadable` cannot be read, or none of train or validation can;
            names them with the reason.
    """
    digest = digest_of({"manifest": manifest.digest, "decode": config.decode.model_dump(mode="json")})
    folder = storage.join(output, "cache", digest)
    marker = storage.join(output, "cache", f"{digest}.json")
    if storage.exists(marker):
        faults = json.loads(storage.get(marker))["faults"]
        log(f"Decoded images are there already ({folder}).")
    else:
        table = pa.Table.from_pandas(manifest.frame, preserve_index=False)
        log(f"Decoding {table.num_rows:,} images to {config.decode.preprocess.size} pixels.")
        blocks = ray.data.from_arrow(table).repartition(target_num_rows_per_block=_IMAGES_PER_SHARD)
        arguments = {"folder": folder, "findings": manifest.findings, "settings": config.decode.model_dump()}
        stores = {"stores": config.storage.model_dump(), "share": 1 / ray.cluster_resources()["CPU"]}
        done = blocks.map_batches(
            _decode_shard,
            batch_size=_IMAGES_PER_SHARD,
            batch_format="pyarrow",
            num_cpus=1,
            fn_kwargs=arguments | stores,
        )
        faults = _follow(done, table.num_rows, log)
    allowed = int(config.manifest.max_unreadable * len(manifest.frame))
    if len(faults) > allowed:
        raise ManifestError(
            f"{len(faults)} images of the manifest cannot be read (allowed: {allowed}): {' '.join(faults[:5])}"
            " Remove them from the table or raise manifest.max_unreadable."
        )
    if faults:
        _check_parts(folder, faults)
    storage.put(marker, json.dumps({"faults": faults}).encode())
    return folder, len(faults)


def _check_parts(folder: str, faults: list[str]) -> None:
    """Refuse shards without an image of train or of validation: few unreadable images may be all of a small part."""
    for part in ("train", "validation"):
        if not len(open_part(folder, part)):
            raise ManifestError(
                f"No image of the part {part} can be read: {' '.join(faults[:5])} Mend these files or list others."
            )


def _follow(done: ray.data.Dataset, total: int, log: Log) -> list[str]:
    """Run the decoding, say how far it is, and return the sentences of the images that could not be read."""
    faults: list[str] = []
    started = spoke = time.monotonic()
    finished = 0
    for row in done.iter_rows():
        finished += row["images"]
        faults += json.loads(row["faults"])
        now = time.monotonic()
        if now - spoke >= _SAY_EVERY:
            spoke, rate = now, finished / (now - started)
            left = (total - finished) / rate
            log(f"{finished:,} of {total:,} images decoded, {rate:.0f} images/s, about {left:.0f} s left")
    return faults


def _decode_shard(
    rows: pa.Table,
    *,
    folder: str,
    findings: tuple[str, ...],
    settings: dict[str, Any],
    stores: dict[str, Any],
    share: float,
) -> pa.Table:
    """Decode the images of one block into one shard; returns one row: how many images it was given, and the faults."""
    storage.configure(StorageConfig.model_validate(stores), share=share)
    config = DecodeConfig.model_validate(settings)
    size = config.preprocess.size
    table = rows.to_pylist()
    intake = Intake(config.preprocess, config.limits)
    decoded = decode_images([(row["uri"], "", None) for row in table], intake, alone=attempt() > 0)
    kept: list[dict[str, Any]] = []
    faults: list[str] = []
    for row, image in zip(table, decoded, strict=True):
        if image.pixels is None:
            faults.append(f"{row['uri']}: {image.fault} ({image.fault_detail})")
            continue
        labels = [row[finding] for finding in findings]
        kept.append({"uri": row["uri"], "part": row["part"], "labels": labels, "pixels": image.pixels.tobytes()})
    if kept:
        # By what the shard was given: a repetition that can read more of it replaces it.
        name = digest_of([row["uri"] for row in table])
        table = pa.Table.from_pylist(kept, schema=shard_schema(size=size, num_findings=len(findings)))
        write_shard(storage.join(folder, f"{name}.arrow"), table)
    return pa.table({"images": [rows.num_rows], "faults": [json.dumps(faults)]})
