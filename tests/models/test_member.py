"""Members: built by name, saved and loaded without change, refused with a sentence."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from cxr_ray.config import MemberConfig
from cxr_ray.errors import BundleError, ConfigError
from cxr_ray.models import heatmaps
from cxr_ray.models.member import Member, create, load, rebuild, save, scale_outputs

FINDINGS = ("A", "B", "C", "D", "E")


def build(size: int = 64, **settings: object) -> Member:
    config = MemberConfig.model_validate({"name": "m", "backbone": "test_resnet", **settings})
    return create(config, findings=FINDINGS, size=size, preprocess_digest="d")[0].eval()


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("densenet201", 64),
        ("efficientnet_b0", 64),
        ("inception_v3", 96),
        ("inception_resnet_v2", 96),
        ("xception41", 64),
        ("legacy_xception", 96),
    ],
)
def test_create_backbones_of_the_paper_give_logits_and_maps(backbone, size):
    member = build(size, backbone=backbone, head_hidden=512, drop_rate=0.2)
    logits, maps, _ = heatmaps.member_maps(member, torch.rand(2, 1, size, size), grid=7)
    assert logits.shape == (2, 5)
    assert maps.shape == (2, 5, 7, 7)


def test_create_unknown_backbone_suggests_near_names():
    with pytest.raises(ConfigError, match=r"no backbone 'densnet201'; did you mean .*densenet201"):
        build(backbone="densnet201")


def test_create_vision_transformer_is_refused():
    with pytest.raises(ConfigError, match=r"not \(B, C, h, w\); choose a CNN"):
        build(160, backbone="test_vit")


def test_create_output_stride_the_backbone_lacks_is_refused():
    with pytest.raises(ConfigError, match="output_stride"):
        build(backbone="densenet121", output_stride=8)


def test_create_input_too_small_is_refused():
    with pytest.raises(ConfigError, match="cannot take inputs of 32 pixels; raise its size"):
        build(32, backbone="inception_v3")


def test_create_weights_out_of_reach_say_how_to_bring_them(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot be had .*pretrained: false"):
        build(160, backbone="test_resnet", pretrained=True)


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_efficientnet", "densenet121", "inception_v3", "legacy_xception"]
)
def test_create_hidden_layer_drops_behind_it_and_not_before(backbone):
    member = build(96, backbone=backbone, head_hidden=32, drop_rate=0.5).train()
    seen: list[torch.Tensor] = []
    hidden, _, dropout, last = member.backbone.get_classifier()
    hidden.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        features = 1.0 + torch.rand(2, hidden.in_features, 3, 3)
        member.head(features)
        member.head(features)
    assert dropout.p == 0.5
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("settings", [{}, {"head_hidden": 7}, {"backbone": "test_convnext"}, {"last_stage": 2}])
def test_scale_outputs_multiplies_the_logits(settings):
    member, images = build(**settings), torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = member(images)
        scale_outputs(member, 30.0)
        torch.testing.assert_close(member(images), 30.0 * before)


@pytest.mark.parametrize("settings", [{}, {"last_stage": 3, "output_stride": 8}, {"pooling": "catavgmax"}])
def test_save_and_load_scores_stay_exactly_the_same(tmp_path, settings):
    member = build(**settings)
    _, spec = create(
        MemberConfig.model_validate({"name": "m", "backbone": "test_resnet", **settings}),
        findings=FINDINGS,
        size=64,
        preprocess_digest="d",
    )
    saved = save(str(tmp_path), member.to(memory_format=torch.channels_last), spec)
    loaded, found = load(str(tmp_path))
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(images), member.to(memory_format=torch.contiguous_format)(images))
    assert found == saved
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_load_changed_weights_are_refused(bundle, tmp_path):
    folder = _copied_member(bundle, tmp_path)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(BundleError, match="differs from the weights"):
        load(str(folder))


def test_load_missing_weights_are_refused(bundle, tmp_path):
    folder = _copied_member(bundle, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="lacks weights"):
        load(str(folder))


def _copied_member(bundle: str, target: Path) -> Path:
    folder = target / "a"
    folder.mkdir()
    for item in Path(bundle, "members", "a").iterdir():
        (folder / item.name).write_bytes(item.read_bytes())
    return folder


def test_prepare_uint8_and_unit_range_give_the_same():
    member = build(48)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(member.prepare(images), member.prepare(images.float() / 255))
    assert member.prepare(images).shape == (2, 1, 48, 48)


def test_member_json_holds_what_a_reader_needs(bundle):
    values = json.loads(Path(bundle, "members", "c", "member.json").read_text())
    assert values["backbone"] == "test_resnet"
    assert values["size"] == 48
    assert values["pooling"] == "catavgmax"


def test_create_checkpoint_path_brings_three_channel_weights_and_stays_out_of_the_spec(tmp_path):
    timm_model = timm.create_model("test_resnet", num_classes=1000)
    save_file(timm_model.state_dict(), tmp_path / "weights.safetensors")
    config = MemberConfig(
        name="m",
        backbone="test_resnet",
        pretrained=True,
        options={"checkpoint_path": str(tmp_path / "weights.safetensors")},
    )
    member, spec = create(config, findings=("A", "B"), size=32, preprocess_digest="d")
    expected = timm_model.conv1[0].weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(member.backbone.conv1[0].weight, expected)
    assert spec.options == {}
    assert rebuild(spec).size == 32
