"""The feature maps of a member by ONNX Runtime on the CPU. The heads, and with them the heat maps, stay torch's.

An export takes seconds a member, so the graph is kept in a folder of this machine, under a name that follows from the
weights and the versions that made it. Whether it computes the same is for the ensemble's golden image to say. Knows no
bundle and no other member.
"""

import fcntl
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ray import storage
from cxr_ray.config import digest_of
from cxr_ray.config.scoring import Precision, Runtime
from cxr_ray.errors import ConfigError
from cxr_ray.models.member import Member, MemberSpec

_MAKERS = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")  # a graph is of their versions
_INPUT = "pixels"
_DIGEST_BYTES = 32


class OnnxMember(Member):
    """A member whose feature maps ONNX Runtime computes, on the thread that asks."""

    def __init__(self, member: Member, session: Any) -> None:
        """Take over `member`; `session` is an InferenceSession of its graph."""
        super().__init__(member.backbone, size=member.size, mean=member.mean, std=member.std, offset=member.offset)
        self._session = session

    def features(self, images: Tensor) -> Tensor:
        """The last feature map (B, C, h, w) of model inputs (B, 1, S, S); torch's error where memory is short."""
        pixels = self.prepare(images).contiguous().numpy()
        try:
            (found,) = self._session.run(None, {_INPUT: pixels})
        except Exception as error:  # ONNX Runtime's errors have no class of their own for this
            if "Failed to allocate memory" not in str(error):
                raise
            raise torch.OutOfMemoryError(str(error)) from error
        return torch.from_numpy(found)


def check_runtime(runtime: Runtime, device: torch.device, precision: Precision) -> None:
    """Refuse what ONNX Runtime is not here for. Raises ConfigError."""
    if runtime == "torch":
        return
    if device.type != "cpu":
        raise ConfigError(f"--runtime onnx computes on CPUs, and this run is on {device.type}; leave it out.")
    if precision != "fp32":
        raise ConfigError(f"--runtime onnx computes in fp32; leave out either it or --precision {precision}.")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            version(name)
        except PackageNotFoundError as error:
            raise ConfigError(f"--runtime onnx needs {name}; pip install 'cxr-ray[onnx]'.") from error


def by_onnx(member: Member, spec: MemberSpec, *, cache: str | None = None) -> OnnxMember:
    """`member` with its feature maps by ONNX Runtime; exported where `cache` does not hold its graph yet.

    `cache` is a folder; None: cxr_ray/onnx in XDG_CACHE_HOME or ~/.cache. Processes that want the same graph at the
    same time wait for the first one's. A damaged graph is exported again.

    Raises:
        ConfigError: The folder cannot be written.
    """
    place = _cache_folder(cache) / f"{spec.backbone}-{_key(spec)}"
    with _alone(place):
        graph = _kept(place)
        if graph is None:
            graph = _exported(member)
            storage.put(str(place), hashlib.sha256(graph).digest() + graph)
    return OnnxMember(member, _session(graph))


class _Body(nn.Module):
    """What is exported of a member: normalised pixels to the last feature map."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.backbone = member.backbone

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.backbone.forward_features(pixels)  # type: ignore[operator]
        return features


def _exported(member: Member) -> bytes:
    """The graph of a member's body for batches of any size, with its weights."""
    example = torch.zeros(2, 1, member.size, member.size)  # a batch of one would be taken for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters speak of their own deprecations
        program = torch.onnx.export(
            _Body(member).eval(),
            (example,),
            input_names=[_INPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def _kept(place: Path) -> bytes | None:
    """The graph of a file, which begins with its SHA-256; None where there is none, or it is damaged."""
    if not place.exists():
        return None
    kept = place.read_bytes()
    digest, graph = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    return graph if hashlib.sha256(graph).digest() == digest else None


def _session(graph: bytes) -> Any:
    """A session that computes on the calling thread: threads and actors have a core each, and share nothing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised as well
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _key(spec: MemberSpec) -> str:
    """What a graph depends on."""
    facts = {name: value for name, value in asdict(spec).items() if name not in ("name", "findings", "training")}
    return digest_of({**facts, "made_by": {name: version(name) for name in _MAKERS}})


def _cache_folder(cache: str | None) -> Path:
    """The folder of the graphs."""
    if cache is not None:
        return Path(cache)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxr_ray" / "onnx"


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While the block runs no other process makes this file. Raises ConfigError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_suffix(".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"The graphs of --runtime onnx cannot be kept in {place.parent} ({error.strerror}); say where with"
            " onnx_cache."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
