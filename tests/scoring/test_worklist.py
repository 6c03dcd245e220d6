"""The worklist: what is listed, in which order, and what is left out; archives on local files and on S3."""

import io
import os
import tarfile
import warnings
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_ray import storage
from cxr_ray.config import LimitsConfig, ScoreConfig
from cxr_ray.errors import ConfigError, Fault
from cxr_ray.images.intake import Intake, decode_one
from cxr_ray.scoring.worklist import ABSENT, WORKLIST, Worklist, build_worklist
from tests.conftest import PREPROCESS, write_image
from tests.scoring.conftest import CONTRACT

KINDS = ("zip", "tar", "tar.gz")
SETTINGS = ScoreConfig()


pytestmark = pytest.mark.usefixtures("forget")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three films under names whose order in the archive is not the alphabet's."""
    path = tmp_path_factory.mktemp("films")
    names = ("b/film_2.png", "film_0.png", "a/film_1.png")
    return {name: write_image(path / name, seed=seed).read_bytes() for seed, name in enumerate(names)}


def packed(kind: str, files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w" if kind == "tar" else "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def listed(
    inputs: list[str], output: Path, *, limits: LimitsConfig | None = None, limit: int | None = None
) -> tuple[Worklist, list[dict[str, object]]]:
    """The worklist of the inputs, and its rows."""
    settings = ScoreConfig(limits=limits or LimitsConfig())
    work = build_worklist(inputs, str(output), CONTRACT, "run", config=settings, limit=limit)
    rows = read_todo(work)
    assert work.listed == work.already_done + work.deferred + rows.num_rows
    return work, rows.to_pylist()


def read_todo(work: Worklist) -> pa.Table:
    """The rows of a worklist, part by part."""
    parts = sorted(item.uri for item in storage.list_objects(work.uri, missing_ok=True))
    tables = [pq.read_table(io.BytesIO(storage.get(uri))) for uri in parts]
    return pa.concat_tables(tables) if tables else WORKLIST.empty_table()


def fault_of(row: dict[str, object], settings: ScoreConfig = SETTINGS) -> tuple[Fault | None, str | None]:
    decoded = decode_one(
        str(row["uri"]), str(row["object_version"]), Intake(PREPROCESS, settings.limits, settings.gate)
    )
    return decoded.fault, decoded.fault_detail


@pytest.mark.parametrize("kind", KINDS)
def test_build_worklist_archive_named_itself_one_row_per_member_in_its_order(folder, tmp_path, films, kind):
    uri = f"{folder}/night.{kind}"
    storage.put(uri, packed(kind, films))
    work, rows = listed([uri], tmp_path / "out")
    assert [row["uri"] for row in rows] == [f"{uri}!/{name}" for name in films]
    assert {row["object_version"] for row in rows} == {storage.stat(uri).version}
    assert [row["size"] for row in rows] == [len(data) for data in films.values()]
    assert work.left_out == 0
    assert [fault_of(row) for row in rows] == [(None, None)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_decode_one_member_same_model_input_as_the_plain_file(folder, tmp_path, films, kind):
    storage.put(f"{folder}/night.{kind}", packed(kind, films))
    storage.put(f"{folder}/plain.png", films["film_0.png"])
    plain = decode_one(f"{folder}/plain.png", "", Intake(PREPROCESS, SETTINGS.limits))
    member = decode_one(f"{folder}/night.{kind}!/film_0.png", "", Intake(PREPROCESS, SETTINGS.limits))
    assert (member.pixels == plain.pixels).all()


def test_build_worklist_folder_archives_and_files_together(folder, tmp_path, films):
    storage.put(f"{folder}/a.zip", packed("zip", films))
    storage.put(f"{folder}/b.png", films["film_0.png"])
    storage.put(f"{folder}/day 1/c.TGZ", packed("tgz", films))
    _, rows = listed([folder], tmp_path / "out")
    expected = [f"{folder}/a.zip!/{name}" for name in films] + [f"{folder}/b.png"]
    assert [row["uri"] for row in rows] == expected + [f"{folder}/day 1/c.TGZ!/{name}" for name in films]


def test_build_worklist_excluded_names_in_an_archive_left_out_and_counted(folder, tmp_path, films):
    sidecars = {"labels.CSV": b"uri\n", "notes/read me.txt": b"x", "__MACOSX/._film_0.png": b"x"}
    storage.put(f"{folder}/a.zip", packed("zip", films | sidecars))
    storage.put(f"{folder}/empty.tar", packed("tar", {}))
    storage.put(f"{folder}/tables.zip", packed("zip", {"a.csv": b"x", "b.csv": b"x"}))
    work, rows = listed([folder], tmp_path / "out")
    assert len(rows) == 3
    # Two in a.zip (resource forks are as invisible as hidden files), empty.tar itself, two in tables.zip.
    assert work.left_out == 5


def test_build_worklist_nothing_but_an_empty_archive_refused(tmp_path):
    storage.put(f"{tmp_path}/empty.zip", packed("zip", {}))
    with pytest.raises(ConfigError, match=r"There is no image file in .*empty\.zip \(1 files were left out"):
        listed([f"{tmp_path}/empty.zip"], tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_build_worklist_archive_that_cannot_be_listed_one_row_with_the_reason(folder, tmp_path, films, kind):
    storage.put(f"{folder}/bad.{kind}", packed(kind, films)[:700])
    storage.put(f"{folder}/good.{kind}", packed(kind, films))
    _, rows = listed([folder], tmp_path / "out")
    assert rows[0]["uri"] == f"{folder}/bad.{kind}"
    fault, detail = fault_of(rows[0])
    assert fault is Fault.BAD_ARCHIVE
    assert detail.startswith(f"{folder}/bad.{kind} ")
    assert [fault_of(row)[0] for row in rows[1:]] == [None] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_build_worklist_too_many_members_one_row_that_names_the_limit(tmp_path, films, kind):
    storage.put(f"{tmp_path}/many.{kind}", packed(kind, films))
    limits = LimitsConfig(archive_members=2)
    _, rows = listed([f"{tmp_path}/many.{kind}"], tmp_path / "out", limits=limits)
    assert len(rows) == 1
    fault, detail = fault_of(rows[0], ScoreConfig(limits=limits))
    assert fault is Fault.BAD_ARCHIVE
    assert "limits.archive_members = 2" in detail


@pytest.mark.parametrize("kind", KINDS)
def test_build_worklist_archive_inside_an_archive_one_row_for_it(tmp_path, films, kind):
    storage.put(
        f"{tmp_path}/outer.{kind}", packed(kind, {"a.png": films["film_0.png"], "in.zip": packed("zip", films)})
    )
    _, rows = listed([f"{tmp_path}/outer.{kind}"], tmp_path / "out")
    assert [row["uri"].rpartition("!/")[2] for row in rows] == ["a.png", "in.zip"]
    assert [fault_of(row)[0] for row in rows] == [None, Fault.BAD_ARCHIVE]


def test_build_worklist_members_of_the_same_name_one_row(tmp_path, films):
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.png", b"replaced")
        archive.writestr("./a.png", films["film_0.png"])
    storage.put(f"{tmp_path}/a.zip", target.getvalue())
    _, rows = listed([f"{tmp_path}/a.zip"], tmp_path / "out")
    assert [row["uri"] for row in rows] == [f"{tmp_path}/a.zip!/a.png"]
    assert rows[0]["size"] == len(films["film_0.png"])
    assert fault_of(rows[0]) == (None, None)


def test_build_worklist_changed_archive_new_versions(tmp_path, films):
    storage.put(f"{tmp_path}/a.zip", packed("zip", films))
    _, before = listed([f"{tmp_path}/a.zip"], tmp_path / "out")
    os.utime(tmp_path / "a.zip", ns=(7, 7))
    _, after = listed([f"{tmp_path}/a.zip"], tmp_path / "out")
    assert [row["uri"] for row in after] == [row["uri"] for row in before]
    assert {row["object_version"] for row in after}.isdisjoint(row["object_version"] for row in before)


@pytest.mark.parametrize("kind", KINDS)
def test_build_worklist_table_names_archives_members_and_files(folder, tmp_path, films, kind):
    storage.put(f"{folder}/whole.{kind}", packed(kind, films))
    storage.put(f"{folder}/part.{kind}", packed(kind, films | {"../up.png": films["film_0.png"]}))
    storage.put(f"{folder}/bad.{kind}", b"no archive")
    storage.put(f"{folder}/plain.png", films["film_0.png"])
    names = [f"part.{kind}!/film_0.png", f"part.{kind}!/./film_0.png", f"part.{kind}!/../up.png", f"part.{kind}!/gone"]
    names += [f"whole.{kind}", f"bad.{kind}!/x", f"absent.{kind}!/x", f"absent.{kind}", "plain.png"]
    table = tmp_path / "worklist.csv"
    pd.DataFrame({"uri": [f"{folder}/{name}" for name in names]}).to_csv(table, index=False)
    _, rows = listed([str(table)], tmp_path / "out")
    found = {row["uri"].removeprefix(f"{folder}/"): row for row in rows}
    faults = {name: fault_of(row)[0] for name, row in found.items()}
    assert faults == {
        f"part.{kind}!/film_0.png": None,
        f"part.{kind}!/../up.png": None,
        f"part.{kind}!/gone": Fault.NOT_FOUND,
        f"bad.{kind}!/x": Fault.BAD_ARCHIVE,
        f"absent.{kind}!/x": Fault.NOT_FOUND,
        f"absent.{kind}": Fault.NOT_FOUND,
        "plain.png": None,
        **{f"whole.{kind}!/{name}": None for name in films},
    }
    assert found[f"part.{kind}!/film_0.png"]["size"] == len(films["film_0.png"])
    assert found[f"absent.{kind}!/x"]["object_version"] == ABSENT


def test_build_worklist_member_named_as_input_one_row(folder, tmp_path, films):
    storage.put(f"{folder}/a.zip", packed("zip", films | {"labels.csv": b"uri\n"}))
    _, rows = listed([f"{folder}/a.zip!/film_0.png", f"{folder}/a.zip!/labels.csv"], tmp_path / "out")
    assert [row["uri"] for row in rows] == [f"{folder}/a.zip!/film_0.png", f"{folder}/a.zip!/labels.csv"]


def test_build_worklist_member_of_an_absent_archive_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"The input cannot be used: .*gone\.zip"):
        listed([f"{folder}/gone.zip!/a.png"], tmp_path / "out")


def test_build_worklist_overlapping_inputs_one_row_per_member(tmp_path, films):
    storage.put(f"{tmp_path}/in/a.zip", packed("zip", films))
    inputs = [f"{tmp_path}/in", f"{tmp_path}/in/a.zip", f"{tmp_path}/in/a.zip!/film_0.png"]
    _, rows = listed(inputs, tmp_path / "out")
    assert len(rows) == 3


def test_build_worklist_limit_takes_whole_order_from_the_first(tmp_path, films):
    storage.put(f"{tmp_path}/a.tar.gz", packed("tar.gz", films))
    work, rows = listed([f"{tmp_path}/a.tar.gz"], tmp_path / "out", limit=2)
    assert [row["uri"].rpartition("!/")[2] for row in rows] == list(films)[:2]
    assert work.deferred == 1
