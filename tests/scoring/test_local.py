"""Runs on one machine without Ray: the same rows as Ray's, and the same accounting whatever dies."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cxr_ray import storage
from cxr_ray.config import LimitsConfig, ScoreConfig
from cxr_ray.errors import BundleError, ConfigError, LeaseError, StoppedError
from cxr_ray.images.intake import Intake
from cxr_ray.models.ensemble import Ensemble, load_ensemble, load_ensemble_spec
from cxr_ray.scoring.engine import needs_ray
from cxr_ray.scoring.flow import Pending, regroup, spread
from cxr_ray.scoring.lease import Lease
from cxr_ray.scoring.local import Decoders, LocalEngine, LocalWork
from cxr_ray.scoring.run import RunResult, contract_of, score
from cxr_ray.scoring.table import read_scores
from cxr_ray.scoring.verify import verify
from cxr_ray.scoring.work import Job
from cxr_ray.scoring.worklist import WORKLIST
from tests.conftest import PREPROCESS, write_image

LOCAL = ScoreConfig(engine="local", rows_per_file=5, images_per_task=4, batch_size=4)


def run(
    archive: Path | str, bundle: str, output: Path | str, config: ScoreConfig = LOCAL, **options: object
) -> RunResult:
    return score([str(archive)], bundle=bundle, output=str(output), config=config, log=lambda line: None, **options)


def decoders_of(driver: int) -> list[psutil.Process]:
    """The decoding processes of a run."""
    children = psutil.Process(driver).children(recursive=True)
    return [child for child in children if "cxr_ray.images.isolation" in child.cmdline()]


def rows_of(output: Path) -> list[dict[str, object]]:
    """The rows in order of uri, without what no two runs share."""
    rows = read_scores(str(output))[0].sort_by("uri").to_pylist()
    return [{name: value for name, value in row.items() if name not in ("run_id", "scored_at", "date")} for row in rows]


def assert_equal(found: object, wanted: object, where: str) -> None:
    """Equal but for the rounding of other batches: numbers within 1e-6, cells of heat maps within one step of 255.

    The agreement of maps, each divided by its own maximum, differs by up to 2.5e-6 where they are as faint as here.
    """
    if isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            assert_equal(found[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(found, list)
        assert len(found) == len(wanted), where
        for number, pair in enumerate(zip(found, wanted, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-5 if where.endswith(".map_agreement") else 1e-6), where
    elif isinstance(wanted, bytes):
        maps = [np.frombuffer(value, np.uint8).astype(int) for value in (found, wanted)]
        assert np.abs(maps[0] - maps[1]).max() <= 1, where
    else:
        assert found == wanted, where


def test_score_memory_that_takes_no_whole_batch_scores_by_halves_and_says_so(archive, bundle, tmp_path, monkeypatch):
    expected = run(archive, bundle, tmp_path / "whole")
    plain = Ensemble.score

    def small(self, images, **how):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, images, **how)

    monkeypatch.setattr(Ensemble, "score", small)
    result = run(archive, bundle, tmp_path / "halves")
    assert (expected.reduced_to, result.reduced_to) == (None, 2)
    assert "The memory of a device did not take a whole batch: 2 images at a time; say batch_size=2 next time." in (
        result.lines()
    )
    (manifest,) = (tmp_path / "halves" / "runs").iterdir()
    assert json.loads(manifest.read_bytes())["images_per_pass"] == 2
    for found, wanted in zip(rows_of(tmp_path / "halves"), rows_of(tmp_path / "whole"), strict=True):
        assert_equal(found, wanted, str(wanted["uri"]))


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_score_in_bf16_is_near_and_says_so(archive, bundle, tmp_path, engine):
    run(archive, bundle, tmp_path / "fp32")
    config = LOCAL.model_copy(update={"engine": engine, "precision": "bf16", "actors": 1})
    run(archive, bundle, tmp_path / "bf16", config)
    (manifest,) = (tmp_path / "bf16" / "runs").iterdir()
    assert json.loads(manifest.read_bytes())["precision"] == "bf16"
    exact, fast = (
        np.array([row["member_probabilities"] for row in rows_of(tmp_path / name) if row["status"] == "scored"])
        for name in ("fp32", "bf16")
    )
    np.testing.assert_allclose(fast, exact, atol=1e-2)
    assert (fast != exact).any()


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_score_by_onnx_gives_the_rows_of_torch_and_says_so(archive, bundle, tmp_path, engine):
    run(archive, bundle, tmp_path / "torch")
    config = LOCAL.model_copy(
        update={"engine": engine, "runtime": "onnx", "actors": 1, "onnx_cache": str(tmp_path / "graphs")}
    )
    result = run(archive, bundle, tmp_path / "onnx", config)
    assert (result.listed, result.scored, result.faulted) == (13, 10, 3)
    (manifest,) = (tmp_path / "onnx" / "runs").iterdir()
    assert json.loads(manifest.read_bytes())["runtime"] == "onnx"
    for found, wanted in zip(rows_of(tmp_path / "onnx"), rows_of(tmp_path / "torch"), strict=True):
        assert_equal(found, wanted, str(wanted["uri"]))


@pytest.mark.usefixtures("ray_local")
def test_score_local_gives_the_rows_of_ray(archive, bundle, tmp_path):
    config = LOCAL.model_copy(update={"heatmaps": "all"})
    result = run(archive, bundle, tmp_path / "local", config)
    assert (result.listed, result.scored, result.faulted, result.left_out) == (13, 10, 3, 2)
    assert verify(str(tmp_path / "local")).problems == ()
    on_ray = run(archive, bundle, tmp_path / "ray", config.model_copy(update={"engine": "ray", "actors": 1}))
    for engine in ("local", "ray"):
        (manifest,) = (tmp_path / engine / "runs").iterdir()
        assert json.loads(manifest.read_text())["engine"] == engine
    assert on_ray.faults == result.faults
    found, wanted = rows_of(tmp_path / "local"), rows_of(tmp_path / "ray")
    assert len(found) == 13
    for one, other in zip(found, wanted, strict=True):
        assert_equal(one, other, str(other["uri"]))


def test_score_local_imports_neither_ray_nor_sklearn(archive, bundle, tmp_path):
    code = (
        "import sys; from cxr_ray.cli import app;"
        "app(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'ray', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ["score", str(archive), "--ensemble", bundle, "--output", str(tmp_path / "out"), "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
    assert "decoding processes" in done.stderr


def test_score_local_first_file_comes_early_and_the_rest_as_asked(bundle, tmp_path):
    for number in range(30):
        write_image(tmp_path / "archive" / f"{number}.png", seed=number)
    run(tmp_path / "archive", bundle, tmp_path / "out", LOCAL.model_copy(update={"rows_per_file": 20}))
    files = (tmp_path / "out" / "scores").rglob("*.parquet")
    sizes = [
        pa.parquet.read_metadata(path).num_rows for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)
    ]
    assert sizes == [4, 20, 6]


def test_score_local_from_object_storage_to_object_storage(archive, bundle, s3):
    for path in archive.rglob("*"):
        if path.is_file():
            storage.put(f"{s3}/{path.relative_to(archive)}", path.read_bytes())
    result = run(s3, bundle, "s3://bucket/out")
    assert (result.listed, result.scored, result.faulted) == (13, 10, 3)
    assert run(s3, bundle, "s3://bucket/out").already_done == 13
    assert verify("s3://bucket/out").problems == ()


def test_score_local_by_pytorch_grad_cam_one_thread(archive, bundle, tmp_path):
    result = run(archive, bundle, tmp_path / "out", LOCAL.model_copy(update={"heatmap_method": "layercam"}))
    assert (result.scored, result.faulted) == (10, 3)


def test_score_local_leaves_no_process_and_puts_the_threads_of_torch_back(archive, bundle, tmp_path):
    before = torch.get_num_threads()
    with pytest.raises(BundleError):
        run(archive, str(tmp_path / "absent"), tmp_path / "out")
    with pytest.raises(LeaseError):
        run(archive, bundle, tmp_path / "lost", prepare=lambda: (tmp_path / "lost" / "lease.json").unlink())
    run(archive, bundle, tmp_path / "out")
    assert torch.get_num_threads() == before
    assert decoders_of(os.getpid()) == []


def test_score_local_decoder_killed_from_outside_its_block_is_done_again(bundle, tmp_path):
    for number in range(60):
        write_image(tmp_path / "archive" / f"{number:02d}.png", seed=number)
    killed = []

    def kill_one(line: str) -> None:
        found = [] if killed else decoders_of(os.getpid())
        for child in found[:1]:
            child.kill()
            killed.append(child.pid)

    config = LOCAL.model_copy(update={"progress_every": 0.5, "batch_size": 1})
    output = str(tmp_path / "out")
    result = score([str(tmp_path / "archive")], bundle=bundle, output=output, config=config, log=kill_one)
    assert killed
    assert (result.listed, result.scored, result.faulted) == (60, 60, 0)
    assert verify(output).problems == ()


def test_over_local_stop_set_raises_after_the_first_result():
    from threading import Event

    stop, seen = Event(), []

    def note(result: int) -> None:
        seen.append(result)
        stop.set()

    numbers = itertools.count()
    with pytest.raises(StoppedError, match="before anything was scored"):
        LocalEngine().over(lambda number: number, ((n,) for n in numbers), note, stores=LOCAL.storage, stop=stop)
    assert len(seen) == 1
    assert next(numbers) < 100


def test_spread_draws_no_further_ahead_than_asked_and_hands_errors_on():
    drawn, taken = [], []

    def arguments() -> itertools.count:
        for number in range(40):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(2) as threads:
        for result in arriving(spread(threads, lambda number: number, arguments(), ahead=3)):
            taken.append(result)
            assert len(drawn) - len(taken) <= 3
        assert sorted(taken) == list(range(40))
        with pytest.raises(ZeroDivisionError):
            list(arriving(spread(threads, lambda number: 1 // number, [3, 0, 3], ahead=1)))


def arriving(results: Iterator[object]) -> Iterator[object]:
    """What a stage yields, waited for."""
    for result in results:
        if isinstance(result, Pending):
            wait(result.calls, return_when=FIRST_COMPLETED)
        else:
            yield result


@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize(
    ("how", "ended"), [("stopped", "StoppedError"), ("interrupted", "KeyboardInterrupt")], ids=["SIGTERM", "Ctrl-C"]
)
def test_over_local_waits_for_no_call_when_it_is_to_end(how, ended):
    code = """
        import os, signal, sys, threading
        from cxr_ray.config import StorageConfig
        from cxr_ray.errors import StoppedError
        from cxr_ray.scoring.local import LocalEngine

        stop = threading.Event()

        def call(how):
            os.kill(os.getpid(), signal.SIGINT) if how == "interrupted" else stop.set()
            threading.Event().wait()  # for a store that never answers

        try:
            LocalEngine().over(call, [(sys.argv[1],)], print, stores=StorageConfig(), stop=stop)
        except (KeyboardInterrupt, StoppedError) as error:
            print(type(error).__name__)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ended}\n", "")


