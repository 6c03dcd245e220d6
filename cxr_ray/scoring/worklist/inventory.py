"""S3 Inventory reports: the objects of a bucket from the files that S3 writes daily, instead of a listing.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html (manifest) and
storage-inventory.html (fields). Data files are CSV.gz or Parquet; ORC is refused.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_ray import storage
from cxr_ray.errors import ConfigError
from cxr_ray.storage import ObjectInfo

_MOST_BYTES = 64 * 2**20  # of a manifest: it names each data file in 200 bytes
_CHUNK = 2**20
_BATCH = 8_192
_FIELDS = ("key", "islatest", "isdeletemarker", "size", "lastmodifieddate", "etag", "storageclass")
_NEEDED = ("key", "size", "etag")


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """One data file of an inventory, CSV or Parquet; `columns` are its names in order, `bucket` is the one listed."""

    uri: str
    bucket: str
    kind: str
    columns: tuple[str, ...]
    md5: str

    @property
    def given(self) -> str:
        """The prefix below which its objects lie."""
        return f"s3://{self.bucket}/"


def read_inventory(uri: str) -> list[InventoryFile]:
    """The data files that a manifest.json names; none when it is no manifest of an S3 Inventory.

    Raises:
        ConfigError: The inventory is ORC, lacks a field that is needed, or names its files in an unknown way.
        StorageError: It cannot be read.
    """
    manifest = _manifest(uri)
    if manifest is None:
        return []
    kind, columns = manifest["fileFormat"], _columns(str(manifest["fileSchema"]))
    if kind not in _ROWS:
        raise ConfigError(f"The inventory {uri} is {kind}, which is not read; configure it as CSV or Parquet.")
    missing = [name for name in _NEEDED if name not in map(_plain, columns)]
    if missing:
        raise ConfigError(f"The inventory {uri} lacks {', '.join(missing)}; add it to the inventory's optional fields.")
    bucket, target = str(manifest["sourceBucket"]), str(manifest["destinationBucket"]).rpartition(":")[2]
    return [
        InventoryFile(_place(uri, target, item["key"]), bucket, kind, columns, str(item["MD5checksum"]))
        for item in manifest["files"]
    ]


def objects(file: InventoryFile) -> Iterator[ObjectInfo]:
    """The objects of a data file: the latest versions, without delete markers and folder markers.

    Raises:
        ConfigError: The file is not the one that the manifest means, or cannot be read as its format.
        StorageError: It cannot be fetched.
    """
    with tempfile.TemporaryFile() as copy:
        _fetch(file, copy)
        try:
            for row in _ROWS[file.kind](file, copy):
                if _counts(row):
                    yield _object(file, row)
        except (pa.ArrowInvalid, OSError, EOFError, zlib.error, csv.Error, ValueError, KeyError) as error:
            raise ConfigError(
                f"The inventory file {file.uri} cannot be read as {file.kind} ({type(error).__name__}); wait for the"
                " next inventory, or list the bucket itself."
            ) from error


def _manifest(uri: str) -> dict[str, Any] | None:
    """The manifest, or None for a file that is something else or absent. Raises StorageError."""
    if not storage.exists(uri):
        return None
    try:
        found = json.loads(storage.get(uri, max_bytes=_MOST_BYTES))
    except ValueError:
        return None
    needed = {"sourceBucket", "destinationBucket", "fileFormat", "fileSchema", "files"}
    return found if isinstance(found, dict) and needed <= set(found) else None


def _columns(schema: str) -> tuple[str, ...]:
    """The names in a fileSchema: `Bucket, Key, ...` for CSV, a Parquet message type otherwise."""
    if schema.strip().startswith("message"):
        return tuple(re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", schema))
    return tuple(name.strip() for name in schema.split(","))


def _plain(name: str) -> str:
    """A field's name as both formats have it: LastModifiedDate and last_modified_date are one."""
    return name.replace("_", "").lower()


def _place(manifest: str, bucket: str, key: str) -> str:
    """Where a data file lies: in the inventory's bucket, or beside a manifest that was copied to the local disk."""
    if not storage.is_remote(manifest):
        folder, name = manifest.rpartition("/")[0], key.rpartition("/")[2]
        for place in (f"{folder}/{name}", f"{folder}/../data/{name}"):
            if storage.exists(place):
                return place
    return f"s3://{bucket}/{key}"


def _fetch(file: InventoryFile, copy: IO[bytes]) -> None:
    """Copy a data file and check it against the manifest. Raises ConfigError, StorageError."""
    size, digest = storage.stat(file.uri).size, hashlib.md5(usedforsecurity=False)
    for start in range(0, size, 16 * _CHUNK):
        part = storage.get_range(file.uri, start, 16 * _CHUNK)
        digest.update(part)
        copy.write(part)
    copy.seek(0)
    if digest.hexdigest() != file.md5:
        raise ConfigError(
            f"The inventory file {file.uri} does not have the MD5 checksum of its manifest; wait for the next"
            " inventory, or list the bucket itself."
        )


def _csv_rows(file: InventoryFile, copy: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The rows of a CSV.gz by plain names; keys are URL-encoded there, so that no row holds a line break."""
    names = [_plain(name) for name in file.columns]
    with gzip.open(copy) as unpacked:
        for values in csv.reader(io.TextIOWrapper(unpacked, "utf-8", newline="")):
            row = dict(zip(names, values, strict=True))
            yield row | {"key": unquote_plus(row["key"], errors="strict")}


def _parquet_rows(file: InventoryFile, copy: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file by plain names."""
    with pq.ParquetFile(copy) as parquet:
        wanted = [name for name in parquet.schema_arrow.names if _plain(name) in _FIELDS]
        for batch in parquet.iter_batches(_BATCH, columns=wanted):
            for row in batch.to_pylist():
                yield {_plain(name): value for name, value in row.items()}


_ROWS = {"CSV": _csv_rows, "Parquet": _parquet_rows}


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether a row is the latest version of an object, and no marker."""
    # Inventories of the current versions alone have neither field.
    latest, deleted = (str(row.get(name, "")).lower() for name in ("islatest", "isdeletemarker"))
    return latest != "false" and deleted != "true" and not row["key"].endswith("/")


def _object(file: InventoryFile, row: Mapping[str, Any]) -> ObjectInfo:
    """A row as a listing would have it."""
    if not row["etag"] or row["size"] in (None, ""):
        raise ValueError(f"{row['key']} has no ETag or no size")
    storage_class = row.get("storageclass") or None
    modified = _instant(row.get("lastmodifieddate"))
    return ObjectInfo(f"{file.given}{row['key']}", row["etag"].strip('"'), int(row["size"]), modified, storage_class)


def _instant(value: datetime | str | None) -> datetime | None:
    """A time of either format, in UTC."""
    if not value:
        return None
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
