"""Scanning an archive by its headers: what it says of each file, what it costs, and that scoring agrees."""

import csv
import io
import json
import math
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.sequence import Sequence

from cxr_ray import storage
from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig, ScanConfig, ScoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.images.dicom.survey import PACKAGES, survey
from cxr_ray.images.dicom.vendors import vendor_of
from cxr_ray.images.intake import Intake, decode_one
from cxr_ray.scoring.estimate import DECODE_MS_PER_MEGAPIXEL, estimate
from cxr_ray.scoring.scan import ScanResult, scan
from tests.images.dicom_files import SHARED_DICOM, build_dicom

INTAKE = Intake(PreprocessConfig(size=64), LimitsConfig(), GateConfig())
SECRET = "Zoe Secretova"
RAMP = np.add.outer(np.arange(96) * 40, np.arange(80) * 3)
FILM = np.clip(RAMP + np.random.default_rng(5).integers(0, 150, RAMP.shape), 0, 4095).astype(np.uint16)
BYTES = (FILM // 16).astype(np.uint8)
SYNTAXES = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
]


def dicom(pixels: np.ndarray = FILM, **attributes: Any) -> bytes:
    """A film of 96 x 80 pixels and 12 bits."""
    return build_dicom(pixels, **({"bits_stored": 12} if pixels.dtype == np.uint16 else {}) | attributes)


def without_pixels(sop_class: str, **attributes: Any) -> bytes:
    """An object of a kind that has no pixels."""
    dataset = pydicom.dcmread(io.BytesIO(dicom()))
    del dataset.PixelData
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target)
    return target.getvalue()


def picture(file_format: str, pixels: np.ndarray = BYTES, **options: Any) -> bytes:
    """PNG, JPEG or TIFF bytes."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format=file_format, **options)
    return target.getvalue()


def grown(data: bytes, length: int) -> bytes:
    """A DICOM file with a private element of that length before its pixel data."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.private_block(0x0029, "ACME", create=True).add_new(0x10, "OB", b"\7" * length)
    target = io.BytesIO()
    dataset.save_as(target)
    return target.getvalue()


def without_meta(data: bytes, *, keep_prefix: bool = False) -> bytes:
    """A DICOM file that begins with its dataset, or only without its preamble."""
    if keep_prefix:
        return data[128:]
    dataset_starts = 132 + 12 + struct.unpack_from("<I", data, 132 + 8)[0]
    return data[dataset_starts:]


def renamed(data: bytes, syntax: str) -> bytes:
    """A DICOM file that names Explicit VR Little Endian instead of its syntax."""
    right, wrong = (f"UI{chr(len(text))}\0{text}".encode() for text in (syntax, "1.2.840.10008.1.2.1\0"))
    assert data.count(right) == 1
    return data.replace(right, wrong)


def nested(data: bytes) -> bytes:
    """A DICOM file with a sequence of undefined length that holds pixels of its own, before the real ones."""
    dataset, icon = pydicom.dcmread(io.BytesIO(data)), Dataset()
    icon.Rows = icon.Columns = 2
    icon.PixelData = b"\0" * 8
    icon["PixelData"].VR = "OW"
    dataset.IconImageSequence = Sequence([icon])
    dataset["IconImageSequence"].is_undefined_length = True
    icon.is_undefined_length_sequence_item = True
    target = io.BytesIO()
    dataset.save_as(target)
    return target.getvalue()


