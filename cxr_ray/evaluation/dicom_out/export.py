"""A score folder as DICOM files for the PACS: per study a report, per image a presentation state, per finding a map.

Files are called by their UIDs, so that a second export into the same folder makes what is missing and no more. Names
hold no patient data; what of a study cannot be read again is counted, said, and left out.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydicom.dataset import Dataset

from cxr_ray import storage
from cxr_ray.errors import ConfigError, DecodeError, StorageError
from cxr_ray.evaluation.dicom_out import naming
from cxr_ray.evaluation.dicom_out.capture import capture_uid, secondary_capture
from cxr_ray.evaluation.dicom_out.report import report_uid, structured_report
from cxr_ray.evaluation.dicom_out.scores import Answer, ScoredImage, image_of, wanted_columns
from cxr_ray.evaluation.dicom_out.source import Source, read_source, show
from cxr_ray.evaluation.dicom_out.state import presentation_state, state_uid
from cxr_ray.scoring.table import FAULTED, SCORED, Contract, choose_contract, read_scores, rows_of

NUM_EXAMPLES = 5
_IDENTITY = ["uri", "status", "scored_at", "sop_instance_uid", "study_instance_uid"]
_IMAGES_AT_ONCE = 2048  # rows with their heat maps that are held at a time
_STUDIES_AT_ONCE = 4  # hides an object store's latency, and bounds the films in memory
_NOTE = "export.json"
_REPORT, _CAPTURE, _STATE = _MODALITIES = ("SR", "OT", "PR")


@dataclass(slots=True)
class Exported:
    """What became of the rows of a score folder. `unreadable` are pairs of uri and sentence, the first few."""

    folder: str
    ensemble_digest: str
    num_studies: int = 0
    num_images: int = 0
    num_reports: int = 0
    num_captures: int = 0
    num_states: int = 0
    num_already_there: int = 0
    num_faulted: int = 0
    num_not_dicom: int = 0
    num_without_study: int = 0
    num_copies: int = 0
    num_without_present: int = 0
    num_without_map: int = 0
    num_unreadable: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "unreadable": [{"uri": uri, "detail": detail} for uri, detail in self.unreadable]}

    def lines(self) -> list[str]:
        """For people: what was written, then what was left out and why."""
        made = (
            f"{self.folder}: {self.num_reports:,} structured reports, {self.num_captures:,} heat maps and"
            f" {self.num_states:,} presentation states written for {self.num_images:,} images of"
            f" {self.num_studies:,} studies; {self.num_already_there:,} files were there already."
        )
        left_out = (
            (self.num_unreadable, "images left out, because their file is gone, changed or cannot be read"),
            (self.num_faulted, "images left out, because they have no score (faulted)"),
            (self.num_not_dicom, "images left out, because their source is no DICOM"),
            (self.num_without_study, "images left out, because their source names no study or no instance"),
            (self.num_copies, "images left out, because another file has the same SOP Instance UID"),
            (self.num_without_present, "images left out, because no finding is at or above its threshold"),
            (self.num_without_map, "findings at or above threshold without a heat map, so without a picture"),
        )
        counted = [f"  {count:,} {what}." for count, what in left_out if count]
        return [made, *counted, *(f"    {uri}: {detail}" for uri, detail in self.unreadable)]

    def could_not_read(self, uri: str, detail: str) -> None:
        """Count an image that cannot be read again, and keep the first few."""
        self.num_unreadable += 1
        if len(self.unreadable) < NUM_EXAMPLES:
            self.unreadable.append((uri, detail))


@dataclass(slots=True)
class _Study:
    """What became of one study."""

    images: int = 0
    written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_MODALITIES, 0))
    already_there: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def export_dicom(
    output: str,
    folder: str,
    *,
    ensemble_digest: str | None = None,
    positive: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the objects of all scored DICOM images below `output` to `folder`, a path or an s3:// prefix.

    `positive` leaves out images without a finding at or above its threshold.

    Raises:
        ConfigError: There are no scores, or several ensembles and none was chosen; `folder` holds something else.
        StorageError: `folder` takes no files.
    """
    contract = choose_contract(output, ensemble_digest)
    folder = storage.absolute(folder)
    there = _claim(folder, contract)
    result = Exported(folder, contract.ensemble_digest)
    chosen = _chosen(output, contract, result)
    total = chosen.num_rows
    with ThreadPoolExecutor(_STUDIES_AT_ONCE, thread_name_prefix="cxr-ray-export") as pool:
        for part in _parts(chosen):
            studies = _studies(output, contract, part, result, positive=positive)
            for done in pool.map(lambda images: _export_study(images, contract, folder, there), studies):
                _add(result, done)
            log(f"{result.num_images:,} of {total:,} images exported")
    return result


