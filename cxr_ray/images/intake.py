"""Images from their uris to model inputs, or to the faults that say why not: the one door of training and scoring.

Only here do errors become data, and only DecodeError, StorageError and the death of a decoder's process do: every
other exception is a bug and ends the run. Knows no Ray, no model and no table.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_ray import storage
from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig, StorageConfig
from cxr_ray.errors import DecodeError, Fault, StorageError
from cxr_ray.images.gate import Passed, check_gate, check_picture
from cxr_ray.images.header import Header
from cxr_ray.images.isolation import Died, deadline, each_in_a_child
from cxr_ray.images.packed import archives
from cxr_ray.images.preprocess import Placement, preprocess
from cxr_ray.images.radiograph import decode, read_header


@dataclass(frozen=True, slots=True)
class Intake:
    """How images are taken in. `gate` None lets every image pass: in training the table says what is a chest film.

    `patient_key_secret` is the key of `patient_key`.
    """

    preprocess: PreprocessConfig
    limits: LimitsConfig
    gate: GateConfig | None = None
    patient_key_secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image on its way to a model: a model input (S, S) with its placement, or a fault with its sentence.

    `fetch_seconds` are those that decoding had to wait for the bytes: none where they were there already.
    """

    uri: str
    object_version: str
    fetch_seconds: float = 0.0
    decode_seconds: float = 0.0
    header: Header | None = None
    voi_source: str | None = None
    gate: Passed | None = None
    placement: Placement | None = None
    pixels: NDArray[np.uint8] | None = None
    fault: Fault | None = None
    fault_detail: str | None = None


def decode_images(items: Sequence[storage.Item], intake: Intake, *, alone: bool) -> Iterator[Decoded]:
    """Each (uri, version, size) in order, fetched while the ones before are decoded.

    `alone` in a child process that fetches for itself, so that a decoder that dies costs one image.
    """
    cv2.setNumThreads(1)  # tasks share the cores; a pool of threads in each would only fight
    return _each_alone(items, intake) if alone else _each_as_it_comes(items, intake)


def decode_one(uri: str, version: str, intake: Intake) -> Decoded:
    """One image of this version ('' for any) to a model input, or to the fault that says why not.

    Ends the process when the way from bytes to model input takes longer than `limits.decode_seconds`: see isolation.

    The directory of an archive is read once per process. A .tar.gz cannot be entered in the middle: each process
    inflates it once for its directory, and each task from its start up to the last member it wants; repack a large one
    as .tar or .zip.
    """
    return _decode(uri, version, intake, lambda: archives.fetch(uri, version, limits=intake.limits))


def _each_as_it_comes(items: Sequence[storage.Item], intake: Intake) -> Iterator[Decoded]:
    """Like `decode_one` for each item, with many requests in flight; members of archives are read one by one."""
    plain = [item for item in items if not archives.is_packed(item[0])]
    with closing(storage.fetch(plain, max_bytes=intake.limits.object_bytes)) as fetched:
        for uri, version, _ in items:
            if archives.is_packed(uri):
                yield decode_one(uri, version, intake)
            else:
                yield _decode(uri, version, intake, partial(_next_of, fetched))


def _next_of(fetched: Iterator[bytes | StorageError]) -> bytes:
    """The bytes of the next object. Raises StorageError."""
    found = next(fetched)
    if isinstance(found, StorageError):
        raise found
    return found


def _decode(uri: str, version: str, intake: Intake, fetch: Callable[[], bytes]) -> Decoded:
    """One image whose bytes `fetch` returns, or its fault."""
    started = time.perf_counter()
    try:
        data = fetch()
    except (DecodeError, StorageError) as error:
        return Decoded(uri, version, time.perf_counter() - started, fault=error.fault, fault_detail=error.detail)
    fetched = time.perf_counter()
    with deadline(intake.limits.decode_seconds):
        found = _decoded(data, intake)
    return Decoded(uri, version, fetched - started, time.perf_counter() - fetched, **found)


def _decoded(data: bytes, intake: Intake) -> dict[str, Any]:
    """What the bytes add to an image: the header as far as it was read, and a model input or a fault."""
    header, gate = None, None
    try:
        encoded = read_header(data, limits=intake.limits, patient_key_secret=intake.patient_key_secret)
        header = encoded.header
        if intake.gate is not None:
            check_gate(header, intake.gate)
        radiograph = decode(encoded, preprocess=intake.preprocess)
        if intake.gate is not None:
            gate = check_picture(header, radiograph.pixels, intake.gate)
        pixels, placement = preprocess(radiograph, intake.preprocess)
    except DecodeError as error:
        return {"header": header, "fault": error.fault, "fault_detail": error.detail}
    voi_source = radiograph.voi_source
    return {"header": header, "voi_source": voi_source, "gate": gate, "placement": placement, "pixels": pixels}


def _each_alone(items: Sequence[storage.Item], intake: Intake) -> Iterator[Decoded]:
    """Like `decode_one` for each item, in a child process that is replaced when it dies."""
    shared = {"intake": intake, "stores": storage.configured()}
    for (uri, version, _), found in zip(items, each_in_a_child(_decode_item, items, shared), strict=True):
        if isinstance(found, Died):
            fault, detail = fault_of_death(found, intake.limits)
            yield Decoded(uri, version, fault=fault, fault_detail=detail)
        else:
            yield found


def _decode_item(item: storage.Item, *, intake: Intake, stores: tuple[StorageConfig, float]) -> Decoded:
    """`decode_one` of one item, in a process that has not been told of its stores yet."""
    config, share = stores
    storage.configure(config, share=share)
    return decode_one(item[0], item[1], intake)


def fault_of_death(died: Died, limits: LimitsConfig) -> tuple[Fault, str]:
    """The fault of an image whose decoding ended its process, and the sentence that says so."""
    if died.timed_out:
        detail = f"Decoding took longer than limits.decode_seconds = {limits.decode_seconds:g}, even alone; "
        return Fault.DECODER_TIMEOUT, detail + "raise it if the file is genuine."
    how = f"by signal {died.signal_number}" if died.signal_number else "without a word"
    return Fault.DECODER_CRASHED, f"The decoder's process ended {how}, even alone; export the file again."
