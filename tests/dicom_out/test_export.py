"""Whole score folders: what is written, what is left out and said, again and again, and what never gets out."""

import json
import logging
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_ray import storage
from cxr_ray.cli import app
from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.dicom_out import export_dicom
from cxr_ray.images.phantom import make_phantom
from tests.dicom_out.conftest import Pacs
from tests.dicom_out.invented import BIRTH, LOW, PATIENT, PHYSICIAN, row_of, source, write_archive
from tests.evaluation.invented import CONTRACT, write_scores


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}


@pytest.fixture(scope="module")
def film() -> bytes:
    return source(make_phantom(5, side=90), "dx", seed=77)


def test_export_counts_what_it_wrote_and_left_out(pacs: Pacs):
    number = len(pacs.archive.rows)
    values = pacs.exported.to_dict()
    assert (values["num_studies"], values["num_images"], values["num_reports"]) == (number,) * 3
    assert (values["num_captures"], values["num_states"]) == (2 * number, number)
    assert (values["num_faulted"], values["num_not_dicom"], values["num_unreadable"]) == (1, 1, 0)
    assert "1 images left out, because their source is no DICOM" in "\n".join(pacs.exported.lines())


def test_repeated_export_leaves_files_and_elsewhere_makes_the_same_bytes(pacs: Pacs, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in pacs.folder.rglob("*.dcm")}
    again = export_dicom(pacs.archive.output, str(pacs.folder))
    assert (again.num_reports, again.num_captures, again.num_states) == (0, 0, 0)
    assert again.num_already_there == len(before)
    assert {path: path.stat().st_mtime_ns for path in pacs.folder.rglob("*.dcm")} == before
    export_dicom(pacs.archive.output, str(tmp_path / "elsewhere"))
    assert digests(tmp_path / "elsewhere") == digests(pacs.folder)


def test_stopped_export_is_completed(pacs: Pacs, tmp_path: Path):
    export_dicom(pacs.archive.output, str(tmp_path / "out"))
    whole = digests(tmp_path / "out")
    for name in list(whole)[::3]:
        (tmp_path / "out" / name).unlink()
    done = export_dicom(pacs.archive.output, str(tmp_path / "out"))
    assert done.num_reports + done.num_captures + done.num_states == len(list(whole)[::3])
    assert done.num_already_there == len(whole) - len(list(whole)[::3])
    assert digests(tmp_path / "out") == whole


def test_uids_of_all_objects_differ(pacs: Pacs):
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in pacs.folder.rglob("*.dcm")]
    assert len({made.SOPInstanceUID for made in found}) == len(found)
    assert all(len(made.SOPInstanceUID) <= 64 and made.SOPInstanceUID.startswith("2.25.") for made in found)


def test_study_of_two_images_has_one_report(film: bytes, tmp_path: Path):
    second = pydicom.dcmread(pydicom.filebase.DicomBytesIO(film))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    buffer = pydicom.filebase.DicomBytesIO()
    second.save_as(buffer, enforce_file_format=True)
    archive = write_archive(tmp_path, {"a.dcm": film, "b.dcm": buffer.getvalue(), "copy of a.dcm": film}, [])
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert (done.num_studies, done.num_images, done.num_reports, done.num_captures) == (1, 2, 1, 4)
    assert done.num_copies == 1
    report = pydicom.dcmread(next((tmp_path / "pacs").rglob("sr-*.dcm")))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = {item.ReferencedSOPInstanceUID for series in evidence for item in series.ReferencedSOPSequence}
    assert named == {"1.2.3.4", archive.rows["a.dcm"]["sop_instance_uid"]}


def test_source_gone_or_changed_is_counted_and_left_out(film: bytes, tmp_path: Path):
    other = source(make_phantom(6, side=90), "dx", seed=78)
    archive = write_archive(tmp_path, {"gone.dcm": film, "new.dcm": other}, [])
    (archive.files / "gone.dcm").unlink()
    (archive.files / "new.dcm").write_bytes(other + b"\0\0")  # the same object by its UID, another version
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert (done.num_unreadable, done.num_images, done.num_reports) == (2, 0, 0)
    assert list((tmp_path / "pacs").rglob("*.dcm")) == []
    assert {uri for uri, _ in done.unreadable} == {str(archive.files / name) for name in ("gone.dcm", "new.dcm")}
    assert "2 images left out, because their file is gone" in "\n".join(done.lines())


def test_image_below_all_thresholds_has_a_report_only_and_none_with_positive(film: bytes, tmp_path: Path):
    archive = write_archive(tmp_path, {"a.dcm": film}, [], probabilities=LOW)
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert (done.num_reports, done.num_captures, done.num_states) == (1, 0, 0)
    done = export_dicom(archive.output, str(tmp_path / "positive"), positive=True)
    assert (done.num_reports, done.num_images, done.num_without_present) == (0, 0, 1)


