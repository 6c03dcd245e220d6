"""Nights over an archive in S3: what is new is scored, under the policy that the documents give the workers."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import boto3
import duckdb
import numpy as np
import pytest
import yaml
from botocore.exceptions import ClientError
from scipy.stats import ks_2samp

from cxr_ray import storage
from cxr_ray.config import DriftConfig, NightlyConfig, ScoreConfig
from cxr_ray.evaluation.drift.distributions import Drift, Sample, compare
from cxr_ray.nightly import Night, exit_code, files_by_night, read_sample
from cxr_ray.scoring import table
from cxr_ray.scoring.run import RunResult
from cxr_ray.scoring.verify import verify
from tests.conftest import write_image

ROOT = Path(__file__).parents[2]
POLICY = re.search(
    r"<!-- policy: worker -->\n```json\n(.*?)```",
    (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"),
    flags=re.DOTALL,
)
RESULT = RunResult("20261124T010000000", "out", "digest", 100, 40, 0, 57, 3, 0, {"corrupt": 3}, 12.3)


def config(**changes: object) -> NightlyConfig:
    return NightlyConfig.model_validate({"inputs": ["a"], "ensemble": "e", "output": "o", **changes})


def drift_of(power: float) -> Drift:
    """A comparison of invented nights, the second of them moved by a power other than 1."""
    probabilities = np.random.default_rng(0).random((2, 600, 1)).astype(np.float32)
    samples = [
        Sample(("Mass",), 3, values, np.zeros((600, 1), np.int8), 0)
        for values in (probabilities[0], probabilities[1] ** power)
    ]
    return compare(*samples, nights=2, config=DriftConfig())


@contextmanager
def policy_enforced(endpoint: str, s3: str) -> Iterator[dict[str, str]]:
    """The keys of a user with the workers' policy, on a server that now asks for permissions."""
    assert POLICY is not None
    results, archive = "results", s3.removeprefix("s3://").partition("/")[0]
    document = POLICY[1].replace("ARCHIVE-BUCKET", archive).replace("RESULTS-BUCKET", results)
    iam = boto3.client("iam")
    iam.create_user(UserName="worker")
    iam.put_user_policy(UserName="worker", PolicyName="s3", PolicyDocument=document)
    key = iam.create_access_key(UserName="worker")["AccessKey"]

    def ask_after(requests: str) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        url = f"{endpoint}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), kind, method="POST")).close()

    ask_after("0")
    try:
        yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    finally:
        ask_after("inf")
        iam.delete_access_key(UserName="worker", AccessKeyId=key["AccessKeyId"])
        iam.delete_user_policy(UserName="worker", PolicyName="s3")
        iam.delete_user(UserName="worker")
        iam.close()