def job_of(films: list[Path], bundle: str, output: Path, config: ScoreConfig = LOCAL) -> Job:
    """A job of these films, listed by hand."""
    rows = [{"uri": storage.absolute(str(film)), "object_version": "", "size": 1, "modified": None} for film in films]
    output.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=WORKLIST), output / "part.parquet")
    return Job(
        parts=(storage.absolute(str(output / "part.parquet")),),
        todo=len(films),
        bundle=bundle,
        contract=contract_of(load_ensemble_spec(bundle)),
        preprocess=PREPROCESS,
        config=config,
        output=storage.absolute(str(output)),
        run_id="run",
        rows_per_file=5,
    )


@pytest.fixture
def stalled(bundle, tmp_path):
    """Work on 16 films in blocks of 4, of which the second waits for a film; the named pipe it comes by; the film."""
    films = [write_image(tmp_path / "films" / f"{number:02d}.png", seed=number) for number in range(16)]
    data = films[4].read_bytes()
    films[4].unlink()
    os.mkfifo(films[4])
    job = job_of(films, bundle, tmp_path / "out")
    with Lease(job.output, "run", seconds=30.0, log=print):
        yield LocalWork(job, load_ensemble(bundle), cores=1), films[4], data


@pytest.mark.timeout(240)
def test_summaries_first_file_is_written_while_the_second_batch_is_decoded(stalled):
    work, pipe, data = stalled
    summaries = work.summaries()
    assert next(summaries)["scored"] == 4
    pipe.write_bytes(data)
    assert [summary["scored"] for summary in summaries] == [5, 5, 2]


