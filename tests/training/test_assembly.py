"""What is filed of a finished member, and what a bundle tells of the run that made it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cxr_ray.config import ManifestConfig, MemberConfig, TrackingConfig, TrainConfig
from cxr_ray.models.member import create, rebuild
from cxr_ray.training.assembly import Job, file_member, portable_settings
from cxr_ray.training.stages import final_scale
from tests.training.squares import FINDINGS, a_plan, fit_squares, parts, tiny_member, write_squares


@pytest.mark.parametrize(
    "optimize",
    [
        {"loss": {"name": "ldam", "max_margin": 0.0, "weighting": "none"}},
        {"loss": {"name": "bce", "weighting": "none"}},
        {"loss": {"name": "ldam"}, "second_stage": {"epochs": 1, "learning_rate": 0.01}},
    ],
    ids=["ldam", "bce", "ldam, then bce"],
)
def test_file_member_logits_are_those_of_the_probabilities_the_loss_means(tmp_path, optimize):
    """Without margins the loss is the cross-entropy of the probabilities: the filed logits must give it again."""
    shards, plan, network = write_squares(str(tmp_path / "shards")), a_plan(**optimize), tiny_member()
    epochs, states = fit_squares(shards, plan, member=network)
    config = MemberConfig(name="m", backbone="test_resnet")
    job = Job(create(config, findings=FINDINGS, size=32, preprocess_digest="d")[1], 0, "digest", str(tmp_path))
    file_member(job, states[-1], scale=final_scale(plan.optimize))
    logits, validation = torch.from_numpy(np.load(tmp_path / "validation.npy")), parts(shards)["validation"]
    labels = torch.from_numpy(validation.labels)
    stated = ~labels.isnan()
    found = F.binary_cross_entropy_with_logits(logits[stated], labels[stated])
    best = epochs[json.loads(Path(job.done).read_text())["best_epoch"]]
    assert found.item() == pytest.approx(best.validation_loss, rel=1e-5)
    again = rebuild(job.spec)
    again.load_state_dict(load_file(tmp_path / "best.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(again(torch.from_numpy(validation.pixels(range(len(labels))))), logits)


def test_portable_settings_hold_no_path_and_no_address():
    places = [
        name
        for name, field in ManifestConfig.model_fields.items()
        if "path" in name or name.endswith(("_list", "_root"))
    ]
    assert len(places) > 8
    manifest = ManifestConfig.model_construct(
        **{**dict.fromkeys(places, "/home/of_a_user/x"), "findings": ("Mass",), "source": "csv"}
    )
    member = MemberConfig(name="a", backbone="resnet18", options={"checkpoint_path": "/home/of_a_user/w", "groups": 2})
    config = TrainConfig.model_construct(
        manifest=manifest, members=(member,), tracking=TrackingConfig.model_construct(mlflow="https://user:word@host")
    )
    told = portable_settings(config)
    assert "of_a_user" not in json.dumps(told)
    assert "word@host" not in json.dumps(told)
    assert told["members"][0]["options"] == {"groups": 2}
    assert told["manifest"]["findings"] == ["Mass"]
