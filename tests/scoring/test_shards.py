"""Inputs in shards: selection by name and age, tables of uris, S3 Inventory, and parts written side by side."""

import gzip
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import ConfigError, StorageError
from cxr_ray.scoring.worklist import ABSENT, Counts, Listing, Selection, Worklist, build_worklist, plan_shards
from tests.scoring.conftest import CONTRACT

RUN = "20261123T010203004"
NASTY = (
    *("a b.png", "a+b.png", "a%20b.png", "ü/語.png", "x//y.png", "x/../y.png", "q?x=1.png"),
    *("\x01.png", "new\nline.png"),
)


def paths_in(inputs: list[str], below: str, **settings: Any) -> list[str]:
    """What a listing selects, as paths below a folder."""
    listing = Listing(Selection.of(ScoreConfig.model_validate(settings)))
    return [item.uri.removeprefix(f"{below}/") for item in listing.objects(inputs)]


def built(inputs: list[str], output: Path | str, **options: Any) -> tuple[Worklist, pa.Table]:
    """A worklist and its rows."""
    work = build_worklist(inputs, str(output), CONTRACT, RUN, **{"config": ScoreConfig()} | options)
    parts = sorted(item.uri for item in storage.list_objects(work.uri, missing_ok=True))
    return work, pa.concat_tables([pq.read_table(io.BytesIO(storage.get(uri))) for uri in parts])


@pytest.fixture
def films(folder: str) -> str:
    """Objects in folders, some of which are no films."""
    for name in ("a.dcm", "site 1/b.DCM", "site 1/c.png", "site 1/deep/d.dcm", "site 2/e.dcm", "site 2/notes.txt"):
        storage.put(f"{folder}/{name}", b"x")
    return folder


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["a.dcm", "site 1/b.DCM", "site 1/c.png", "site 1/deep/d.dcm", "site 2/e.dcm"]),
        ({"include": ["*.dcm"]}, ["a.dcm", "site 1/b.DCM", "site 1/deep/d.dcm", "site 2/e.dcm"]),
        ({"include": ["site 1/*"]}, ["site 1/b.DCM", "site 1/c.png", "site 1/deep/d.dcm"]),
        ({"include": ["site 1/*", "e.*"], "exclude": ["*/deep/*"]}, ["site 1/b.DCM", "site 1/c.png", "site 2/e.dcm"]),
        ({"include": ["site 1"]}, []),
        ({"exclude": ["*.dcm"]}, ["site 1/c.png", "site 2/notes.txt"]),
    ],
)
def test_listing_patterns_without_a_slash_are_names_and_with_one_paths(films, settings, expected):
    assert sorted(paths_in([films], films, **settings)) == expected


def test_listing_what_is_named_itself_needs_no_pattern(films):
    assert paths_in([f"{films}/site 2/notes.txt"], films, include=["*.dcm"]) == ["site 2/notes.txt"]


def test_listing_include_is_for_the_members_of_an_archive_and_exclude_for_itself_too(tmp_path):
    for name in ("night.zip", "old.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x/a.dcm", b"1")
            archive.writestr("y/b.png", b"2")
    below = str(tmp_path)
    assert sorted(paths_in([below], below, include=["*.dcm"])) == ["night.zip!/x/a.dcm", "old.zip!/x/a.dcm"]
    assert paths_in([below], below, include=["night.zip!/y/*"]) == ["night.zip!/y/b.png"]
    assert sorted(paths_in([below], below, exclude=["old*"])) == ["night.zip!/x/a.dcm", "night.zip!/y/b.png"]


@pytest.mark.parametrize("since", ["2026-11-20", "2026-11-20T01:00+01:00", "2026-11-19T23:59:59"])
def test_listing_since_leaves_out_what_is_older(tmp_path, since):
    for name, day in (("old", 19), ("midnight", 20), ("new", 21)):
        (tmp_path / name).write_bytes(b"x")
        seconds = datetime(2026, 11, day, tzinfo=UTC).timestamp()
        os.utime(tmp_path / name, (seconds, seconds))
    listing = Listing(Selection.of(ScoreConfig(since=since)))
    assert sorted(Path(item.uri).name for item in listing.objects([str(tmp_path)])) == ["midnight", "new"]
    assert (listing.too_old, listing.left_out) == (1, 0)