@pytest.mark.timeout(240)
def test_summaries_nothing_is_decoded_that_was_not_begun_when_the_run_drains(stalled):
    work, pipe, data = stalled
    summaries = work.summaries()
    assert next(summaries)["scored"] == 4
    with pipe.open("wb") as file:  # returns when the second block is begun
        work.meter.drain()
        file.write(data)
    assert [summary["scored"] for summary in summaries] == [4]
    assert work.meter.read()["images"]["decode"] == 8


@pytest.mark.parametrize(
    ("device", "changes", "scorers"),
    [
        ("cpu", {}, 4),
        ("cpu", {"actors": 3}, 3),
        ("cuda", {}, 2),
        ("cuda", {"actors": 1}, 1),
        ("cuda", {"heatmaps": "none", "heatmap_method": "layercam"}, 2),
        ("cuda", {"heatmap_method": "layercam"}, 1),
        ("cpu", {"heatmap_method": "layercam"}, 1),
    ],
)
def test_local_work_threads_for_the_ensemble(device, changes, scorers, bundle, tmp_path):
    job = job_of([tmp_path / f"{number}.png" for number in range(40)], bundle, tmp_path / "out")
    ensemble = replace(load_ensemble(bundle), device=torch.device(device))
    work = LocalWork(replace(job, config=LOCAL.model_copy(update=changes)), ensemble, cores=4)
    assert work.scorers == scorers
    assert f" {scorers} ensemble threads on {device}, 4 CPUs." in work.words
    assert work.slots["ensemble"] == (scorers if device == "cuda" else 1)


