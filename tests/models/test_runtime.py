"""ONNX Runtime, held against the plain network in torch: scores, heat maps, the cache of graphs, and its limits."""

import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from cxr_ray.errors import ConfigError
from cxr_ray.models import runtime
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.models.heatmaps import member_maps
from cxr_ray.models.runtime import by_onnx, check_runtime
from tests.models.test_heatmaps import FINDINGS, images, make_member

BACKBONES = (("resnet18", 96), ("efficientnet_b0", 96), ("densenet121", 96))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("graphs"))


def spec_of(backbone: str, size: int):
    """What names the graph of a member of make_member."""
    return runtime.MemberSpec("m", backbone, FINDINGS, size, 0.5, 0.2, "digest", weights_sha256=f"{backbone} {size}")


@pytest.mark.parametrize(("backbone", "size"), BACKBONES)
def test_onnx_member_gives_the_logits_and_the_maps_of_the_plain_one(backbone, size, cache):
    member = make_member(backbone, size=size)
    fast = by_onnx(member, spec_of(backbone, size), cache=cache)
    for number in (1, 3, 5):  # none of them the batch it was exported with
        pixels = images(number, size)
        expected, maps, peaks = member_maps(member, pixels, grid=5)
        logits, found, raw = member_maps(fast, pixels, grid=5)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found, maps, atol=1e-3, rtol=0)
        torch.testing.assert_close(raw, peaks, atol=1e-4, rtol=1e-3)


def test_onnx_ensemble_scores_as_torch_does_and_peaks_do_not_move(bundle, cache):
    pixels = images(6, 64)
    plain, fast = (load_ensemble(bundle, runtime=name, onnx_cache=cache) for name in ("torch", "onnx"))
    one, other = (ensemble.score(pixels, with_heatmaps=True) for ensemble in (plain, fast))
    assert all(isinstance(member, runtime.OnnxMember) for member in fast.members)
    torch.testing.assert_close(one.probabilities, other.probabilities, atol=1e-5, rtol=0)
    assert torch.equal(one.votes, other.votes)
    assert torch.equal(one.maps.flatten(2).argmax(-1), other.maps.flatten(2).argmax(-1))


@pytest.mark.parametrize("damage", [lambda kept: kept[:-100], lambda kept: kept[:-9] + b"\x7f" + kept[-8:]])
def test_a_graph_is_exported_once_and_again_when_it_is_damaged(tmp_path, monkeypatch, damage):
    member, spec, exports = make_member("test_resnet"), spec_of("test_resnet", 64), []
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **how: exports.append(1) or export(*given, **how))
    expected = by_onnx(member, spec, cache=str(tmp_path)).features(images(2, 64))
    again = by_onnx(member, spec, cache=str(tmp_path))
    assert torch.equal(again.features(images(2, 64)), expected)
    assert len(exports) == 1
    (graph,) = (file for file in tmp_path.iterdir() if file.suffix != ".lock")
    graph.write_bytes(damage(graph.read_bytes()))
    mended = by_onnx(member, spec, cache=str(tmp_path))
    assert torch.equal(mended.features(images(2, 64)), expected)
    assert len(exports) == 2


def test_a_graph_of_other_weights_or_versions_is_not_taken(tmp_path, monkeypatch):
    spec = spec_of("test_resnet", 64)
    by_onnx(make_member("test_resnet"), spec, cache=str(tmp_path))
    other = make_member("test_resnet")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    trained_on = runtime.MemberSpec(**{**{n: getattr(spec, n) for n in spec.__slots__}, "weights_sha256": "other"})
    found = by_onnx(other, trained_on, cache=str(tmp_path)).features(images(2, 64))
    torch.testing.assert_close(found, other.features(images(2, 64)).detach(), atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(runtime, "version", lambda name: "0.0")
    by_onnx(other, trained_on, cache=str(tmp_path))
    assert len([file for file in tmp_path.iterdir() if file.suffix != ".lock"]) == 3


def test_the_cache_is_in_the_users_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    by_onnx(make_member("test_resnet"), spec_of("test_resnet", 64))
    assert list(tmp_path.glob("cxr_ray/onnx/test_resnet-*"))


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be kept in .*file.*; say where with onnx_cache\.$"):
        by_onnx(make_member("test_resnet"), spec_of("test_resnet", 64), cache=str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [("cuda", "fp32", "computes on CPUs, and this run is on cuda"), ("cpu", "bf16", "leave out either it or")],
)
def test_check_runtime_refuses_what_it_is_not_for(device, precision, words):
    with pytest.raises(ConfigError, match=words):
        check_runtime("onnx", torch.device(device), precision)
    check_runtime("torch", torch.device(device), precision)


def test_check_runtime_names_the_extra_when_it_is_not_installed(monkeypatch):
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(runtime, "version", none)
    with pytest.raises(ConfigError, match=r"needs onnx; pip install 'cxr-ray\[onnx\]'\.$"):
        check_runtime("onnx", CPU, "fp32")


def test_short_memory_halves_the_batch_and_loses_nothing(tmp_path):
    """In a process of its own, whose address space is limited once everything is loaded."""
    program = """
        import resource, sys, psutil, torch
        from cxr_ray.models.memory import FittedEnsemble
        from cxr_ray.models.ensemble import load_ensemble
        torch.set_num_threads(1)
        bundle, cache = sys.argv[1:]
        ensemble = load_ensemble(bundle, runtime="onnx", onnx_cache=cache)
        images = torch.randint(0, 256, (512, 1, 64, 64), dtype=torch.uint8)
        fitted = FittedEnsemble(ensemble)
        fitted.score(images[:2], with_heatmaps=False)
        limit = psutil.Process().memory_info().vms + 2**25
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        scores = fitted.score(images, with_heatmaps=False)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        wanted = torch.cat([ensemble.score(part, with_heatmaps=False).probabilities for part in images.split(8)])
        assert fitted.most is not None and fitted.most < 512, fitted.most
        torch.testing.assert_close(scores.probabilities, wanted, atol=1e-5, rtol=0)
    """
    from tests.conftest import make_bundle

    command = [sys.executable, "-c", textwrap.dedent(program), make_bundle(tmp_path / "bundle"), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