def mixed() -> dict[str, tuple[bytes, str | None]]:
    """Files of every kind by name, each with the fault that its header tells."""
    frames = np.stack([FILM, FILM])
    native = dicom()
    files: dict[str, tuple[bytes, str | None]] = {
        **{f"{UID.keyword}.dcm": (dicom(syntax=UID), None) for UID in SYNTAXES},
        "JPEGBaseline8Bit.dcm": (dicom(BYTES, syntax=uid.JPEGBaseline8Bit), None),
        "ct.dcm": (dicom(Modality="CT", SOPClassUID=uid.CTImageStorage), "wrong_modality"),
        "no modality.dcm": (dicom(Modality=None), "wrong_modality"),
        "knee.dcm": (dicom(BodyPartExamined="KNEE"), "wrong_body_part"),
        "lateral.dcm": (dicom(ViewPosition="LL"), "wrong_view"),
        "small.dcm": (dicom(FILM[:20]), "too_small"),
        "frames.dcm": (dicom(FILM, NumberOfFrames=2, PixelData=frames.tobytes()), "multiple_frames"),
        "report.dcm": (without_pixels(uid.BasicTextSRStorage, Modality="SR"), "structured_report"),
        "state.dcm": (without_pixels(uid.GrayscaleSoftcopyPresentationStateStorage, Modality="PR"), "no_pixels"),
        "unknown syntax.dcm": (
            native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
            "unsupported_encoding",
        ),
        "cut in pixels.dcm": (native[:-2000], "corrupt"),
        "cut in header.dcm": (native[:400], "corrupt"),
        "cut at pixels.dcm": (native[: -FILM.nbytes], "no_pixels"),
        "too long.dcm": (dicom(PixelData=FILM.tobytes() * 2), "corrupt"),
        "no rows.dcm": (dicom(Rows=None), "corrupt"),
        "private.dcm": (grown(native, 500_000), None),
        "nested.dcm": (nested(native), None),
        "bare.dcm": (without_meta(native, keep_prefix=True), None),
        "no meta.dcm": (without_meta(dicom(syntax=uid.ImplicitVRLittleEndian)), None),
        "no meta big.dcm": (without_meta(dicom(syntax=uid.ExplicitVRBigEndian)), None),
        "implicit as explicit.dcm": (renamed(dicom(syntax=uid.ImplicitVRLittleEndian), "1.2.840.10008.1.2\0"), None),
        "no meta jpeg.dcm": (without_meta(dicom(BYTES, syntax=uid.JPEGBaseline8Bit)), None),
        "rgb.dcm": (dicom(np.stack([BYTES] * 3, axis=-1), photometric="RGB"), None),
        "film.png": (picture("PNG"), None),
        "cut.png": (picture("PNG")[:-900], None),
        "turned.jpg": (picture("JPEG", exif=_turned()), None),
        "film.tif": (picture("TIFF"), None),
        "cut.tif": (picture("TIFF")[:-40], None),
        "pages.tif": (picture("TIFF", save_all=True, append_images=[Image.fromarray(BYTES)]), "multiple_frames"),
        "icon.png": (picture("PNG", BYTES[:16, :16]), "too_small"),
        "empty.dcm": (b"", "empty_file"),
        "letter.dcm": (b"Dear colleague, thank you", "not_an_image"),
    }
    return files


def tiff_with_directory_at_its_end(pixels: np.ndarray) -> bytes:
    """An uncompressed grey TIFF as scanners write it: pixels first. Source: TIFF 6.0, section 2."""
    rows, columns = pixels.shape
    values = [
        (256, columns),
        (257, rows),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, pixels.size),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    directory = struct.pack("<H", len(values)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + pixels.size) + pixels.tobytes() + directory


def _turned() -> Image.Exif:
    """EXIF data that say: turn by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed files on disk."""
    target = tmp_path_factory.mktemp("mixed")
    for name, (data, _) in mixed().items():
        (target / name).write_bytes(data)
    return target


def scanned(
    *inputs: object, output: Path | None = None, config: ScoreConfig | None = None, **options: Any
) -> ScanResult:
    """The result of a scan with the default settings."""
    return scan(
        [str(given) for given in inputs],
        config=config or ScoreConfig(),
        scan_config=ScanConfig(),
        output=None if output is None else str(output),
        log=lambda line: None,
        **options,
    )


