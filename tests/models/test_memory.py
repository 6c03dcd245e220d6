"""Batches that a device's memory does not take, and devices that fail."""

import os
import platform
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cxr_ray.errors import DeviceError
from cxr_ray.models.ensemble import load_ensemble
from cxr_ray.models.memory import FittedEnsemble, allocation_environment
from tests.models.test_device import OUT_OF_MEMORY


@pytest.fixture
def images():
    return torch.randint(0, 256, (11, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def limited(bundle, most, error):
    """The bundle's ensemble, whose second member raises `error` for more than `most` images at a time."""
    ensemble, sizes = load_ensemble(bundle), []

    def forward(pixels, inner=ensemble.members[1].backbone.forward_features):
        sizes.append(len(pixels))
        if len(pixels) > most:
            raise error
        return inner(pixels)

    ensemble.members[1].backbone.forward_features = forward
    return FittedEnsemble(ensemble), sizes


GONE = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")


def late(bundle, most, error):
    """The bundle's ensemble, whose results raise `error` for more than `most` images, and only when they are fetched.

    As those of a GPU do, which computes behind the program's back.
    """
    ensemble = load_ensemble(bundle)

    class Late(torch.Tensor):
        def cpu(self):
            if len(self) > most:
                raise error
            return self.as_subclass(torch.Tensor)

    for member in ensemble.members:
        plain = member.backbone.forward_features
        member.backbone.forward_features = lambda pixels, plain=plain: plain(pixels).as_subclass(Late)
    return FittedEnsemble(ensemble)


@pytest.mark.parametrize("where", ["allocator", "cpu"])
@pytest.mark.parametrize("maps", [True, False])
def test_score_batch_too_large_for_the_memory_scores_as_in_one_piece(bundle, images, where, maps):
    how = {"with_heatmaps": maps, "keep_member_maps": maps}
    whole = load_ensemble(bundle).score(images, **how)
    ensemble, sizes = limited(bundle, 3, OUT_OF_MEMORY[where])
    found = ensemble.score(images, **how)
    assert sizes == [11, 6, 3, 3, 3, 2]
    for field in fields(whole):
        expected, value = getattr(whole, field.name), getattr(found, field.name)
        if expected is None:
            assert value is None
        else:
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=0, equal_nan=True, msg=field.name)
    ensemble.score(images, **how)
    assert sizes[6:] == [3, 3, 3, 2], "what fits is remembered"


def test_score_single_image_that_does_not_fit_is_one_sentence(bundle, images):
    ensemble, sizes = limited(bundle, 0, OUT_OF_MEMORY["allocator"])
    with pytest.raises(DeviceError, match=r"^A single image does not fit .* on cpu; .*--precision bf16\.$"):
        ensemble.score(images, with_heatmaps=False)
    assert sizes == [11, 6, 3, 2, 1]


def test_score_device_that_is_gone_is_one_sentence(bundle, images):
    with pytest.raises(DeviceError, match=r"stopped working \(CUDA error: device-side assert triggered\)"):
        limited(bundle, 0, GONE)[0].score(images, with_heatmaps=False)


def test_score_device_that_is_gone_when_its_results_are_fetched_is_one_sentence(bundle, images):
    with pytest.raises(DeviceError, match=r"stopped working \(CUDA error: device-side assert triggered\)"):
        late(bundle, 0, GONE).score(images, with_heatmaps=False)


def test_score_memory_short_when_results_are_fetched_scores_by_halves(bundle, images):
    whole = load_ensemble(bundle).score(images, with_heatmaps=False)
    ensemble = late(bundle, 3, OUT_OF_MEMORY["cuda"])
    found = ensemble.score(images, with_heatmaps=False)
    assert ensemble.most == 3
    torch.testing.assert_close(found.probabilities, whole.probabilities, atol=1e-5, rtol=0)


def test_score_bug_in_a_member_is_raised_as_it_is(bundle, images):
    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied$"):
        limited(bundle, 5, RuntimeError("shapes cannot be multiplied"))[0].score(images, with_heatmaps=False)


def failing(error):
    """A way to a device that fails."""

    def to(self, *args, **how):
        raise error

    return to


@pytest.mark.parametrize("where", ["allocator", "cuda", "cpu"])
def test_load_ensemble_members_that_do_not_fit_are_one_sentence(bundle, monkeypatch, where):
    monkeypatch.setattr(torch.nn.Module, "to", failing(OUT_OF_MEMORY[where]))
    with pytest.raises(DeviceError, match=r"^The 3 members of .* do not fit into the memory that is left on cpu; "):
        load_ensemble(bundle)


def test_load_ensemble_device_that_is_gone_is_one_sentence(bundle, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", failing(GONE))
    with pytest.raises(DeviceError, match=r"^The device cpu stopped working"):
        load_ensemble(bundle)


def test_load_ensemble_bug_is_raised_as_it_is(bundle, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", failing(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match=r"^shapes$"):
        load_ensemble(bundle)


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(), reason="this kernel does not ask, or hands out none"
)
@pytest.mark.parametrize(("said", "large"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_tune_allocation_activations_lie_in_them_unless_the_environment_says_otherwise(said, large):
    program = """
        import torch
        from pathlib import Path
        from cxr_ray.models.memory import tune_allocation
        tune_allocation()
        held = torch.empty(2**28, dtype=torch.uint8).fill_(1)
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        print(next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")))
    """
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | said
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) > 2**17) is large, done.stdout  # kB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tune_allocation_memory_that_is_freed_is_kept_for_the_next_batch():
    program = """
        import resource, sys
        from concurrent.futures import ThreadPoolExecutor
        import torch
        from cxr_ray.models.memory import tune_allocation
        older = ThreadPoolExecutor(1)
        older.submit(lambda: [bytes(10000) for _ in range(100)]).result()
        if sys.argv[1] == "tuned":
            tune_allocation()
        thread = older if sys.argv[1] == "environment" else ThreadPoolExecutor(1)
        def faults():
            held = [torch.empty(2**26, dtype=torch.uint8).fill_(1) for _ in range(4)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        counted = [thread.submit(faults).result() for _ in range(12)]
        print(counted[-1] - counted[-2])
    """
    counted = {}
    for how in ("plain", "tuned", "environment"):
        environment = os.environ | (allocation_environment() if how == "environment" else {})
        command = [sys.executable, "-c", textwrap.dedent(program), how]
        counted[how] = int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert counted["tuned"] < 100 < counted["plain"], counted
    assert counted["environment"] < 100, counted


def test_allocation_environment_leaves_what_is_said_already(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert allocation_environment() == {"THP_MEM_ALLOC_ENABLE": "1"}
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert allocation_environment() == {}
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    assert set(allocation_environment()) == {"MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"}
