"""Whole scoring runs: accounting, what is new work, and what is refused."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import ray
import ray.data
import torch

from cxr_ray import storage
from cxr_ray.config import ScoreConfig
from cxr_ray.errors import BundleError, ConfigError
from cxr_ray.models.ensemble import load_ensemble_spec
from cxr_ray.scoring.pipeline import actor_options, make_plan
from cxr_ray.scoring.run import RunResult, score
from cxr_ray.scoring.table import read_scores
from cxr_ray.scoring.verify import verify
from tests.conftest import make_bundle, write_image

pytestmark = pytest.mark.usefixtures("ray_local")
FAST = ScoreConfig(rows_per_file=5, images_per_task=4, batch_size=4, actors=1)


@pytest.fixture(params=["local", "ray"])
def fast(request: pytest.FixtureRequest) -> ScoreConfig:
    """FAST on either engine."""
    return FAST.model_copy(update={"engine": request.param})


def run(archive: Path | str, bundle: str, output: Path, config: ScoreConfig = FAST, **options: object) -> RunResult:
    inputs = [str(archive)] if isinstance(archive, Path | str) else archive
    lines: list[str] = []
    return score(inputs, bundle=bundle, output=str(output), config=config, log=lines.append, **options)


def statuses(output: Path) -> Counter[str]:
    table, _ = read_scores(str(output), wanted=["status"])
    return Counter(table["status"].to_pylist())


def test_score_good_and_bad_files_one_accounted_row_each(fast, archive, bundle, tmp_path):
    result = run(archive, bundle, tmp_path / "out", fast)
    assert (result.listed, result.scored, result.faulted, result.left_out) == (13, 10, 3, 2)
    assert result.faults == {"corrupt": 1, "empty_file": 1, "not_an_image": 1}
    assert result.adds_up
    table, contract = read_scores(str(tmp_path / "out"))
    assert table.num_rows == 13
    assert contract.ensemble_digest == load_ensemble_spec(bundle).digest
    assert verify(str(tmp_path / "out")).problems == ()
    manifest = json.loads(next((tmp_path / "out" / "runs").iterdir()).read_text())
    assert manifest["counts"]["listed"] == 13
    assert set(manifest["cpu_seconds_by_stage"]) == {"fetch", "decode", "ensemble", "write"}


def test_score_same_command_again_does_nothing_and_says_so(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out")
    before = sorted(item.uri for item in storage.list_objects(str(tmp_path / "out" / "scores")))
    again = run(archive, bundle, tmp_path / "out")
    assert (again.scored, again.faulted, again.already_done) == (0, 0, 13)
    assert "Nothing new" in again.lines()[0]
    assert sorted(item.uri for item in storage.list_objects(str(tmp_path / "out" / "scores"))) == before


def test_score_new_and_changed_images_are_the_only_work(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out")
    write_image(archive / "site 0" / "film_0.png", seed=99)
    os.utime(archive / "site 0" / "film_0.png", ns=(7, 7))
    write_image(archive / "late.png", seed=100)
    second = run(archive, bundle, tmp_path / "out")
    assert (second.listed, second.already_done, second.scored) == (14, 12, 2)
    table, _ = read_scores(str(tmp_path / "out"), wanted=["uri", "object_version"])
    assert table.num_rows == len(set(table["uri"].to_pylist())) == 14
    assert verify(str(tmp_path / "out")).problems == ()


def test_score_limit_leaves_the_rest_for_later(archive, bundle, tmp_path):
    first = run(archive, bundle, tmp_path / "out", limit=4)
    assert (first.scored + first.faulted, first.deferred) == (4, 9)
    assert first.adds_up
    second = run(archive, bundle, tmp_path / "out")
    assert (second.already_done, second.scored + second.faulted) == (4, 9)


def test_score_interrupted_run_is_completed_without_doubling(fast, archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out", fast, limit=8)
    # What a killed driver leaves behind: score files and a worklist, but no run manifest.
    for item in (tmp_path / "out" / "runs").iterdir():
        item.unlink()
    files = sorted((tmp_path / "out" / "scores").rglob("*.parquet"))
    files[0].unlink()
    lost = verify(str(tmp_path / "out"))
    assert len(lost.problems) == 1
    assert "have no row" in lost.problems[0]
    second = run(archive, bundle, tmp_path / "out", fast)
    assert second.already_done + second.scored + second.faulted == 13
    assert 0 < second.already_done < 8
    assert statuses(tmp_path / "out") == {"scored": 10, "faulted": 3}
    assert verify(str(tmp_path / "out")).problems == ()


def test_score_overlapping_inputs_and_worklists_give_one_row_per_image(archive, bundle, tmp_path):
    worklist = tmp_path / "worklist.csv"
    film = archive / "site 1" / "film_1.png"
    pd.DataFrame({"uri": [str(film), str(film), str(tmp_path / "gone.png")]}).to_csv(worklist, index=False)
    result = run([str(archive / "site 1"), str(worklist)], bundle, tmp_path / "out")
    assert (result.listed, result.scored, result.faults) == (6, 5, {"not_found": 1})


def test_score_table_reads_the_same_in_pandas_duckdb_and_polars(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out", ScoreConfig(actors=1, heatmaps="all"))
    scores = tmp_path / "out" / "scores"
    by_pandas = pd.read_parquet(scores).sort_values("uri")
    files = f"read_parquet('{scores}/**/*.parquet', hive_partitioning = true)"
    query = f"select uri, probability_Mass, len(findings) as n, date from {files} order by uri"
    by_duckdb = duckdb.sql(query).df()
    by_polars = polars.read_parquet(scores, hive_partitioning=True).sort("uri")
    (day,) = scores.iterdir()
    assert day.name == f"date={datetime.now(UTC):%Y-%m-%d}"
    for dates in (by_pandas["date"], by_duckdb["date"], by_polars["date"].to_pandas()):
        assert set(pd.to_datetime(dates.astype(str))) == {pd.Timestamp(day.name.removeprefix("date="))}
    np.testing.assert_allclose(by_pandas["probability_Mass"], by_duckdb["probability_Mass"])
    np.testing.assert_allclose(by_pandas["probability_Mass"], by_polars["probability_Mass"].to_numpy())
    assert by_duckdb["n"].dropna().eq(5).all()


def test_score_output_of_another_ensemble_is_refused_unless_asked(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out", limit=3)
    other = make_bundle(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"holds scores of ensemble .* choose another --output, or add --rescore"):
        run(archive, other, tmp_path / "out")
    result = run(archive, other, tmp_path / "out", rescore=True)
    assert (result.already_done, result.scored) == (0, 10)
    with pytest.raises(ConfigError, match="choose one with --ensemble-digest"):
        read_scores(str(tmp_path / "out"))
    assert verify(str(tmp_path / "out")).ensembles == 2


def test_score_output_of_other_findings_is_always_refused(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out", limit=1)
    other = make_bundle(tmp_path / "other", findings=("Mass", "Hernia"))
    with pytest.raises(ConfigError, match="holds scores for other findings"):
        run(archive, other, tmp_path / "out", rescore=True)


def test_score_empty_folder_is_refused(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="There is no image file in"):
        run(tmp_path / "empty", bundle, tmp_path / "out")


def test_score_absent_input_is_refused(bundle, tmp_path):
    with pytest.raises(ConfigError, match=r"There is nothing at .*absent"):
        run(tmp_path / "absent", bundle, tmp_path / "out")


def test_score_unwritable_output_is_refused(archive, bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"The output cannot be used: .* Choose another --output"):
        run(archive, bundle, tmp_path / "file" / "out")


def test_score_bundle_with_missing_member_is_refused(archive, bundle, tmp_path):
    spoilt = shutil.copytree(bundle, tmp_path / "spoilt")
    shutil.rmtree(spoilt / "members" / "c")
    with pytest.raises(BundleError, match="lacks a member"):
        run(archive, str(spoilt), tmp_path / "out")


def test_score_bundle_that_scores_differently_here_is_refused(archive, bundle, tmp_path):
    spoilt = shutil.copytree(bundle, tmp_path / "spoilt")
    path = spoilt / "golden" / "scores.json"
    values = json.loads(path.read_text())
    values["member_probabilities"][0][0] += 0.3
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"scores differently on cpu by 0\.3"):
        run(archive, str(spoilt), tmp_path / "out")


def test_verify_row_removed_or_doubled_is_found(archive, bundle, tmp_path):
    run(archive, bundle, tmp_path / "out")
    files = sorted((tmp_path / "out" / "scores").rglob("*.parquet"))
    shutil.copy(files[0], files[0].with_name("again.parquet"))
    assert any("more than one row" in problem for problem in verify(str(tmp_path / "out")).problems)
    files[0].with_name("again.parquet").unlink()
    files[0].unlink()
    assert any("have no row" in problem for problem in verify(str(tmp_path / "out")).problems)


def test_score_patient_key_is_a_hash_only_with_a_key(fast, bundle, tmp_path, monkeypatch):
    from pydicom.data import get_testdata_file

    folder = tmp_path / "films"
    folder.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), folder / "ct.dcm")
    config = fast.model_copy(update={"gate": fast.gate.model_copy(update={"modalities": ("CT",)})})
    run(folder, bundle, tmp_path / "out", config)
    table, _ = read_scores(str(tmp_path / "out"), wanted=["patient_key", "status"])
    assert table.to_pylist() == [{"patient_key": None, "status": "scored"}]
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"CompressedSamples" not in written


def test_score_archives_beside_files_one_row_per_member(fast, archive, bundle, tmp_path):
    """The same ten films as files, in a zip, a tar and a tar.gz; and a CT as DICOM, a damaged zip and an empty one."""
    from pydicom.data import get_testdata_file

    for kind in ("zip", "tar", "gztar"):
        shutil.make_archive(str(tmp_path / "packed"), kind, root_dir=archive)
    for path in tmp_path.glob("packed.*"):
        shutil.move(path, archive / path.name)
    (archive / "damaged.zip").write_bytes((archive / "packed.zip").read_bytes()[:2_000])
    with zipfile.ZipFile(archive / "ct.zip", "w") as ct:
        ct.write(get_testdata_file("CT_small.dcm"), "study/CT000001")
    zipfile.ZipFile(archive / "empty.zip", "w").close()
    result = run(archive, bundle, tmp_path / "out", fast)
    assert (result.listed, result.scored, result.faulted) == (4 * 13 + 2, 4 * 10, 4 * 3 + 2)
    assert result.left_out == 4 * 2 + 1
    assert result.faults == {"corrupt": 4, "empty_file": 4, "not_an_image": 4, "bad_archive": 1, "wrong_modality": 1}
    table, _ = read_scores(str(tmp_path / "out"), wanted=["uri", "object_version", "probability_Mass"])
    frame = table.to_pandas().set_index("uri")
    film = "site 1/film_1.png"
    places = [str(archive / film), *(f"{archive}/packed.{kind}!/{film}" for kind in ("zip", "tar", "tar.gz"))]
    np.testing.assert_allclose(
        frame.loc[places, "probability_Mass"], frame.loc[places[0], "probability_Mass"], rtol=1e-5
    )
    assert frame.loc[places[1], "object_version"] == storage.stat(str(archive / "packed.zip")).version
    assert verify(str(tmp_path / "out")).problems == ()
    again = run(archive, bundle, tmp_path / "out", fast)
    assert (again.already_done, again.scored + again.faulted) == (4 * 13 + 2, 0)
    os.utime(archive / "packed.tar", ns=(7, 7))
    changed = run(archive, bundle, tmp_path / "out", fast)
    assert (changed.already_done, changed.scored, changed.faulted) == (3 * 13 + 2, 10, 3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the others do not know these options")
def test_actor_options_an_actor_keeps_the_memory_of_its_batches():
    class Counting:
        def __call__(self, batch: pa.Table) -> pa.Table:
            faults = []
            for _ in range(12):
                held = [torch.empty(2**26, dtype=torch.uint8).fill_(1) for _ in range(4)]
                faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
                del held
            return pa.table({"faults": [faults[-1] - faults[-2]]})

    plan = make_plan(ScoreConfig(actors=1), {"CPU": 2})
    counted = ray.data.range(1).map_batches(Counting, batch_format="pyarrow", **actor_options(plan)).take_all()
    assert counted[0]["faults"] < 6_500  # of 65,536 pages; the heap of a worker may still grow by some


@pytest.mark.parametrize("module", ["cxr_ray.scoring.tasks", "cxr_ray.training.board"])
def test_what_processes_without_a_network_import_knows_no_torch(module: str):
    program = f"import sys; import {module}; print(sorted({{'torch', 'timm', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_make_plan_leaves_a_cpu_for_ray_data_and_uses_every_gpu():
    for cpus in (2, 3, 8, 64):
        plan = make_plan(ScoreConfig(), {"CPU": cpus})
        assert plan.actors == cpus
        assert plan.actors * plan.actor_cpus <= cpus - 1 + 1e-9
    plan = make_plan(ScoreConfig(), {"CPU": 32, "GPU": 4})
    assert (plan.actors, plan.actor_gpus, plan.device) == (4, 1.0, "cuda")
    with pytest.raises(ConfigError, match="at least 2 CPUs"):
        make_plan(ScoreConfig(), {"CPU": 1})


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [([2, 2], 0), ([2, 2], 2), ([1, 1, 1], 0), ([1, 1], 0), ([3, 1, 1], 0), ([4, 2, 2], 0), ([8] * 3, 6), ([2] * 9, 9)],
)
def test_make_plan_a_whole_cpu_is_free_on_one_node_however_the_actors_lie(nodes, gpus):
    plan = make_plan(ScoreConfig(), {"CPU": sum(nodes), "GPU": gpus}, nodes=len(nodes))
    cells = [int(cpus / plan.actor_cpus + 1e-9) for cpus in nodes]  # actors that fit on each
    ways = [way for way in product(*(range(cell + 1) for cell in cells[:4])) if sum(way) <= plan.actors]
    for way in ways if len(nodes) <= 4 else [(1,) * len(nodes)]:
        if sum(way) == plan.actors:
            free = [cpus - there * plan.actor_cpus for cpus, there in zip(nodes, way, strict=True)]
            assert max(free) >= 1 - 1e-9, way
    assert plan.actors >= 1


def test_make_plan_gpu_nodes_of_one_cpu_are_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"^4 nodes have 4 CPUs in all; give one of them more than one CPU\.$"):
        make_plan(ScoreConfig(), {"CPU": 4, "GPU": 4}, nodes=4)
