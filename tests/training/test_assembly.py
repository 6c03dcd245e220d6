"""What a bundle tells of the run that made it."""

import json

from cxr_ray.config import ManifestConfig, MemberConfig, TrackingConfig, TrainConfig
from cxr_ray.training.assembly import portable_settings


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
