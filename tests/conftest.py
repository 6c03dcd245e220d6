"""What several tests share: a local Ray, a small archive of images, and a small untrained ensemble."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

from cxr_ray import storage
from cxr_ray.config import MemberConfig, PreprocessConfig
from cxr_ray.images.preprocess import preprocess_digest
from cxr_ray.models import ensemble, member
from cxr_ray.models.calibration import Calibration
from cxr_ray.models.card import CardFacts, model_card
from cxr_ray.models.ensemble import EnsembleSpec

FINDINGS = ("Mass", "Nodule", "Pleural Effusion", "Pacemaker", "Cardiomegaly")
MEMBERS = (
    MemberConfig(name="a", backbone="test_resnet"),
    MemberConfig(name="b", backbone="test_efficientnet", output_stride=16),
    MemberConfig(name="c", backbone="test_resnet", size=48, pooling="catavgmax"),
)
PREPROCESS = PreprocessConfig(size=64)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One local Ray of two CPUs for all tests that need one."""
    import ray

    from cxr_ray.cluster import connect, disconnect

    connect(None, debug=False)
    assert ray.is_initialized()
    yield
    disconnect()


def make_bundle(folder: Path, *, seed: int = 0, findings: tuple[str, ...] = FINDINGS) -> str:
    """An ensemble of three tiny members with random weights, whose thresholds make about half the findings positive."""
    torch.manual_seed(seed)
    saved, networks = [], []
    for config in MEMBERS:
        network, spec = member.create(
            config, findings=findings, size=PREPROCESS.size, preprocess_digest=preprocess_digest(PREPROCESS)
        )
        saved.append(member.save(str(folder / "members" / config.name), network.eval(), spec))
        networks.append(network)
    spec = EnsembleSpec(
        findings=findings,
        members=tuple(item.name for item in saved),
        weights=tuple(item.weights_sha256 for item in saved),
        combination="mean",
        calibration=Calibration.identity(len(findings)),
        thresholds=(0.5,) * len(findings),
        member_thresholds=((0.5,) * len(findings),) * len(saved),
        grid=max(member.grid_of(network) for network in networks),
        preprocess=PREPROCESS,
    )
    golden = np.random.default_rng(0).integers(0, 256, (PREPROCESS.size,) * 2, dtype=np.uint8)
    ensemble.save_bundle(str(folder), spec, card=model_card(spec, CardFacts()), golden=golden)
    return str(folder)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, reached through the environment as a user would."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    storage.forget_clients()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield "s3://bucket/archive"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    client.delete_bucket(Bucket="bucket")
    client.close()
    storage.forget_clients()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A complete bundle on disk; tests that change it copy it first."""
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def write_image(path: Path, *, seed: int, side: int = 80) -> Path:
    """A grey PNG of noise on a ramp, not square."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, side)[:, None] + random.integers(0, 55, (side, side + 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten good films in two folders, with what lies about in real ones: a truncated, an empty and a foreign file."""
    folder = tmp_path / "archive"
    for number in range(10):
        write_image(folder / f"site {number % 2}" / f"film_{number}.png", seed=number)
    whole = (folder / "site 0" / "film_0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.doc").write_bytes(b"no image at all, but of an unknown kind")
    (folder / "labels.csv").write_text("uri,Mass\n")
    (folder / "about.json").write_text(json.dumps({"a": 1}))
    return folder