def test_since_age_is_counted_back_from_now():
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert ScoreConfig(since="36h").modified_after(now) == datetime(2026, 11, 22, tzinfo=UTC)
    assert ScoreConfig(since="2d").modified_after(now) == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert ScoreConfig.model_validate({"since": now.date()}).modified_after(now) == datetime(2026, 11, 23, tzinfo=UTC)
    assert ScoreConfig().modified_after(now) is None


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "36", "-2d", "0001-01-01T00:00+05:00"])
def test_since_anything_else_is_refused(since):
    with pytest.raises(ValidationError, match="must be a date"):
        ScoreConfig(since=since)


def test_build_worklist_nothing_recent_is_no_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"x")
    os.utime(tmp_path / "in" / "a.png", (0, 0))
    config = ScoreConfig(since="2d")
    work = build_worklist([str(tmp_path / "in")], str(tmp_path / "out"), CONTRACT, RUN, config=config)
    assert (work.listed, work.todo, work.too_old) == (0, 0, 1)


def test_build_worklist_table_with_repeated_and_nasty_uris_one_row_each(s3, tmp_path):
    names = [name for name in NASTY if "\n" not in name]  # moto cannot store it
    for name in names:
        storage.put(f"s3://bucket/archive/{name}", name.encode())
    uris = [f"s3://bucket/archive/{name}" for name in (*names, *names, "absent.png", "absent.png")]
    pd.DataFrame({"note": "x", "uri": uris}).to_csv(tmp_path / "worklist.csv", index=False)
    pd.DataFrame({"uri": uris}).to_parquet(tmp_path / "worklist.parquet")
    work, rows = built([str(tmp_path / "worklist.csv"), str(tmp_path / "worklist.parquet")], tmp_path / "out")
    assert work.listed == len(names) + 1
    found = {row["uri"]: row for row in rows.to_pylist()}
    assert set(found) == set(uris)
    for name in names:
        row = found[f"s3://bucket/archive/{name}"]
        assert (row["size"], row["object_version"]) == (len(name.encode()), hashlib.md5(name.encode()).hexdigest())
        assert row["modified"] is not None
    assert found["s3://bucket/archive/absent.png"]["object_version"] == ABSENT


def test_build_worklist_table_of_forbidden_objects_is_refused(s3, tmp_path, monkeypatch):
    (tmp_path / "worklist.csv").write_text("uri\ns3://bucket/archive/a.png\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage.forget_clients()
    with pytest.raises(StorageError, match=r"NoCredentialsError.*AWS_ACCESS_KEY_ID"):
        built([str(tmp_path / "worklist.csv")], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"path\nx\n", "has no column 'uri'; it has path"),
        ("a.csv", b"uri,x\na,1,2\n", "is neither CSV nor Parquet"),
        ("a.csv", b"", "is neither CSV nor Parquet"),
        ("a.csv", b"uri\n\xff\xfe\n", "is neither CSV nor Parquet"),
        ("a.parquet", b"no parquet", "is neither CSV nor Parquet"),
        ("absent.csv", None, "cannot be read .* check the path"),
    ],
)
def test_plan_shards_table_that_cannot_be_used_says_why(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        list(plan_shards([str(tmp_path / name)], wanted=4))


def write_inventory(folder: str, kind: str, rows: list[dict[str, Any]], *, files: int = 2, **changes: Any) -> str:
    """An S3 Inventory as AWS documents it; returns the uri of its manifest. Rows are dealt out to the files."""
    names = {"CSV": list(rows[0]), "Parquet": [_snake(name) for name in rows[0]]}[kind]
    stated = []
    for number in range(files):
        part = [list(row.values()) for row in rows[number::files]]
        data = _csv_gz(names, part) if kind == "CSV" else _parquet(names, part)
        key = f"reports/films/nightly/data/{number}.{'csv.gz' if kind == 'CSV' else 'parquet'}"
        storage.put(f"s3://bucket/{key}" if storage.is_remote(folder) else f"{folder}/data/{number}.x", data)
        if not storage.is_remote(folder):
            key = f"reports/films/nightly/data/{number}.x"
        stated.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
    fields = "; ".join(f"optional binary {name} (UTF8)" for name in names)
    manifest = {
        "sourceBucket": "films",
        "destinationBucket": "arn:aws:s3:::bucket",
        "version": "2016-11-30",
        "creationTimestamp": "1514944800000",
        "fileFormat": kind,
        "fileSchema": ", ".join(names) if kind == "CSV" else f"message s3.inventory {{ {fields}; }}",
        "files": stated,
    } | changes
    uri = f"{folder}/2026-11-22T01-00Z/manifest.json"
    storage.put(uri, json.dumps(manifest).encode())
    return uri


def _snake(name: str) -> str:
    """A field's name as Parquet inventories write it."""
    special = {"ETag": "e_tag"}
    return special.get(name, "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_"))


