"""The command line by its output and exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from typer.testing import CliRunner, Result

from cxr_ray import __version__, storage
from cxr_ray.cli import app
from cxr_ray.scoring.table import read_scores
from tests.conftest import write_image
from tests.images.dicom_files import build_dicom


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments: str | Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, in a process of its own with a Ray of its own."""
    command = [sys.executable, "-m", "cxr_ray.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    for name in (
        "demo",
        "train",
        "scan",
        "score",
        "verify",
        "evaluate",
        "calibrate",
        "audit",
        "drift",
        "report",
        "export",
    ):
        assert f" {name} " in result.output


def test_version_is_the_package_s():
    assert call("--version").output == f"cxr-ray {__version__}\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from cxr_ray.cli import app;"
        "CliRunner().invoke(app, ['--help']);"
        "print(sorted({'ray', 'torch', 'timm', 'sklearn', 'joblib', 'pandas', 'pyarrow', 'duckdb', 'numpy', 'scipy',"
        " 'boto3', 'pydicom', 'PIL', 'cv2', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent.yaml"], "Error: The configuration absent.yaml cannot be read (No such file or directory);"),
        (["score", "x", "--ensemble", "e", "--output", "o", "--set", "batch=1"], "batch: Extra inputs"),
        (["score", "x", "--ensemble", "e", "--output", "o", "--heatmaps", "some"], "heatmaps: Input should be"),
        (["scan", "absent"], "Error: The input cannot be used: There is nothing at"),
        (["scan", "x", "--cpus", "0"], "Error: The command line cannot be used: cpus: Input should be greater than 0"),
        (["scan", "x", "--set", "gate.side=1"], "gate.side: Extra inputs"),
        (["scan", "x", "-o", "rows.txt"], "--output takes a file that ends in .parquet or .csv, not rows.txt."),
        (["verify", "absent"], "holds no scores; run `cxr-ray score` with this --output first."),
        (["report", "absent"], "holds no scores"),
        (["evaluate", "absent", "--manifest", "x.csv"], "holds no scores"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_train_dry_run_prints_the_class_table_and_starts_neither_ray_nor_a_run(tmp_path):
    rows = ["uri,patient_id,part,Mass"]
    for number in range(12):
        write_image(tmp_path / f"{number}.png", seed=number)
        rows.append(f"{number}.png,{number},{'train' if number < 8 else 'validation'},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    values = {
        "manifest": {"path": str(tmp_path / "labels.csv"), "part_column": "part", "findings": ["Mass"]},
        "members": [{"name": "a", "backbone": "test_resnet"}],
        "decode": {"preprocess": {"size": 48}},
        "optimize": {"epochs": 2, "batch_size": 4},
    }
    (tmp_path / "train.json").write_text(json.dumps(values))  # JSON is YAML
    running = ray.is_initialized()  # another test's; a second start beside it would fail
    result = call("train", tmp_path / "train.json", "--dry-run", "--output", tmp_path / "out")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["finding", "train", "validation", "weight"]
    assert lines[2].split() == ["Mass", "4", "50.00%", "2", "50.00%", "1.00"]
    assert lines[-1] == "Nothing was started and nothing was written."
    assert not (tmp_path / "out").exists()
    assert ray.is_initialized() == running
    compared = call(
        "train", tmp_path / "train.json", "--dry-run", "--compare", "bce,focal", "--output", tmp_path / "out"
    )
    assert compared.exit_code == 0
    assert [line.split(":")[0] for line in compared.stdout.splitlines()[4:6]] == ["a with bce", "a with focal"]
    assert not (tmp_path / "out").exists()
    few = call("train", tmp_path / "train.json", "--dry-run", "--set", "compute.workers=5")
    assert few.exit_code == 2
    assert few.stderr.splitlines()[-1].startswith("Error: 5 workers share 8 training images in batches of 4:")


def test_scan_small_folder_says_what_is_there(tmp_path):
    film = np.add.outer(np.arange(400, dtype=np.uint16) * 10, np.arange(500, dtype=np.uint16))
    (tmp_path / "a.dcm").write_bytes(build_dicom(film, bits_stored=13, Manufacturer="GE Healthcare"))
    (tmp_path / "b.dcm").write_bytes(build_dicom(film, bits_stored=13, BodyPartExamined="KNEE"))
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    result = call("scan", tmp_path)
    assert result.exit_code == 0
    assert "3 of 3 headers (2 faults expected)" in result.stderr
    assert (
        re.sub(r"[\d.]+ s\.$", "T s.", result.stdout, flags=re.MULTILINE)
        == f"""\
3 objects of 801.0 kB in {tmp_path} (1 files left out by their names).
Read 131.1 kB (16.4%) in 2 requests, T s.
format
           2  dicom
           1  none of DICOM, PNG, JPEG, TIFF
transfer syntax
           2  Explicit VR Little Endian (1.2.840.10008.1.2.1)
modality
           2  DX
view
           2  PA
body part
           1  CHEST
           1  KNEE
manufacturer
           1  GE
           1  not stated
photometric interpretation
           2  MONOCHROME2
bits stored
           2  13
megapixels
              p5 0.2, p50 0.2, p95 0.2, largest 0.2
expected to be scored: 1 of 3; expected faults
           1  wrong_body_part, e.g. {tmp_path}/b.dcm
           1  empty_file, e.g. {tmp_path}/c.png
cannot be decoded here
           0
not checked in headers
              Whether an image is blank, flat or a page of text is seen in its pixels only.
estimate of scoring 1 images, 0.2 megapixels
       0.0 s  of one core to fetch all objects
       0.0 s  of one core to decode
       0.0 s  of one GPU for the ensemble, at 150 images/s
       0.5 s  of one core for it instead, at 2 images/s
              wall time: 0.0 s on 16 cores and 1 GPU, 0.0 s on 16 cores without a GPU
              An estimate, no measurement: decoding as measured on another machine, and an assumed speed
              of the paper's five members; say yours with --gpu-images-per-second, --cpus and --gpus.
"""
    )


def test_scan_json_is_one_object_and_too_many_expected_faults_are_exit_code_3(tmp_path):
    write_image(tmp_path / "in" / "a.png", seed=0)
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    rows = tmp_path / "rows.csv"
    arguments = ("--json", "--gpus", "4", "--set", "max_fault_share=0.4", "-o", rows)
    result = call("scan", tmp_path / "in", *arguments)
    assert result.exit_code == 3
    values = json.loads(result.stdout)
    assert values["expected"] == {"scored": 1, "faulted": 1}
    assert values["expected_faults"]["not_an_image"]["example"] == str(tmp_path / "in" / "b.png")
    assert values["estimate"]["assumptions"]["gpus"] == 4
    assert values["output"] == str(rows)
    assert len(rows.read_text().splitlines()) == 3


def test_scan_imports_neither_ray_nor_torch(tmp_path):
    write_image(tmp_path / "a.png", seed=0)
    code = (
        "import sys; from typer.testing import CliRunner; from cxr_ray.cli import app;"
        f"assert CliRunner().invoke(app, ['scan', {str(tmp_path)!r}]).exit_code == 0;"
        "print(sorted({'ray', 'torch', 'timm'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.slow
def test_score_verify_evaluate_and_report_one_after_the_other(archive, bundle, tmp_path):
    out = tmp_path / "out"
    scored = run("score", archive, "--ensemble", bundle, "--output", out, "--json", "--set", "max_fault_share=0.5")
    assert scored.returncode == 0, scored.stderr
    values = json.loads(scored.stdout)
    assert (values["listed"], values["scored"], values["faulted"]) == (13, 10, 3)
    assert "13 of 13 images written (3 faulted)" in scored.stderr
    assert "images/s" in scored.stderr
    again = run("score", archive, "--ensemble", bundle, "--output", out)
    assert again.returncode == 0
    assert again.stdout.startswith("Nothing new: all 13 images listed have a row")
    assert "adds up: 10 scored + 3 faulted rows" in call("verify", out).output
    labels = tmp_path / "labels.csv"
    films = sorted(archive.rglob("film_*.png"))
    labels.write_text("uri,Mass\n" + "".join(f"{film},{number % 2}\n" for number, film in enumerate(films)))
    assert "Mass" in call("evaluate", out, "--manifest", labels).output
    written = call("report", out, "-o", tmp_path / "report.html", "--manifest", labels)
    assert written.exit_code == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_score_images_bundle_and_output_in_object_storage(archive, bundle, s3):
    for folder, prefix in ((archive, "archive"), (Path(bundle), "bundle")):
        for path in folder.rglob("*"):
            if path.is_file():
                storage.put(f"s3://bucket/{prefix}/{path.relative_to(folder)}", path.read_bytes())
    arguments = ("s3://bucket/archive", "--ensemble", "s3://bucket/bundle", "--output", "s3://bucket/out")
    first = run("score", *arguments)
    assert first.returncode == 0, first.stderr
    assert "13 images listed = 10 scored + 3 faulted + 0 done already" in first.stdout
    assert run("score", *arguments).stdout.startswith("Nothing new")
    assert "adds up: 10 scored + 3 faulted rows" in call("verify", "s3://bucket/out").output
    table, _ = read_scores("s3://bucket/out", wanted=["uri", "object_version"])
    assert table["uri"][0].as_py() == "s3://bucket/archive/empty.dcm"
    assert "key" not in storage.get(next(storage.list_objects("s3://bucket/out/runs")).uri).decode().split('"')


@pytest.mark.slow
def test_score_more_faults_than_allowed_is_exit_code_3(bundle, tmp_path):
    write_image(tmp_path / "in" / "a.png", seed=0)
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    arguments = ("--ensemble", bundle, "--output", tmp_path / "out", "--set", "max_fault_share=0.4")
    result = run("score", tmp_path / "in", *arguments)
    assert result.returncode == 3, result.stderr
    assert "1 scored + 1 faulted" in result.stdout


@pytest.mark.slow
def test_demo_small_one_leaves_bundle_scores_and_report(tmp_path):
    result = run("demo", "--output", tmp_path / "demo", "--images", "80", "--epochs", "1", "--json", timeout=600)
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["run"]["scored"] > 0
    assert values["run"]["faulted"] == 0
    assert 0 <= values["macro_auroc"] <= 1
    assert (tmp_path / "demo" / "report.html").stat().st_size > 100_000
    assert (tmp_path / "demo" / "training" / "ensemble" / "ensemble.json").exists()