@pytest.mark.parametrize(("units", "said"), [(False, True), (True, False)])
def test_local_work_in_bf16_says_where_it_is_slow(units, said, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": units})
    job = job_of([tmp_path / "a.png"], bundle, tmp_path / "out")
    work = LocalWork(job, load_ensemble(bundle, precision="bf16"), cores=1)
    assert ("This CPU has no bfloat16 units: bf16 is slower here than fp32." in work.words) is said


def test_begin_cores_are_those_that_the_container_may_use(bundle, tmp_path, monkeypatch):
    quota, plain, exists = "/sys/fs/cgroup/cpu.max", open, os.path.exists
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr("os.path.exists", lambda path: path == quota or exists(path))
    monkeypatch.setattr(
        "builtins.open", lambda file, *how, **more: plain(tmp_path / "cpu.max" if file == quota else file, *how, **more)
    )
    engine = LocalEngine()
    engine.load(bundle, LOCAL)
    work = engine.begin(job_of([tmp_path / f"{number}.png" for number in range(40)], bundle, tmp_path / "out"))
    assert work.words == "On this machine: 3 decoding processes, 3 ensemble threads on cpu, 3 CPUs."


def test_decoders_child_that_starts_while_they_end_does_not_do_its_block(tmp_path, monkeypatch):
    film, plain, ends = write_image(tmp_path / "a.png", seed=0), subprocess.Popen, []

    def start(*given, **how):
        process = plain(*given, **how)
        if not ends:
            ends.append(Thread(target=decoders.__exit__, args=(None, None, None)))
            ends[0].start()
            with suppress(RuntimeError):
                while True:  # until they take nothing more: all other children were told to end by then
                    decoders.threads.submit(int)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    decoders = Decoders(1, Intake(PREPROCESS, LimitsConfig()), draining=lambda: False)
    block = decoders.threads.submit(decoders.decode, [(storage.absolute(str(film)), "", 1)])
    with pytest.raises(StoppedError):
        block.result()
    ends[0].join()


@pytest.mark.parametrize(
    ("rows", "sizes", "wanted"),
    [
        ((), (4,), []),
        ((0, 0), (4,), []),
        ((3,), (4,), [3]),
        ((3, 9, 1), (2, 5), [2, 5, 5, 1]),
        ((10,), (5,), [5, 5]),
    ],
)
def test_regroup_keeps_all_rows_in_order(rows, sizes, wanted):
    numbers = iter(range(sum(rows)))
    tables = [pa.table({"n": pa.array(itertools.islice(numbers, count), pa.int64())}) for count in rows]
    found = list(regroup(tables, itertools.chain(sizes, itertools.repeat(sizes[-1]))))
    assert [table.num_rows for table in found] == wanted
    assert [n for table in found for n in table["n"].to_pylist()] == list(range(sum(rows)))


def test_needs_ray_where_a_cluster_is_named_or_asked_for_or_there_are_several_gpus(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not needs_ray("auto", None)
    assert needs_ray("auto", "auto")
    assert needs_ray("ray", None)
    assert not needs_ray("local", None)
    with pytest.raises(ConfigError, match="leave out --address"):
        needs_ray("local", "auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert needs_ray("auto", None), "one process would leave a GPU idle"
    assert not needs_ray("local", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not needs_ray("auto", None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert needs_ray("auto", None)
    assert not needs_ray("local", None)
