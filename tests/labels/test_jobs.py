"""The configurations under jobs/: each is what its name says."""

from pathlib import Path

import pytest

from cxr_ray.config import TrainConfig, load_yaml
from cxr_ray.labels.manifest import read_manifest

JOBS = Path(__file__).parents[2] / "jobs"
REAL = Path(__file__).parents[3] / "shared" / "data" / "nih64"


def test_padchest35_is_the_papers_set_up():
    config = load_yaml(TrainConfig, JOBS / "padchest35.yaml")
    backbones = [member.backbone for member in config.members]
    assert backbones == ["densenet201", "efficientnet_b0", "inception_v3", "inception_resnet_v2", "legacy_xception"]
    assert {(member.pretrained, member.head_hidden, member.drop_rate) for member in config.members} == {
        (True, 512, 0.2)
    }
    manifest, optimize = config.manifest, config.optimize
    assert (manifest.views, manifest.min_images, manifest.require_finding) == (("PA",), 200, True)
    assert manifest.shares == (0.7, 0.1, 0.2)
    assert (optimize.learning_rate, optimize.batch_size, optimize.epochs, optimize.patience) == (1e-4, 32, 350, 25)
    assert (optimize.optimizer, optimize.weight_decay, optimize.freeze) == ("adam", 0.0, 0.1)
    assert (optimize.selection, optimize.min_delta) == ("loss", 0.001)
    assert config.augment.model_dump() == {
        "rotation": 45.0,
        "shift": 0.1,
        "zoom": 0.1,
        "shear": 0.1,
        "brightness": (0.7, 1.1),
        "offset": 0.05,
        "flip": 0.5,
        "fill": "nearest",
    }
    assert (config.decode.preprocess.size, config.combination) == (224, "mean")


def test_nih14_takes_the_official_split_and_boxes():
    manifest = load_yaml(TrainConfig, JOBS / "nih14.yaml").manifest
    assert manifest.source == "nih14"
    assert manifest.train_list
    assert manifest.test_list
    assert manifest.boxes_path


@pytest.mark.skipif(not REAL.exists(), reason="the 600 real radiographs are not here")
@pytest.mark.parametrize("name", ["smoke", "train_nih64"])
def test_jobs_on_the_real_films_have_a_usable_manifest(monkeypatch, name):
    monkeypatch.chdir(JOBS.parent)
    config = load_yaml(TrainConfig, JOBS / f"{name}.yaml")
    manifest = read_manifest(config.manifest, seed=config.seed)
    assert manifest.counts()["images"].sum() == 600
    assert "test" in manifest.counts().index
