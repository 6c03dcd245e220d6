"""The bundle on disk and the rules that combine members."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray.config import digest_of
from cxr_ray.errors import BundleError, ConfigError
from cxr_ray.models.calibration import Calibration, Scaling
from cxr_ray.models.ensemble import (
    EnsembleSpec,
    choose_device,
    combine,
    combine_probabilities,
    derive_bundle,
    load_ensemble,
    load_ensemble_spec,
)
from tests.models.test_heatmaps import reference_maps


@pytest.fixture
def copied(bundle, tmp_path):
    """A copy of the bundle that a test may spoil."""
    return Path(shutil.copytree(bundle, tmp_path / "copied"))


def test_score_three_members_shapes_and_ranges(bundle):
    ensemble = load_ensemble(bundle)
    scores = ensemble.score(torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8), with_heatmaps=True)
    grid = ensemble.spec.grid
    assert scores.probabilities.shape == scores.votes.shape == scores.spread.shape == (4, 5)
    assert scores.member_probabilities.shape == (3, 4, 5)
    assert scores.maps.shape == scores.map_spread.shape == (4, 5, grid, grid)
    torch.testing.assert_close(scores.probabilities, scores.member_probabilities.mean(dim=0), atol=1e-5, rtol=0)


def test_score_heatmaps_do_not_change_scores(bundle):
    ensemble = load_ensemble(bundle)
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    plain, explained = (ensemble.score(images, with_heatmaps=flag) for flag in (False, True))
    torch.testing.assert_close(plain.member_probabilities, explained.member_probabilities, atol=1e-6, rtol=0)


def test_score_ensemble_map_is_mean_of_pytorch_grad_cam_over_members(bundle):
    # The bundle's members have no measured offset, so cells lie at their nominal place as in pytorch-grad-cam.
    ensemble = load_ensemble(bundle)
    images = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    grid, expected = ensemble.spec.grid, []
    for member in ensemble.members:
        raw = torch.from_numpy(reference_maps(member, member_input(member, images)))
        scaled = raw / raw.amax((-2, -1), keepdim=True).clamp_min(1e-12)
        expected.append(torch.nn.functional.interpolate(scaled, (grid, grid), mode="bilinear"))
    scores = ensemble.score(images, with_heatmaps=True)
    torch.testing.assert_close(scores.maps, torch.stack(expected).mean(dim=0), atol=1e-3, rtol=0)


def member_input(member, images):
    """The images at the size of a member, so that the reference needs no resizing of its own."""
    pixels = images.float() / 255
    if member.size != images.shape[-1]:
        side = (member.size, member.size)
        pixels = torch.nn.functional.interpolate(pixels, side, mode="bilinear", antialias=True)
    return pixels * 255


def test_combine_probabilities_mean_vote_and_mode_by_hand():
    probabilities = torch.tensor([[[0.9, 0.4, 0.1]], [[0.8, 0.6, 0.2]], [[0.2, 0.7, 0.1]]])
    half = torch.full((3, 3), 0.5)
    mean = combine_probabilities(probabilities, half, rule="mean")
    np.testing.assert_allclose(mean, [[(0.9 + 0.8 + 0.2) / 3, (0.4 + 0.6 + 0.7) / 3, 0.4 / 3]], atol=1e-6)
    vote = combine_probabilities(probabilities, half, rule="vote")
    np.testing.assert_allclose(vote, [[2 / 3, 2 / 3, 0.0]], atol=1e-6)
    # Three different label sets: the members' mean distances from the threshold are .3, .2 and .3; the first wins.
    assert combine_probabilities(probabilities, half, rule="mode").tolist() == [[1.0, 0.0, 0.0]]


def test_combine_probabilities_mode_most_frequent_set_beats_surer_member():
    probabilities = torch.tensor([[[0.99, 0.99]], [[0.51, 0.1]], [[0.6, 0.4]]])
    found = combine_probabilities(probabilities, torch.full((3, 2), 0.5), rule="mode")
    assert found.tolist() == [[1.0, 0.0]]


def test_combine_calibration_changes_probabilities_but_no_votes(bundle):
    spec = load_ensemble_spec(bundle)
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    plain = combine(logits, spec)
    scaled = combine(logits, replace(spec, calibration=Calibration((2.0,) * 5, (-1.0,) * 5)))
    expected = torch.sigmoid(2 * torch.logit(plain.probabilities) - 1)
    torch.testing.assert_close(scaled.probabilities, expected, atol=1e-4, rtol=0)
    assert torch.equal(scaled.votes, plain.votes)


def test_load_ensemble_missing_member_is_refused(copied):
    shutil.rmtree(copied / "members" / "b")
    with pytest.raises(BundleError, match=r"lacks a member: .*members/b.*Copy the whole bundle again"):
        load_ensemble(str(copied))


def test_load_ensemble_edited_threshold_is_refused(copied):
    values = json.loads((copied / "ensemble.json").read_text())
    values["thresholds"][0] = 0.4
    (copied / "ensemble.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="does not match its own digest"):
        load_ensemble(str(copied))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("findings", ["X"], "other findings"), ("preprocess_digest", "0", "preprocessing 0"), ("name", "z", None)],
)
def test_load_ensemble_member_of_another_ensemble_is_refused(copied, key, value, words):
    path = copied / "members" / "a" / "member.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    if words is None:
        assert load_ensemble(str(copied)).spec.members == ("a", "b", "c")
        return
    with pytest.raises(BundleError, match=words):
        load_ensemble(str(copied))


def test_load_ensemble_golden_image_that_scores_differently_is_refused(copied):
    path = copied / "golden" / "scores.json"
    values = json.loads(path.read_text())
    values["member_probabilities"][1][2] += 0.01
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"scores differently on cpu by 0\.01"):
        load_ensemble(str(copied))


def test_load_ensemble_folder_without_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="is no ensemble bundle"):
        load_ensemble(str(tmp_path))


def test_digest_anything_that_changes_a_score_changes_it(bundle):
    spec = load_ensemble_spec(bundle)
    others = [
        replace(spec, thresholds=(0.4, *spec.thresholds[1:])),
        replace(spec, combination="vote"),
        replace(spec, calibration=Calibration((1.1,) * 5, (0.0,) * 5)),
        replace(spec, weights=("0", *spec.weights[1:])),
        replace(spec, preprocess=spec.preprocess.model_copy(update={"size": 65})),
    ]
    assert len({spec.digest, *(other.digest for other in others)}) == 6
    assert replace(spec, training={"note": 1}).digest == spec.digest


OLD_CALIBRATION = '{"intercepts": [-0.25, 0.0, 0.5, 0.0, 0.125], "slopes": [0.75, 1.0, 1.5, 1.0, 0.5]}'


def test_from_json_bundle_of_before_isotonic_keeps_its_digest_and_text(copied):
    path = copied / "ensemble.json"
    values = json.loads(path.read_text()) | {"calibration": json.loads(OLD_CALIBRATION)}
    digested = (
        "findings",
        "members",
        "weights",
        "combination",
        "thresholds",
        "member_thresholds",
        "grid",
        "calibration",
    )
    values["digest"] = digest_of({**{key: values[key] for key in digested}, "preprocess": values["preprocess_digest"]})
    path.write_text(json.dumps(values))
    spec = load_ensemble_spec(str(copied))
    assert spec.digest == values["digest"]
    assert json.loads(spec.to_json())["calibration"] == json.loads(OLD_CALIBRATION)
    assert [item.method for item in spec.calibration.scalings] == ["platt", "identity"] * 2 + ["platt"]
    assert spec.threshold_rules == dict.fromkeys(spec.findings, "f1")


def test_derive_bundle_scores_with_the_new_calibration_and_the_old_weights(bundle, tmp_path):
    old = load_ensemble(bundle)
    curve = Scaling(knots=((0.1, 0.2), (0.9, 0.3)))
    spec = replace(old.spec, calibration=Calibration.of([curve, *old.spec.calibration.scalings[1:]]))
    assert spec.digest != old.spec.digest
    derive_bundle(bundle, str(tmp_path / "new"), spec, card="# new")
    new = load_ensemble(str(tmp_path / "new"))
    assert new.spec == EnsembleSpec.from_json(spec.to_json().encode(), source="-") == spec
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    before, after = (item.score(images, with_heatmaps=False) for item in (old, new))
    assert torch.equal(before.member_probabilities, after.member_probabilities)
    expected = np.interp(before.probabilities[:, 0], [0.1, 0.9], [0.2, 0.3])
    np.testing.assert_allclose(after.probabilities[:, 0], expected, atol=1e-6)


def test_derive_bundle_goes_on_after_an_interrupted_copy_but_overwrites_nothing(bundle, tmp_path, copied):
    target = tmp_path / "new"
    shutil.copytree(copied / "members" / "a", target / "members" / "a")
    spec = load_ensemble_spec(bundle)
    derive_bundle(bundle, str(target), spec, card="# new")
    assert load_ensemble(str(target)).spec == spec
    (target / "ensemble.json").unlink()
    with pytest.raises(ConfigError, match=r"README\.md already; choose another --output"):
        derive_bundle(bundle, str(target), spec, card="# newer")


def test_derive_bundle_spoilt_weights_are_not_passed_on(copied, tmp_path):
    path = copied / "members" / "b" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="has other weights than the ensemble was made of"):
        derive_bundle(str(copied), str(tmp_path / "new"), load_ensemble_spec(str(copied)), card="")


def test_choose_device_cuda_where_there_is_none_is_refused():
    if torch.cuda.is_available():
        assert choose_device("cuda") == "cuda"
    else:
        with pytest.raises(ConfigError, match="use --device cpu"):
            choose_device("cuda")