@pytest.fixture
def results(s3: str) -> Iterator[str]:
    """A bucket for the ensemble and the scores."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="results")
    yield "s3://results"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="results"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="results", Key=item["Key"])
    client.delete_bucket(Bucket="results")
    client.close()


def put_films(s3: str, numbers: range, folder: Path, *, seed: int) -> None:
    """Small films under names with blanks, umlauts, plus and percent signs."""
    for number in numbers:
        path = write_image(folder / "film.png", seed=seed + number, side=70)
        storage.put(f"{s3}/{number % 3}/Aufnahme ü+{number}%20.png", path.read_bytes())


@pytest.mark.slow
def test_nightly_day_2_scores_what_is_new_or_replaced_and_nothing_else(s3, s3_endpoint, results, bundle, tmp_path):
    s3 = f"{s3.rpartition('/')[0]}/radiographs"
    put_films(s3, range(60), tmp_path, seed=0)
    for path in Path(bundle).rglob("*"):
        if path.is_file():
            storage.put(f"{results}/ensemble/{path.relative_to(bundle)}", path.read_bytes())
    night = {
        "inputs": [f"{s3}/"],
        "ensemble": f"{results}/ensemble",
        "output": f"{results}/scores",
        "score": {"actors": 1, "rows_per_file": 25},
        "drift": {"min_rows": 50},
    }
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump(night))

    def run() -> str:
        with policy_enforced(s3_endpoint, s3) as keys:
            worker = boto3.client("s3", **{name.lower(): value for name, value in keys.items()})
            with pytest.raises(ClientError, match="AccessDenied"):
                worker.put_object(Bucket=s3.split("/")[2], Key="radiographs/0/new.png", Body=b"")
            worker.close()
            done = subprocess.run(
                [sys.executable, str(ROOT / "jobs" / "nightly.py"), str(tmp_path / "nightly.yaml")],
                env={**os.environ, **keys, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    first = run()
    assert "60 of 60 images were new: 60 scored, 0 faulted; no drift computed: no earlier night" in first
    put_films(s3, range(60, 110), tmp_path, seed=0)
    put_films(s3, range(10), tmp_path, seed=500)
    for number in range(20, 25):
        storage.delete(f"{s3}/{number % 3}/Aufnahme ü+{number}%20.png")
    second = run()
    assert "60 of 105 images were new: 60 scored, 0 faulted; no drift against 1 nights" in second
    assert "nothing new, all 105 images have a row" in run()
    assert verify(f"{results}/scores").problems == ()

    records = sorted(item.uri for item in storage.list_objects(f"{results}/scores/nights"))
    assert len(records) == 3
    drift = json.loads(storage.get(records[1]))["drift"]
    assert (drift["reference_rows"], drift["current_rows"], drift["nights"]) == (60, 60, 1)
    contract = table.read_contract(next(iter(table.score_files(f"{results}/scores"))))
    rows = table.rows_of(f"{results}/scores", wanted=["run_id", "probability_Mass"], contract=contract).to_pandas()
    sides = [rows["probability_Mass"][rows["run_id"] == Path(record).stem] for record in records[:2]]
    shift = next(item for item in drift["shifts"] if (item["measure"], item["finding"]) == ("probability", "Mass"))
    assert shift["ks"] == pytest.approx(ks_2samp(*sides).statistic)
    assert len(rows) == 120


@pytest.mark.parametrize(
    ("settings", "power", "code", "words"),
    [
        ({}, 1.0, 0, "done (exit 0)."),
        ({}, 5.0, 0, "DRIFT in 1 of 3 comparisons against 2 nights"),
        ({"drift": {"on_drift": "fail"}}, 1.0, 0, "no drift against 2 nights"),
        ({"drift": {"on_drift": "fail"}}, 5.0, 4, "DRIFT above the limit (exit 4)."),
        ({"drift": {"on_drift": "fail"}, "score": {"max_fault_share": 0.04}}, 5.0, 3, "TOO MANY FAULTS (exit 3)."),
        ({"score": {"max_fault_share": 0.05}}, 1.0, 0, "57 scored, 3 faulted (corrupt 3); no drift"),
    ],
)
def test_night_code_and_line_follow_from_faults_and_drift(settings, power, code, words):
    drift = drift_of(power)
    found = Night(RESULT, drift, exit_code(RESULT, drift, config(**settings)))
    assert found.exit_code == code
    assert words in found.line()
    assert "\n" not in found.line()
    json.dumps(found.to_dict(), allow_nan=False)


def test_night_without_rows_says_that_nothing_is_new():
    nothing = replace(RESULT, already_done=100, scored=0, faulted=0, faults={})
    assert exit_code(nothing, None, config(score={"max_fault_share": 0.0})) == 0
    assert Night(nothing, None, 0).line() == (
        "Night 20261124T010000000: nothing new, all 100 images have a row; 12 s; done (exit 0)."
    )


def test_files_by_night_gives_rows_of_broken_runs_to_the_night_that_ends_next():
    files = [f"s3://b/scores/date=d/{run}-{digest}.parquet" for run in "1245" for digest in "xy"]
    found = files_by_night(["2", "4"], files)
    assert {night: [uri[-10:-8] + uri[-9:-8] for uri in uris] for night, uris in found.items()}.keys() == {"2", "4"}
    assert [uri.rpartition("/")[2][0] for uri in found["2"]] == ["1", "1", "2", "2"]
    assert [uri.rpartition("/")[2][0] for uri in found["4"]] == ["4", "4"]


@pytest.mark.usefixtures("ray_local")
def test_read_sample_of_many_rows_takes_every_kth(archive, bundle, tmp_path):
    from cxr_ray.scoring.run import score

    output = str(tmp_path / "out")
    settings = ScoreConfig(actors=1, rows_per_file=4, images_per_task=4)
    score([str(archive)], bundle=bundle, output=output, config=settings, log=lambda line: None)
    files = list(table.score_files(output))
    assert len(files) > 2
    contract = table.read_contract(files[0])
    whole = read_sample(files, contract, max_rows=13)
    assert (whole.scored, whole.faulted) == (10, 3)
    thin = read_sample(files, contract, max_rows=5)
    assert thin.scored + thin.faulted == 5  # every third of 13
    names = [f"probability_{name}" for name in ("Mass", "Nodule", "Pleural_Effusion", "Pacemaker", "Cardiomegaly")]
    known = duckdb.sql(f"select {', '.join(names)} from read_parquet({files}) where status = 'scored'").fetchnumpy()
    np.testing.assert_array_equal(
        np.sort(whole.probabilities, axis=0), np.sort(np.column_stack([known[name] for name in names]), axis=0)
    )
    assert set(thin.probabilities[:, 0]) <= set(whole.probabilities[:, 0])
    empty = read_sample([], contract, max_rows=5)
    assert (empty.scored, empty.faulted, empty.votes.shape) == (0, 0, (0, 5))