def _csv_gz(names: list[str], rows: list[list[Any]]) -> bytes:
    """Every value in quotes, keys URL-encoded, no header."""
    key = names.index("Key")
    lines = []
    for row in rows:
        values = [quote_plus(value, safe="/") if index == key else value for index, value in enumerate(row)]
        lines.append(",".join(f'"{_text(value)}"' for value in values))
    return gzip.compress(("\n".join(lines) + "\n").encode())


def _text(value: object) -> str:
    """A value as CSV inventories write it."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%S}.000Z"
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _parquet(names: list[str], rows: list[list[Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), sink)
    return sink.getvalue()


def inventory_rows(names: Iterable[str], **changes: Any) -> list[dict[str, Any]]:
    modified = datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)
    return [
        {
            "Bucket": "films",
            "Key": name,
            "VersionId": "v1",
            "IsLatest": True,
            "IsDeleteMarker": False,
            "Size": 10 + number,
            "LastModifiedDate": modified,
            "ETag": hashlib.md5(name.encode()).hexdigest(),
            "StorageClass": "STANDARD",
        }
        | changes
        for number, name in enumerate(names)
    ]


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_build_worklist_inventory_objects_as_the_bucket_s_listing_has_them(folder, tmp_path, kind):
    rows = inventory_rows([*NASTY, "folder/"])
    rows += inventory_rows(["a b.png"], IsLatest=False, ETag="0" * 32)
    rows += inventory_rows(["deleted.png"], IsDeleteMarker=True, Size=None, ETag=None)
    rows += inventory_rows(["labels.csv"])
    manifest = write_inventory(f"{folder}/reports", kind, rows)
    assert len(list(plan_shards([manifest], wanted=1))) == 2
    work, found = built([manifest], tmp_path / "out")
    assert sorted(found["uri"].to_pylist()) == sorted(f"s3://films/{name}" for name in NASTY)
    assert work.left_out == 1
    by_uri = {row["uri"]: row for row in found.to_pylist()}
    for number, name in enumerate(NASTY):
        row = by_uri[f"s3://films/{name}"]
        assert (row["size"], row["object_version"]) == (10 + number, hashlib.md5(name.encode()).hexdigest())
        assert row["modified"] == datetime(2026, 11, 20, 4, 5, 6, tzinfo=UTC)


def test_build_worklist_inventory_has_the_versions_of_a_listing(s3, tmp_path):
    client = boto3.client("s3")
    client.create_bucket(Bucket="films")
    for name in NASTY[:5]:
        client.put_object(Bucket="films", Key=name, Body=name.encode())
    _, listed = built(["s3://films"], tmp_path / "listed")
    manifest = write_inventory(f"{s3}/reports", "CSV", inventory_rows(NASTY[:5]))
    _, stated = built([manifest], tmp_path / "stated")
    assert stated.select(["uri", "object_version"]).equals(listed.select(["uri", "object_version"]))
    for item in list(storage.list_objects("s3://films")):
        storage.delete(item.uri)
    client.delete_bucket(Bucket="films")
    client.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest | {"fileFormat": "ORC"}, "is ORC, which is not read; configure it as CSV or Par"),
        (lambda manifest: manifest | {"fileSchema": "Bucket, Key, Size"}, "lacks etag; add it to the inventory's opt"),
        (
            lambda manifest: manifest | {"files": [manifest["files"][0] | {"MD5checksum": "0" * 32}]},
            "does not have the MD5 checksum of its manifest",
        ),
        (lambda manifest: manifest | {"fileFormat": "Parquet"}, r"0\.x cannot be read as Parquet"),
        (lambda manifest: manifest | {"fileSchema": "Bucket, Key, Size, ETag"}, r"0\.x cannot be read as CSV"),
    ],
)
def test_build_worklist_inventory_that_cannot_be_used_says_why(
    tmp_path, change: Callable[[dict[str, Any]], dict[str, Any]], words
):
    uri = write_inventory(str(tmp_path), "CSV", inventory_rows(["a.png", "b.png"]))
    storage.put(uri, json.dumps(change(json.loads(storage.get(uri)))).encode())
    with pytest.raises(ConfigError, match=words):
        built([uri], tmp_path / "out")


def test_plan_shards_other_manifest_json_is_an_ordinary_file(tmp_path):
    for content in (b"no json", b'{"files": []}', b"[1]"):
        (tmp_path / "manifest.json").write_bytes(content)
        assert paths_in([str(tmp_path / "manifest.json")], str(tmp_path)) == ["manifest.json"]


def test_build_worklist_many_rows_lie_in_even_parts_in_order(tmp_path):
    names = [f"{hashlib.md5(str(number).encode()).hexdigest()}.png" for number in range(120_000)]
    manifest = write_inventory(str(tmp_path), "Parquet", inventory_rows(names), files=3)
    seen: list[Counts] = []

    def side_by_side(function: Callable[..., Counts], arguments: Iterable[tuple[Any, ...]], each: Any) -> None:
        with ThreadPoolExecutor(3) as pool:
            for counts in pool.map(lambda given: function(*given), arguments):
                each(counts)

    options = {"over": side_by_side, "progress": seen.append, "config": ScoreConfig(worklist_bytes=2**27)}
    work, rows = built([manifest, manifest], tmp_path / "out", **options)
    parts = sorted(item.uri for item in storage.list_objects(work.uri))
    assert [uri.rpartition("/")[2] for uri in parts] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [pq.read_metadata(uri).num_rows for uri in parts] == [50_000, 50_000, 20_000]
    assert rows["uri"].to_pylist() == sorted(f"s3://films/{name}" for name in names)
    assert rows.schema.metadata == {b"cxr_ray_ensemble": b"e"}
    assert [counts.candidates for counts in seen] == [40_000 * (number + 1) for number in range(6)]
    left = {Path(item.uri).relative_to(tmp_path / "out").parts[2] for item in storage.list_objects(f"{tmp_path}/out")}
    assert left == {"todo", "worklist.json"}
    marker = json.loads(storage.get(f"{tmp_path}/out/worklists/{RUN}/worklist.json"))
    assert (marker["listed"], marker["todo"], marker["ensemble_digest"]) == (120_000, 120_000, "e")


def test_build_worklist_object_that_changes_while_it_is_listed_has_its_last_version(tmp_path):
    for number, day in enumerate((20, 22, 21)):
        rows = inventory_rows(["a.png"], ETag=f"version {number}", LastModifiedDate=datetime(2026, 11, day, tzinfo=UTC))
        write_inventory(f"{tmp_path}/{number}", "CSV", rows, files=1)
    inputs = [f"{tmp_path}/{number}/2026-11-22T01-00Z/manifest.json" for number in range(3)]
    _, rows = built(inputs, tmp_path / "out")
    assert rows["object_version"].to_pylist() == ["version 1"]