def _claim(folder: str, contract: Contract) -> frozenset[str]:
    """The uris of the files that are in the folder, which must be empty or hold an export of this ensemble."""
    note = storage.join(folder, _NOTE)
    there = frozenset(item.uri for item in storage.list_objects(folder, missing_ok=True))
    stated = {"ensemble_digest": contract.ensemble_digest, "layout": naming.LAYOUT}
    if note in there:
        if _read_note(note) != stated:
            raise ConfigError(
                f"{folder} holds an export of another ensemble or by another version of cxr-ray; choose another --dicom"
                " folder."
            )
    elif there:
        raise ConfigError(f"{folder} holds files that are no export of cxr-ray; choose an empty --dicom folder.")
    else:
        storage.put(note, json.dumps(stated).encode())
    return there


def _read_note(uri: str) -> Any:
    """What the note says, None where it says nothing."""
    try:
        return json.loads(storage.get(uri))
    except ValueError:
        return None


def _chosen(output: str, contract: Contract, result: Exported) -> pa.Table:
    """Identity of the images to export, by study and instance; what is left out is counted in `result`."""
    table, _ = read_scores(output, wanted=_IDENTITY, ensemble_digest=contract.ensemble_digest)
    result.num_faulted = _count(pc.equal(table["status"], FAULTED))
    table = table.filter(pc.equal(table["status"], SCORED))
    # A raster file has neither; DICOM without one of them cannot be referred to.
    neither = pc.and_(pc.is_null(table["sop_instance_uid"]), pc.is_null(table["study_instance_uid"]))
    result.num_not_dicom = _count(neither)
    both = pc.and_(pc.is_valid(table["sop_instance_uid"]), pc.is_valid(table["study_instance_uid"]))
    result.num_without_study = table.num_rows - result.num_not_dicom - _count(both)
    table = table.filter(both).sort_by(
        [(name, "ascending") for name in ("study_instance_uid", "sop_instance_uid", "uri")]
    )
    instances = table["sop_instance_uid"].combine_chunks()
    first = pa.concat_arrays([pa.array([True] * min(1, len(instances))), pc.not_equal(instances[1:], instances[:-1])])
    result.num_copies = table.num_rows - _count(first)
    return table.filter(first).select(["uri", "scored_at", "study_instance_uid"])


def _count(mask: Any) -> int:
    """How many are true."""
    return int(pc.sum(mask).as_py() or 0)


def _parts(chosen: pa.Table) -> Iterator[pa.Table]:
    """The images in parts of about _IMAGES_AT_ONCE that end with a study."""
    studies = chosen["study_instance_uid"].to_pylist()
    start = 0
    while start < len(studies):
        end = min(start + _IMAGES_AT_ONCE, len(studies))
        while end < len(studies) and studies[end] == studies[end - 1]:
            end += 1
        yield chosen.slice(start, end - start)
        start = end


def _studies(
    output: str, contract: Contract, part: pa.Table, result: Exported, *, positive: bool
) -> list[list[ScoredImage]]:
    """The images of a part with their answers, one list per study."""
    keys = set(zip(part["uri"].to_pylist(), part["scored_at"].to_pylist(), strict=True))
    where = pc.field("uri").isin([uri for uri, _ in keys])
    rows = rows_of(output, wanted=wanted_columns(contract), contract=contract, where=where)
    current = [row for row in rows.to_pylist() if (row["uri"], row["scored_at"]) in keys]
    images = sorted(
        (image_of(row, contract) for row in current),
        key=lambda image: (image.study_instance_uid, image.sop_instance_uid),
    )
    if positive:
        with_findings = [image for image in images if image.present]
        result.num_without_present += len(images) - len(with_findings)
        images = with_findings
    result.num_without_map += sum(answer.heatmap is None for image in images for answer in image.present)
    pairs = ((image.study_instance_uid, image) for image in images)
    return [[image for _, image in group] for _, group in groupby(pairs, key=itemgetter(0))]


