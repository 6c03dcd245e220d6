"""The objects against dciodvfy, DCMTK, highdicom and pydicom, for sources of many kinds."""

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageFont
from pydicom.sr._concepts_dict import concepts

from cxr_ray import __version__
from cxr_ray.config import LimitsConfig
from cxr_ray.evaluation.dicom_out import codes
from cxr_ray.evaluation.dicom_out.capture import _fitting
from cxr_ray.evaluation.dicom_out.source import SHOWN
from cxr_ray.images.radiograph import decode, read_header
from tests.dicom_out.conftest import Pacs
from tests.dicom_out.invented import BIRTH, HIGH, KINDS, NAME, PATIENT, PHYSICIAN, SPREAD, VOTES
from tests.evaluation.invented import CONTRACT, FINDINGS

needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not on the PATH: apt-get install dicom3tools"
)
needs_dcmtk = pytest.mark.skipif(
    shutil.which("dcmp2pgm") is None, reason="dcmp2pgm is not on the PATH: apt-get install dcmtk"
)


def said_by(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


@needs_dciodvfy
def test_every_object_has_no_error_for_dciodvfy(pacs: Pacs):
    files = sorted(pacs.folder.rglob("*.dcm"))
    assert len(files) == 4 * len(pacs.archive.rows)  # a report, two maps, a state
    said = {path: said_by("dciodvfy", "-new", path) for path in files}
    assert all(text.strip() for text in said.values())  # it names at least the kind of object
    assert [line for text in said.values() for line in text.splitlines() if line.startswith("Error")] == []


@needs_dciodvfy
def test_dciodvfy_objects_to_an_object_with_a_missing_attribute(pacs: Pacs, tmp_path: Path):
    made = pacs.read("dx", "sc")
    del made.ConversionType
    made.save_as(tmp_path / "broken.dcm")
    assert "Error - </ConversionType" in said_by("dciodvfy", "-new", tmp_path / "broken.dcm")


@needs_dcmtk
@pytest.mark.parametrize("kind", KINDS)
def test_dsrdump_prints_the_report(pacs: Pacs, kind: str):
    said = said_by("dsrdump", "-q", "+Pl", pacs.of(kind, "sr")[0])
    assert 'TEXT:(,,"Algorithm Name")="cxr-ray"' in said
    assert 'NUM:(,,"Probability")="0.93" (1,UCUM,"no units")' in said
    assert '(4147007,SCT,"Mass")' in said


@needs_dcmtk
@pytest.mark.parametrize("kind", KINDS)
def test_dcmtk_shows_the_film_by_the_presentation_state_as_it_was_scored(pacs: Pacs, tmp_path: Path, kind: str):
    """Without the graphics, which dcmp2pgm burns in, the film is what the model saw."""
    film, state, shown = pacs.archive.files / kind, pacs.of(kind, "pr")[0], tmp_path / "shown.pgm"
    native, plain = tmp_path / "native.dcm", tmp_path / "state.dcm"
    dataset = pydicom.dcmread(film)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress(generate_instance_uid=False)
    dataset.save_as(native)
    without = pydicom.dcmread(state)
    del without.GraphicAnnotationSequence, without.GraphicLayerSequence
    without.PatientName = "A^B"  # DCMTK 3.6.7 opens no state without a name, though it may be empty (type 2)
    without.save_as(plain)
    assert "F:" not in said_by("dcmp2pgm", "-q", "-p", plain, native, shown)
    expected = decode(read_header(film.read_bytes(), limits=LimitsConfig()), preprocess=SHOWN).pixels
    assert_allclose(np.asarray(Image.open(shown)) / 255.0, expected, rtol=0, atol=1.6 / 255)


@pytest.mark.parametrize("kind", KINDS)
def test_report_holds_the_row_s_numbers(pacs: Pacs, kind: str):
    report = highdicom.sr.srread(pacs.of(kind, "sr")[0])
    content = report.content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    row = pacs.archive.rows[kind]
    planar = content.get_planar_roi_measurement_groups()
    others = content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in (*planar, *others)] == ["Mass", "Pleural effusion", FINDINGS[2]]
    for f, group in enumerate((*planar, *others)):
        values = [item.value for item in group.get_measurements()]
        assert_allclose(values, [HIGH[f], CONTRACT.thresholds[f], VOTES[f], SPREAD[f]], rtol=1e-12)
    for found, group in zip(row["findings"], planar, strict=True):
        points = group.roi.value
        top, left, bottom, right = (found["box"][edge] for edge in ("top", "left", "bottom", "right"))
        assert_allclose(points[[0, 2]], [[left, top], [right, bottom]], rtol=1e-6)
        assert_array_equal(points[0], points[-1])
        assert str(row["sop_instance_uid"]) in str(group.roi)
    assert others[0].source_images[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == row["sop_instance_uid"]


def test_report_names_algorithm_ensemble_and_members(pacs: Pacs):
    made = pacs.read("dx", "sr")
    said = {element.value for element in made.iterall() if element.keyword == "TextValue"}
    assert {"cxr-ray", __version__, "ensemble_digest=eeeeeeeeeeeeeeee", "preprocess_digest=pppppppppppppppp"} <= said
    assert {"member=one", "member=two", "member=three", "Research software, not for diagnostic use"} <= said
    assert "99CXRRAY" in [item.CodingSchemeDesignator for item in made.CodingSchemeIdentificationSequence]


@pytest.mark.parametrize("kind", KINDS)
def test_presentation_state_has_box_and_peak_of_the_row_in_pixels(pacs: Pacs, kind: str):
    state, row = pacs.read(kind, "pr"), pacs.archive.rows[kind]
    assert len(state.GraphicAnnotationSequence) == len(row["findings"]) == 2
    for found, annotation in zip(row["findings"], state.GraphicAnnotationSequence, strict=True):
        box, point = annotation.GraphicObjectSequence
        top, left, bottom, right = (found["box"][edge] for edge in ("top", "left", "bottom", "right"))
        assert box.GraphicAnnotationUnits == point.GraphicAnnotationUnits == "PIXEL"
        assert box.GraphicType == "POLYLINE"
        assert_allclose(box.GraphicData, [left, top, right, top, right, bottom, left, bottom, left, top], rtol=1e-6)
        assert_allclose(point.GraphicData, [found["peak_column"], found["peak_row"]], rtol=1e-6)
        text = annotation.TextObjectSequence[0].UnformattedTextValue
        assert f"probability {found['probability']:.2f}, {found['votes']} of 3 members" in text
        assert "not for diagnostic use" in text
        reference = annotation.ReferencedImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == row["sop_instance_uid"]
    area = state.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [row["columns"], row["rows"]]


@pytest.mark.parametrize("kind", KINDS)
def test_capture_shows_film_heat_and_words(pacs: Pacs, kind: str):
    row, captures = pacs.archive.rows[kind], [pydicom.dcmread(path) for path in pacs.of(kind, "sc")]
    assert len(captures) == 2
    mass = next(made for made in captures if "Mass" in made.DerivationDescription)
    assert mass.SourceImageSequence[0].ReferencedSOPInstanceUID == row["sop_instance_uid"]
    assert (mass.InstanceNumber, mass.Modality, mass.BurnedInAnnotation) == (1, "OT", "NO")
    pixels = mass.pixel_array.astype(int)
    film, strip = pixels[: row["rows"]], pixels[row["rows"] :]
    left = (film.shape[1] - row["columns"]) // 2
    film = film[:, left : left + row["columns"]]
    colour = film.max(axis=2) - film.min(axis=2)
    found = row["findings"][0]
    row_of_peak, column_of_peak = int(found["peak_row"]), int(found["peak_column"])
    assert colour[row_of_peak + 12, column_of_peak + 12] > 40
    assert film[row_of_peak, column_of_peak].tolist() == [255, 255, 255]  # the cross
    assert colour[:8, -8:].max() == 0  # far from the peak the film stays grey
    assert strip.max() == 255


def test_words_of_the_capture_stay_inside_of_the_picture():

    font = ImageFont.load_default(26)
    assert _fitting("Mass", font, 200) == "Mass"
    cut = _fitting("A finding with very many words in its name", font, 200)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 200


@pytest.mark.parametrize("kind", [*KINDS])
@pytest.mark.parametrize("made", ["sr", "sc", "pr"])
def test_objects_belong_to_the_source_s_patient_and_study(pacs: Pacs, kind: str, made: str):
    source = pydicom.dcmread(pacs.archive.files / kind, stop_before_pixels=True)
    found = pacs.read(kind, made)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID"):
        assert (found[keyword].value or "") == (source.get(keyword) or ""), keyword
    for keyword in ("StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyInstanceUID"):
        assert (found[keyword].value or "") == (source.get(keyword) or ""), keyword
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.Manufacturer == "cxr-ray"
    if kind != "bare":
        assert (found.PatientName, found.PatientID, found.PatientBirthDate) == (NAME, PATIENT, BIRTH)
        assert found.ReferringPhysicianName == PHYSICIAN


def test_public_codes_are_those_of_the_standard():
    """pydicom carries the codes of PS3.16; SNOMED CT's own disorders are not among them."""
    standard: dict[tuple[str, str], set[str]] = {}
    for scheme in ("SCT", "DCM"):
        for entries in concepts[scheme].values():
            for code, (meaning, _) in entries.items():
                standard.setdefault((scheme, code), set()).add(meaning)
    beyond = {"Atelectasis", "Cardiomegaly", "Consolidation", "Emphysema", "Fibrosis", "Pneumonia"}
    for finding in ("Mass", "Nodule", "Pleural_Effusion", "Pneumothorax", "Edema", "Infiltration", "Pacemaker"):
        code = codes.finding_code(finding)
        assert code.meaning in standard[(code.scheme_designator, code.value)]
    for finding in beyond:
        assert codes.finding_code(finding).scheme_designator == "SCT"
    for code in (codes.PROBABILITY, codes.THRESHOLD, codes.PLAIN_RADIOGRAPHY):
        assert code.meaning in standard[(code.scheme_designator, code.value)]


def test_unknown_finding_has_a_private_code():
    code = codes.finding_code("Hemidiaphragm_Elevation")
    assert (code.value, code.scheme_designator, code.meaning) == (
        "Hemidiaphragm_Elevation",
        "99CXRRAY",
        "Hemidiaphragm Elevation",
    )