def test_finding_below_its_threshold_keeps_its_map_to_itself(film: bytes, tmp_path: Path):
    """Scores of `--heatmaps all` hold maps of what was not found."""
    archive = write_archive(tmp_path, {"a.dcm": film}, [])
    row = archive.rows["a.dcm"]
    below = {**row["findings"][0], "finding": CONTRACT.findings[2], "probability": 0.1}
    write_scores(Path(archive.output), "first.parquet", [{**row, "findings": [*row["findings"], below]}])
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert done.num_captures == 2
    state = pydicom.dcmread(next((tmp_path / "pacs").rglob("pr-*.dcm")))
    assert len(state.GraphicAnnotationSequence) == 2
    report = highdicom.sr.srread(next((tmp_path / "pacs").rglob("sr-*.dcm"))).content
    assert isinstance(report, highdicom.sr.MeasurementReport)
    assert len(report.get_planar_roi_measurement_groups()) == 2


def test_finding_without_a_map_has_no_picture(film: bytes, tmp_path: Path):
    archive = write_archive(tmp_path, {"a.dcm": film}, [])
    row = archive.rows["a.dcm"]
    nothing = dict.fromkeys(("heatmap", "heatmap_spread", "box", "peak", "peak_row", "peak_column", "map_agreement"))
    bare = [{**found, **nothing} for found in row["findings"]]
    write_scores(Path(archive.output), "first.parquet", [{**row, "findings": bare}])
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert (done.num_reports, done.num_captures, done.num_states, done.num_without_map) == (1, 0, 0, 2)


def test_older_row_of_an_image_is_not_exported(film: bytes, tmp_path: Path):
    archive = write_archive(tmp_path, {"a.dcm": film}, [])
    old = archive.rows["a.dcm"]
    new = row_of(archive.files / "a.dcm", probabilities=LOW) | {"scored_at": old["scored_at"].replace(day=20)}
    write_scores(Path(archive.output), "second.parquet", [new])
    assert export_dicom(archive.output, str(tmp_path / "pacs")).num_captures == 0


def test_folder_of_another_ensemble_or_of_other_files_is_refused(film: bytes, tmp_path: Path):
    archive = write_archive(tmp_path, {"a.dcm": film}, [])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "export.json").write_text(json.dumps({"ensemble_digest": "f" * 16, "layout": 1}))
    with pytest.raises(ConfigError, match="holds an export of another ensemble"):
        export_dicom(archive.output, str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="holds files that are no export"):
        export_dicom(archive.output, str(archive.files))
    assert sorted(path.name for path in archive.files.iterdir()) == ["a.dcm"]


def test_missing_highdicom_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--dicom", str(tmp_path / "x")])
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: DICOM export needs highdicom, which is not installed: pip install 'cxr-ray[dicom-out]'.\n"
    )


def test_export_to_an_object_store(film: bytes, tmp_path: Path, s3: str):
    archive = write_archive(tmp_path, {"a.dcm": film}, [])
    assert export_dicom(archive.output, f"{s3}/pacs").num_captures == 2
    assert export_dicom(archive.output, f"{s3}/pacs").num_already_there == 4
    names = {item.uri.rpartition("/")[2][:3] for item in storage.list_objects(f"{s3}/pacs")}
    assert names == {"sr-", "sc-", "pr-", "exp"}


def test_no_patient_data_in_output_logs_or_names(pacs: Pacs, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The name has no caret, which highdicom objects to, and the dates and the sex are none."""
    data = pydicom.dcmread(pacs.archive.files / "dx")
    with pydicom.config.disable_value_validation():
        data.PatientName, data.PatientID, data.PatientSex = "Unausprechlich", "P" * 70, "Geheim"
        data.PatientBirthDate, data.StudyDate, data.StudyTime = "vorgestern", "20261399", "9 Uhr"
        buffer = pydicom.filebase.DicomBytesIO()
        data.save_as(buffer, enforce_file_format=True)
    archive = write_archive(tmp_path, {"odd.dcm": buffer.getvalue()}, [])
    with caplog.at_level(logging.DEBUG):
        result = CliRunner().invoke(app, ["export", archive.output, "--dicom", str(tmp_path / "pacs"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["dicom"]["num_reports"] == 1
    names = " ".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "pacs").rglob("*"))
    said = result.output + result.stderr + caplog.text + names
    for secret in ("Unausprechlich", "PPPP", "Geheim", "vorgestern", "20261399", "9 Uhr", PATIENT, BIRTH, PHYSICIAN):
        assert secret not in said
    made = pydicom.dcmread(next((tmp_path / "pacs").rglob("sr-*.dcm")))
    assert (made.PatientName, made.PatientSex, made.PatientBirthDate) == ("Unausprechlich", "", "")
    assert (made.StudyDate, made.StudyTime) == ("", "")


def test_export_without_a_target_is_one_sentence(tmp_path: Path):
    result = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--dicom DIR, --csv FILE" in result.stderr


def test_colour_source_has_a_map_and_no_presentation_state(tmp_path: Path):
    data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(source(make_phantom(5, side=90), "dx", seed=79)))
    grey = np.asarray(Image.fromarray((data.pixel_array / 16).astype(np.uint8)).convert("RGB"))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, grey.tobytes() + b"\0" * (grey.size % 2)
    buffer = pydicom.filebase.DicomBytesIO()
    data.save_as(buffer, enforce_file_format=True)
    archive = write_archive(tmp_path, {"rgb.dcm": buffer.getvalue()}, [])
    done = export_dicom(archive.output, str(tmp_path / "pacs"))
    assert (done.num_reports, done.num_captures, done.num_states) == (1, 2, 0)