def _add(result: Exported, study: _Study) -> None:
    """Count a study."""
    result.num_studies += study.images > 0
    result.num_images += study.images
    result.num_reports += study.written[_REPORT]
    result.num_captures += study.written[_CAPTURE]
    result.num_states += study.written[_STATE]
    result.num_already_there += study.already_there
    for uri, detail in study.unreadable:
        result.could_not_read(uri, detail)


def _export_study(images: list[ScoredImage], contract: Contract, folder: str, there: frozenset[str]) -> _Study:
    """Write what is missing of one study. A study whose files are all there is not read again."""
    expected = [uri for image in images for uri in _picture_uris(image, contract, folder)]
    expected.append(_report_uri(images, contract, folder))
    if there.issuperset(expected):
        return _Study(images=len(images), already_there=len(expected))
    done, sources = _Study(), []
    for image in images:
        try:
            source = read_source(image)
            pictures = _pictures(source, contract, folder, there)
        except (StorageError, DecodeError) as error:
            done.unreadable.append((image.uri, error.detail))
            continue
        sources.append(replace(source, data=b""))
        done.already_there += sum(uri in there for uri in _picture_uris(image, contract, folder))
        for uri, made in pictures:
            _write(uri, made, done)
    done.images = len(sources)
    if sources:
        uri = _report_uri([source.image for source in sources], contract, folder)
        if uri in there:
            done.already_there += 1
        else:
            _write(uri, structured_report(sources, contract), done)
    return done


def _write(uri: str, made: Dataset, done: _Study) -> None:
    """Put an object whole or not at all. Raises StorageError."""
    storage.put(uri, naming.file_bytes(made))
    done.written[str(made.Modality)] += 1


def _pictures(source: Source, contract: Contract, folder: str, there: frozenset[str]) -> list[tuple[str, Dataset]]:
    """What is missing of an image's pictures; the film is decoded only where something is."""
    image = source.image
    if there.issuperset(_picture_uris(image, contract, folder)):
        return []
    shown = show(source)
    made = []
    for answer in image.mapped:
        uri = _capture_uri(image, answer, contract, folder)
        if uri not in there:
            made.append((uri, secondary_capture(source, shown, answer, contract)))
    if image.placed and image.is_grey and _state_uri(image, contract, folder) not in there:
        made.append((_state_uri(image, contract, folder), presentation_state(source, shown, contract)))
    return made


def _picture_uris(image: ScoredImage, contract: Contract, folder: str) -> list[str]:
    """Where the pictures of an image lie, once they are written."""
    captures = [_capture_uri(image, answer, contract, folder) for answer in image.mapped]
    return [*captures, _state_uri(image, contract, folder)] if image.placed and image.is_grey else captures


def _capture_uri(image: ScoredImage, answer: Answer, contract: Contract, folder: str) -> str:
    """Where the heat map of one finding lies."""
    return _uri(folder, image, "sc", capture_uid(contract, image.sop_instance_uid, answer.finding))


def _state_uri(image: ScoredImage, contract: Contract, folder: str) -> str:
    """Where the presentation state of an image lies."""
    return _uri(folder, image, "pr", state_uid(contract, image.sop_instance_uid))


def _report_uri(images: list[ScoredImage], contract: Contract, folder: str) -> str:
    """Where the report of these images of one study lies."""
    instances = [image.sop_instance_uid for image in images]
    return _uri(folder, images[0], "sr", report_uid(contract, images[0].study_instance_uid, instances))


def _uri(folder: str, image: ScoredImage, kind: str, sop_instance_uid: str) -> str:
    """A file's place: by the study, then by its own kind and UID."""
    return storage.join(folder, image.study_instance_uid, f"{kind}-{sop_instance_uid}.dcm")
