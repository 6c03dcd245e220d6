"""2,000 films from an S3 server with bad nights, on a cluster of which something is killed again and again."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cxr_ray import storage
from cxr_ray.images.phantom.archive import write_archive
from cxr_ray.scoring.verify import verify
from tests.chaos.cluster import FragileCluster
from tests.scoring.test_poison import POISON, write_poison
from tests.storage.faulty import FaultyProxy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_500)]
IMAGES = 2_000
DRAWN = 250  # different phantoms; the others are the same bytes under other names
KILLS = (
    "worker",
    "actor",
    "driver",
    "node",
    "worker",
    "driver",
    "actor",
    "worker",
    "node",
    "driver",
    "actor",
    "worker",
)
SEED = 5
SETTINGS = {"images_per_task": 16, "rows_per_file": 32, "batch_size": 16, "actors": 2, "limits.decode_seconds": 20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FragileCluster]:
    path = os.pathsep.join(filter(None, (str(POISON), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    for name, value in {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    with FragileCluster(nodes=2, cpus=2) as found:
        yield found


def fill(bucket: str, folder: Path) -> dict[str, str]:
    """Put the films, and what is planted among them; returns the faults that the planted ones must get."""
    films = sorted((write_archive(folder, num_images=DRAWN, side=96, seed=SEED).parent / "images").iterdir())
    planted = {}
    for number in range(IMAGES):
        film = films[number % len(films)]
        uri, data = f"{bucket}/site {number % 7}/{number:04d}{film.suffix}", film.read_bytes()
        if number % 200 == 77:
            uri, data = f"{uri}.png", b"no image at all, but of an unknown kind"
            planted[uri] = "not_an_image"
        elif number % 200 == 133:
            data = b""
            planted[uri] = "empty_file"
        elif number % 1_000 == 555:
            uri += ".png"
            write_poison(folder / "poison.png", "abort")
            data = (folder / "poison.png").read_bytes()
            planted[uri] = "decoder_crashed"
        storage.put(uri, data)
    return planted


def rows_in(output: str) -> list[dict[str, str]]:
    """Every row as it lies in the files: nothing is picked out."""
    names = ["uri", "object_version", "status", "fault"]
    files = [item.uri for item in storage.list_objects(f"{output}/scores", missing_ok=True)]
    rows = []
    for uri in files:
        filesystem, path = storage.filesystem(uri)
        rows += pq.ParquetFile(filesystem.open_input_file(path)).read(names).to_pylist()
    return rows


def test_chaos_every_film_has_exactly_one_row(s3, s3_endpoint, bundle, cluster, tmp_path, monkeypatch):
    planted = fill(s3, tmp_path / "phantom")
    output = "s3://bucket/out"
    chance = random.Random(SEED)
    kills: list[str] = []
    waiting = list(KILLS)
    log = tmp_path / "log"
    with FaultyProxy(s3_endpoint, share_of_faults=0.05, seed=SEED) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        command = [sys.executable, "-m", "cxr_ray.cli", "score", s3, "--json", "--address", cluster.address]
        command += ["--ensemble", bundle, "--output", output]
        command += [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        counts = None
        while counts is None:
            done_before = {row["uri"] for row in rows_in(output)}
            asked_before = len(proxy.requests)
            with (
                log.open("a") as stderr,
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as driver,
            ):
                seen = len(done_before)
                while driver.poll() is None:
                    time.sleep(0.5)
                    written = len(rows_in(output)) if waiting else 0
                    if not waiting or written < seen + 64:
                        continue
                    seen = written
                    time.sleep(chance.uniform(0.0, 2.0))
                    if waiting[0] == "driver":
                        driver.kill()
                        what: str | None = f"driver ({driver.pid})"
                    else:
                        what = cluster.kill(waiting[0], chance)
                    if what is not None:
                        kills.append(f"{waiting.pop(0):6}  with {written:,} rows written: {what}")
                        print(kills[-1])
                out = driver.stdout.read() if driver.stdout else ""
            if driver.returncode == 0:
                counts = json.loads(out)
            else:
                assert driver.returncode == -9, log.read_text()[-6_000:]
                cluster.wait_until_idle()
            asked = {f"s3://{request.key}" for request in proxy.requests[asked_before:] if request.method == "GET"}
            assert not asked & done_before, "what had a row was read again"
        faults = dict(proxy.faults)
    print(f"{len(kills)} kills, {sum(faults.values())} storage faults of {len(proxy.requests)} requests: {faults}")
    assert len(kills) >= 10
    assert sum(faults.values()) > 0.02 * len(proxy.requests)
    rows = rows_in(output)
    assert Counter(Counter(row["uri"] for row in rows).values()) == {1: IMAGES}
    assert {row["uri"]: row["fault"] for row in rows if row["fault"]} == planted
    assert counts["listed"] == IMAGES
    assert verify(output).problems == ()