def rows_of(*inputs: object, tmp_path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """The rows of a scan by file name."""
    scanned(*inputs, output=tmp_path / "rows.parquet", **options)
    return {row["uri"].rpartition("/")[2]: row for row in pq.read_table(tmp_path / "rows.parquet").to_pylist()}


def test_scan_mixed_files_faults_that_headers_tell(folder, tmp_path):
    found = {name: row["expected_fault"] for name, row in rows_of(folder, tmp_path=tmp_path).items()}
    assert found == {name: fault for name, (_, fault) in mixed().items()}


def test_scan_agrees_with_scoring(folder, tmp_path):

    rows = rows_of(folder, tmp_path=tmp_path)
    faults = {name: decode_one(row["uri"], row["object_version"], INTAKE).fault for name, row in rows.items()}
    assert {name: fault for name, fault in faults.items() if rows[name]["expected_fault"]} == {
        name: row["expected_fault"] for name, row in rows.items() if row["expected_fault"]
    }
    unforeseen = {name: str(fault) for name, fault in faults.items() if fault and not rows[name]["expected_fault"]}
    assert unforeseen == {"cut.png": "corrupt", "cut.tif": "corrupt"}


@settings(deadline=None, max_examples=300)
@given(
    syntax=st.sampled_from(
        [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian]
    ),
    share=st.floats(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3),
)
def test_survey_damaged_file_no_fault_that_scoring_would_not_find(syntax, share, changes):
    from cxr_ray.errors import DecodeError
    from cxr_ray.images.gate import check_gate
    from cxr_ray.images.radiograph import decode, read_header

    data = bytearray(dicom(syntax=syntax))
    for position, value in changes:
        data[position] = value
    damaged = bytes(data[: math.ceil(len(data) * (1 - share**3))])
    expected = survey(io.BytesIO(damaged), len(damaged), limits=LimitsConfig(), gate=GateConfig()).expected_fault
    fault = None
    try:
        encoded = read_header(damaged, limits=LimitsConfig())
        check_gate(encoded.header, GateConfig())
        decode(encoded, preprocess=PreprocessConfig())
    except DecodeError as error:
        fault = error.fault
    assert expected in (None, fault)


def test_scan_rows_say_what_files_are(folder, tmp_path):
    rows = rows_of(folder, tmp_path=tmp_path)
    assert {
        name: rows[name]["transfer_syntax_uid"] for name in ("no meta.dcm", "no meta big.dcm", "no meta jpeg.dcm")
    } == {
        "no meta.dcm": uid.ImplicitVRLittleEndian,
        "no meta big.dcm": uid.ExplicitVRBigEndian,
        "no meta jpeg.dcm": uid.JPEGBaseline8Bit,
    }
    film = rows["private.dcm"]
    assert (film["modality"], film["view_position"], film["body_part_examined"]) == ("DX", "PA", "CHEST")
    assert (film["rows"], film["columns"], film["bits_allocated"], film["bits_stored"]) == (96, 80, 16, 12)
    assert (film["sop_instance_uid"], film["vendor"]) == ("1.2.3.4", "not stated")
    assert (rows["turned.jpg"]["rows"], rows["turned.jpg"]["columns"]) == (80, 96)
    assert (rows["pages.tif"]["num_frames"], rows["pages.tif"]["format"]) == (2, "tiff")
    assert rows["frames.dcm"]["num_frames"] == 2
    assert rows["report.dcm"]["modality"] == "SR"


def test_scan_counts_add_up(folder):
    census = scanned(folder).census
    kinds = Counter(fault for _, fault in mixed().values() if fault)
    assert census.objects == len(mixed()) == census.scored + kinds.total()
    assert dict(census.faults) == dict(kinds)
    assert census.counts["format"] == {"dicom": 33, "png": 3, "tiff": 3, "jpeg": 1, "none of DICOM, PNG, JPEG, TIFF": 2}
    assert census.counts["transfer_syntax"].total() == 33
    assert census.bytes == sum(len(data) for data, _ in mixed().values())
    assert Path(census.examples["wrong_view"]).name == "lateral.dcm"


def test_scan_private_element_and_deflated_pixels_are_not_read(tmp_path):
    film = np.random.default_rng(3).integers(0, 4096, (1500, 1400), dtype=np.uint16)
    (tmp_path / "film.dcm").write_bytes(grown(dicom(film), 500_000))
    (tmp_path / "film.zz").write_bytes(dicom(film, syntax=uid.DeflatedExplicitVRLittleEndian))
    census = scanned(tmp_path).census
    assert census.faults.total() == 0
    assert census.bytes > 8e6
    assert census.bytes_read < 2e6


@pytest.fixture
def answers(s3: str) -> list[int]:
    """The bytes of every answer to a GET that this process sends, as the server announces them."""
    sizes: list[int] = []
    storage.stores.current().of(s3).client.meta.events.register(
        "after-call.s3.GetObject", lambda parsed, **rest: sizes.append(parsed.get("ContentLength", 0))
    )
    return sizes


@pytest.mark.parametrize("kind", ["native", "compressed", "private", "tiff", "png"])
def test_scan_large_object_in_storage_costs_a_few_requests_and_less_than_a_twentieth(s3, answers, kind):
    film = np.random.default_rng(3).integers(0, 4096, (3300, 3100), dtype=np.uint16)
    bytes_of: dict[str, Callable[[], bytes]] = {
        "native": lambda: dicom(film),
        "compressed": lambda: dicom(film, syntax=uid.RLELossless),
        "private": lambda: grown(dicom(film), 500_000),
        "tiff": lambda: tiff_with_directory_at_its_end(np.repeat((film // 16).astype(np.uint8), 2, axis=0)),
        "png": lambda: picture("PNG", film * 16, compress_level=0),
    }
    storage.put(f"{s3}/film", bytes_of[kind]())
    result = scanned(s3)
    assert result.census.scored == 1
    assert result.census.bytes > 15_000_000
    assert sum(answers) == result.census.bytes_read < 0.05 * result.census.bytes
    assert len(answers) == result.census.requests <= 3


def test_scan_storage_and_folder_tell_the_same(s3, answers, folder, tmp_path):
    for path in folder.iterdir():
        storage.put(f"{s3}/{path.name}", path.read_bytes())
    local, remote = rows_of(folder, tmp_path=tmp_path), rows_of(s3, tmp_path=tmp_path)
    own = ("uri", "object_version")
    assert {name: {key: row[key] for key in row if key not in own} for name, row in remote.items()} == {
        name: {key: row[key] for key in row if key not in own} for name, row in local.items()
    }
    assert sum(answers) == sum(row["bytes_read"] for row in remote.values())
    result = scanned(s3, output=f"{s3}-rows/scan.csv")  # type: ignore[arg-type]
    rows = list(csv.DictReader(io.StringIO(storage.get(f"{s3}-rows/scan.csv").decode())))
    assert len(rows) == result.census.objects == len(local)


def test_scan_object_that_vanishes_or_is_absent_is_a_fault_of_the_storage(s3, monkeypatch):
    storage.put(f"{s3}/a.dcm", dicom())
    storage.put(f"{s3}/list.csv", f"uri\n{s3}/a.dcm\n{s3}/b.dcm\n{s3}/a.dcm\n".encode())
    assert dict(scanned(f"{s3}/list.csv").census.faults) == {"not_found": 1}
    storage.put(f"{s3}/late.dcm", dicom())
    listed = storage.list_span

    def then_removed(span: storage.Span) -> Any:
        items = list(listed(span))
        storage.delete(f"{s3}/late.dcm")
        return iter(items)

    monkeypatch.setattr(storage, "list_span", then_removed)
    census = scanned(s3, config=ScoreConfig(exclude=("*.csv",))).census
    assert (census.objects, dict(census.faults)) == (2, {"not_found": 1})


def test_scan_many_objects_in_processes_tells_the_same_in_order(tmp_path):
    for number in range(230):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number:03}.dcm").write_bytes(dicom(SOPInstanceUID=f"1.2.{number}"))
    lines: list[str] = []
    config = ScoreConfig(progress_every=1e-6)
    result = scan(
        [str(tmp_path / "in")], config=config, scan_config=ScanConfig(workers=2, threads=3),
        output=str(tmp_path / "rows.parquet"), log=lines.append,
    )  # fmt: skip
    assert result.census.scored == 230
    uids = pq.read_table(tmp_path / "rows.parquet")["sop_instance_uid"].to_pylist()
    assert uids == [f"1.2.{number}" for number in range(230)]
    assert "objects/s, about" in lines[1]
    assert lines[-1].startswith("230 of 230 headers (0 faults expected)")


def test_scan_limit_overlap_exclusions_and_settings(folder, tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom())
    (tmp_path / "notes.txt").write_text("left out")
    (tmp_path / "scan.tmp").write_text("left out")
    both = scanned(tmp_path, tmp_path / "a.dcm", config=ScoreConfig(exclude=("*.txt", "*.TMP")))
    assert (both.census.objects, both.left_out) == (1, 2)
    assert scanned(folder, limit=5).census.objects == 5
    strict = ScoreConfig(gate=GateConfig(min_side=81), limits=LimitsConfig(object_bytes=10_000))
    assert dict(scanned(tmp_path / "a.dcm", config=strict).census.faults) == {"too_large": 1}
    few = ScoreConfig(limits=LimitsConfig(pixels=96 * 80 - 1))
    assert dict(scanned(tmp_path / "a.dcm", config=few).census.faults) == {"too_large": 1}
    with pytest.raises(ConfigError, match=r"There is no image file in .* \(1 files were left out"):
        scanned(_only_notes(tmp_path))
    with pytest.raises(ConfigError, match=r"--output takes a file that ends in \.parquet or \.csv, not rows\.json"):
        scanned(folder, output=Path("rows.json"))


def _only_notes(tmp_path: Path) -> Path:
    """A folder without images."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    return tmp_path / "notes"


def test_scan_absent_decoder_is_foreseen_with_the_package_that_serves(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(dicom(syntax=uid.JPEGLSLossless))
    decoder = get_decoder(uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    census = scanned(tmp_path).census
    assert census.to_dict()["undecodable"] == {
        uid.JPEGLSLossless: {"name": uid.JPEGLSLossless.name, "count": 1, "package": "pyjpegls"}
    }
    assert f"{uid.JPEGLSLossless.name} ({uid.JPEGLSLossless}): pip install pyjpegls" in "\n".join(census.lines())


def test_packages_cover_every_compressed_syntax_that_is_decoded_here():
    from cxr_ray.images.dicom.codecs import PLUGINS

    assert set(PACKAGES) == set(PLUGINS)


def test_scan_unknown_syntax_has_no_package(folder):
    assert scanned(folder / "unknown syntax.dcm").census.to_dict()["undecodable"] == {
        "1.2.840.10008.9.9.9": {"name": "not a registered UID", "count": 1, "package": None}
    }


def test_scan_texts_of_a_header_never_come_out(tmp_path, caplog, capfd):
    texts = dict.fromkeys(("InstitutionName", "StudyDescription", "SeriesDescription", "ProtocolName"), SECRET)
    names = {"PatientName": SECRET, "PatientID": SECRET, "Manufacturer": SECRET, "ManufacturerModelName": SECRET}
    for number, code in enumerate(("Modality", "BodyPartExamined", "ViewPosition", "PhotometricInterpretation")):
        (tmp_path / f"{number}.dcm").write_bytes(dicom(**texts, **names, **{code: SECRET.upper()}))
    (tmp_path / "4.dcm").write_bytes(without_pixels(uid.BasicTextSRStorage, **texts, **names, Modality=SECRET.upper()))
    (tmp_path / "5.dcm").write_bytes(dicom(**texts, **names)[:700])
    lines: list[str] = []
    result = scan(
        [str(tmp_path)], config=ScoreConfig(), scan_config=ScanConfig(), output=str(tmp_path / "rows.parquet"),
        log=lines.append,
    )  # fmt: skip
    said = json.dumps(result.to_dict()) + "\n".join(result.lines() + lines) + caplog.text + "".join(capfd.readouterr())
    said += str(pq.read_table(tmp_path / "rows.parquet").to_pylist())
    assert result.census.objects == 6
    assert "SECRETOVA" not in said.upper()


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("GE Healthcare", "GE"),
        ('"GE MEDICAL SYSTEMS, LUNAR"', "GE"),
        ("SIEMENS Healthineers AG", "Siemens"),
        ("Philips Medical Systems", "Philips"),
        ("FUJI PHOTO FILM Co., ltd.", "Fujifilm"),
        ("FUJIFILM Corporation", "Fujifilm"),
        ("Agfa-Gevaert", "Agfa"),
        ("EASTMAN KODAK COMPANY", "Carestream"),
        ("TOSHIBA_MEC", "Canon"),
        ("KONICA MINOLTA", "Konica Minolta"),
        ("Shanghai United Imaging Healthcare Co., Ltd.", "United Imaging"),
        ("Imaging Dynamics Company Ltd.", "Imaging Dynamics"),
        ("Georgetown Hospital", "other"),
        ("Dr. Agfason", "other"),
        ("  ", "not stated"),
        (None, "not stated"),
    ],
)
def test_vendor_of_free_text(text, vendor):
    assert vendor_of(text) == vendor


def test_estimate_is_work_over_speed():
    config = ScanConfig(cpus=10, gpus=2, gpu_images_per_second=100, core_images_per_second=2)
    found = estimate(
        images=720_000, megapixels={uid.JPEG2000Lossless: 3.6e6}, fetched_bytes={"s3": 2**40}, config=config
    )
    assert found.ensemble_gpu_hours == pytest.approx(2.0)
    assert found.ensemble_core_hours == pytest.approx(100.0)
    assert found.decode_core_hours >= DECODE_MS_PER_MEGAPIXEL[uid.JPEG2000Lossless]
    preparation = found.decode_core_hours + found.fetch_core_hours
    assert found.wall_hours_without_gpus == pytest.approx((preparation + 100) / 10)
    assert found.wall_hours_with_gpus == pytest.approx(max(preparation / 10, 1.0))
    alone = estimate(images=1, megapixels={}, fetched_bytes={}, config=ScanConfig(gpus=0))
    assert alone.wall_hours_with_gpus is None


def test_scan_real_files_are_what_their_index_says(tmp_path):
    if not SHARED_DICOM.is_dir():
        pytest.skip("../shared/data/dicom is absent")
    rows = rows_of(SHARED_DICOM.parent, tmp_path=tmp_path)
    index = list(csv.DictReader((SHARED_DICOM / "index.csv").read_text().splitlines()))
    for said in index:
        row = rows[Path(said["file"]).name]
        numbers = {name: int(float(said[short])) for name, short in _NUMBERS.items() if said[short]}
        assert {name: row[name] for name in numbers} == numbers, said["file"]
        assert uid.UID(row["transfer_syntax_uid"]).name == said["transfer_syntax"]
        assert row["photometric_interpretation"] == said["photometric"]
        assert (row["modality"] or "") == said["modality"]
        assert (row["num_frames"] or 1) == int(float(said["frames"] or 1))
    assert len(index) == 33
    assert {rows[Path(said["file"]).name]["expected_fault"] for said in index if "not_chest" in said["file"]} == {
        "wrong_body_part",
        "not_human",
    }
    assert rows["pydicom-data__RG1_J2KI.dcm"]["expected_fault"] is None
    for said in csv.DictReader((SHARED_DICOM / "transcoded" / "index.csv").read_text().splitlines()):
        row = rows[Path(said["file"]).name]
        assert uid.UID(row["transfer_syntax_uid"]).name == said["transfer_syntax"]


_NUMBERS = {"rows": "rows", "columns": "cols", "bits_allocated": "bits_allocated", "bits_stored": "bits_stored"}


def packed(files: dict[str, bytes], suffix: str) -> bytes:
    """The files as an archive."""
    target = io.BytesIO()
    if suffix == "tar" or suffix == "tar.gz":
        with tarfile.open(fileobj=target, mode="w:gz" if suffix == "tar.gz" else "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        method = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2}[suffix]
        with zipfile.ZipFile(target, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    return target.getvalue()


@pytest.mark.parametrize("kind", ["stored", "deflated", "bzip2", "tar", "tar.gz"])
def test_scan_members_of_archives_like_files(kind, folder, tmp_path):

    name = f"a.{kind}" if "tar" in kind else f"{kind}.zip"
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(packed({member: data for member, (data, _) in mixed().items()}, kind))
    rows = rows_of(tmp_path / "in", tmp_path=tmp_path)
    assert {member: row["expected_fault"] for member, row in rows.items()} == {
        member: fault for member, (_, fault) in mixed().items()
    }
    row = rows["private.dcm"]
    assert row["uri"] == f"{path}!/private.dcm"
    assert decode_one(row["uri"], row["object_version"], INTAKE).fault is None


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar"])
def test_scan_members_of_an_archive_in_storage_cost_their_beginnings(s3, answers, kind):
    film = np.random.default_rng(3).integers(0, 4096, (2300, 2100), dtype=np.uint16)
    storage.put(f"{s3}/a.{'tar' if kind == 'tar' else 'zip'}", packed({"a": dicom(film), "b": dicom(film)}, kind))
    census = scanned(s3).census
    assert census.scored == 2
    assert sum(answers) < 0.05 * census.bytes


def test_scan_damaged_deflated_member_is_a_bad_archive(tmp_path):
    film = dicom(np.random.default_rng(3).integers(0, 4096, (300, 200), dtype=np.uint16))
    data = bytearray(packed({"a.dcm": film}, "deflated"))
    data[40:60] = b"\xff" * 20
    (tmp_path / "a.zip").write_bytes(data)
    assert dict(scanned(tmp_path).census.faults) == {"bad_archive": 1}
    (tmp_path / "a.zip").write_bytes(b"no archive at all")
    assert dict(scanned(tmp_path).census.faults) == {"bad_archive": 1}
