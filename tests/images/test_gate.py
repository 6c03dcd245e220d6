"""The gate: what vendors write, what each kind of file is refused for, and the look at the pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageDraw, ImageFont
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxr_ray.config import GateConfig, LimitsConfig
from cxr_ray.errors import FAULT_GROUPS, FAULT_MEANINGS, ConfigError, DecodeError, Fault, faults_document
from cxr_ray.images.dicom.terms import (
    ANIMALS,
    BODY_PART_CODES,
    BODY_PART_STEMS,
    BODY_PARTS,
    STANDING_OR_FOOT,
    VIEW_CODES,
    VIEWS,
)
from cxr_ray.images.dicom.vocabulary import OTHER, read
from cxr_ray.images.gate import check_codes, check_gate, check_picture, look
from cxr_ray.images.header import Header, Hint
from cxr_ray.images.phantom import make_phantom
from cxr_ray.images.radiograph import read_header

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
GATE = GateConfig()
CHEST, PA = Hint("CHEST", "BodyPartExamined"), Hint("PA", "ViewPosition")


def chest(**changed) -> Header:
    """The header of a frontal chest film."""
    attributes = {"modality": "DX", "body_part": CHEST, "view": PA, "rows": 2500, "columns": 2048}
    return Header(**{"format": "dicom", **attributes, **changed})


def refusal(header: Header, gate: GateConfig = GATE) -> DecodeError:
    """The error that `check_gate` ends with."""
    with pytest.raises(DecodeError) as raised:
        check_gate(header, gate)
    return raised.value


def header_of(data: bytes) -> Header:
    return read_header(data, limits=LimitsConfig()).header


# Vendors' spellings


@pytest.mark.parametrize(
    ("text", "body_part", "view"),
    [
        ("CHEST", "CHEST", None),
        ("chest ", "CHEST", None),
        ("THORAX", "CHEST", None),
        ("CHEST PA", "CHEST", "PA"),
        ("CHEST_AP", "CHEST", "AP"),
        ("CHESTPA", "CHEST", "PA"),
        ("LATCHEST", "CHEST", "LATERAL"),
        ("THORAX AP", "CHEST", "AP"),
        ("W033TORAX", "CHEST", None),
        ("TORAX PA Y LAT", "CHEST", None),
        ("CHEST PA/LAT", "CHEST", None),
        ("Chest 2 views PA and lateral", "CHEST", None),
        ("Tórax póstero-anterior", "CHEST", "PA"),
        ("TÓRAX PERFIL", "CHEST", "LATERAL"),
        ("Thorax seitl. links", "CHEST", "LATERAL"),
        ("Thorax ap liegend", "CHEST", "AP"),
        ("BRUSTKORB", "CHEST", None),
        ("Brustwirbelsäule seitlich", "TSPINE", "LATERAL"),
        ("THORACIC SPINE", "TSPINE", None),
        ("BWS", "TSPINE", None),
        ("POUMON FACE", "CHEST", "FRONTAL"),
        ("Thorax de profil", "CHEST", "LATERAL"),
        ("TORACE LL", "CHEST", "LL"),
        ("Cor/Pulmo", "CHEST", None),
        ("PULMÓN", "CHEST", None),
        ("Płuca boczne", "CHEST", "LATERAL"),
        ("AKCİĞER PA", "CHEST", "PA"),
        ("ОГК прямая", "CHEST", "FRONTAL"),
        ("胸部", "CHEST", None),
        ("胸部正面", "CHEST", "FRONTAL"),
        ("胸部側面", "CHEST", "LATERAL"),
        ("흉부 AP", "CHEST", "AP"),
        ("LUNG", "LUNG", None),
        ("Hjärta/Lungor", "CHEST", None),
        ("CHEST_TO_ABDOMEN", "CHESTABDOMEN", None),
        ("CHEST ABDOMEN PELVIS", "CHESTABDPELVIS", None),
        ("RIBS LEFT", "RIB", None),
        ("CHEST RIBS", "RIB", None),
        ("XR RIBS LEFT WITH PA CHEST", "RIB", "PA"),
        ("Lungs and clavicles", "CLAVICLE", None),
        ("HEART ABDOMEN", "CHESTABDOMEN", None),
        ("CHEST 6 FOOT", "CHEST", None),
        ("CHEST C-ARM", "CHEST", None),
        ("THX", "CHEST", None),
        ("RXTORAX", "CHEST", None),
        ("XCHEST", "CHEST", None),
        ("PCHEST", "CHEST", None),
        ("CHESTPORTABLE", "CHEST", None),
        ("TORACO-PULMONAR", "CHEST", None),
        ("TORAXE", "CHEST", None),
        ("Keuhkot", "CHEST", None),
        ("PLĂMÂNI", "CHEST", None),
        ("Rtg klatki", "CHEST", None),
        ("Thoraxaufnahme", "CHEST", None),
        ("Thoraxabdomenübersicht", "CHESTABDOMEN", None),
        ("TORAX PIE", "CHEST", None),
        ("TORAX PA EN PIE", "CHEST", "PA"),
        ("PIE IZQ", "FOOT", None),
        ("Kniegelenk ap", "KNEE", "AP"),
        ("Kniescheibe", "PATELLA", None),
        ("Kniescheiben", "PATELLA", None),
        ("Schultergelenk a.p.", "SHOULDER", "AP"),
        ("Schulterblätter", "SCAPULA", None),
        ("Beckenübersicht", "PELVIS", None),
        ("Abdomenübersicht stehend", "ABDOMEN", None),
        ("Abdomenleeraufnahme", "ABDOMEN", None),
        ("Ellenbogengelenk", "ELBOW", None),
        ("Brustwirbelkörper", "TSPINE", None),
        ("Fußwurzel", "FOOT", None),
        ("Mittelhand", "HAND", None),
        ("Handgelenk", "WRIST", None),
        ("Sprunggelenke", "ANKLE", None),
        ("Kniegewricht", "KNEE", None),
        ("Ländryggen", "LSPINE", None),
        ("RX RODILLAS", "KNEE", None),
        ("RX CADERAS", "HIP", None),
        ("GENOUX FACE", "KNEE", "FRONTAL"),
        ("Clavicles", "CLAVICLE", None),
        ("Orbits", "HEAD", None),
        ("KNEES", "KNEE", None),
        ("Colonne vertébrale", "SPINE", None),
        ("ASP", "ABDOMEN", None),
        ("handheld", None, None),
        ("Handled with care", None, None),
        ("backend", None, None),
        ("Bäckenöversikt", "PELVIS", None),
        ("Fussy", None, None),
        ("COUX", None, None),
        ("CHESTANY", None, None),
        ("Thorax li. anl.", "CHEST", "LL"),
        ("Thorax linksanliegend", "CHEST", "LL"),
        ("Thorax re. anl.", "CHEST", "RL"),
        ("Thorax 2. Ebene", "CHEST", "LATERAL"),
        ("Thorax in 2 Ebenen", "CHEST", None),
        ("X-Thorax dwars", "CHEST", "LATERAL"),
        ("Thorax sidebillede", "CHEST", "LATERAL"),
        ("Thorax side", "CHEST", "LATERAL"),
        ("Chest left side pain", "CHEST", None),
        ("Lungor sida", "CHEST", "LATERAL"),
        ("SIDA", None, None),
        ("Klatka piersiowa bok", "CHEST", "LATERAL"),
        ("Thorax sivu", "CHEST", "LATERAL"),
        ("W CHEST LATER", "CHEST", "LATERAL"),
        ("CHEST, repeat later today", "CHEST", None),
        ("THORAX P", "CHEST", "LATERAL"),
        ("THORAX P.A.", "CHEST", "PA"),
        ("THORAX A P", "CHEST", "AP"),
        ("CHEST P", "CHEST", None),
        ("CHEST XTLAT", "CHEST", "LATERAL"),
        ("LL DECUB", None, "LLD"),
        ("HAND PA", "HAND", "PA"),
        ("Hüfte a.p.", "HIP", "AP"),
        ("LOWER LEG", "LEG", None),
        ("C-SPINE LAT", "CSPINE", "LATERAL"),
        ("MAMMO", "BREAST", None),
        ("PA", None, "PA"),
        ("P.A.", None, "PA"),
        ("PA VIEW", None, "PA"),
        ("A-P", None, "AP"),
        ("AP ERECT", None, "AP"),
        ("ANTEROPOSTERIOR", None, "AP"),
        ("PA/AP", None, "FRONTAL"),
        ("LL", None, "LL"),
        ("L LAT", None, "LL"),
        ("LATERAL LEFT", None, "LL"),
        ("Right lateral", None, "RL"),
        ("LAT", None, "LATERAL"),
        ("SEITLICH", None, "LATERAL"),
        ("PROFIL", None, "LATERAL"),
        ("PERFIL", None, "LATERAL"),
        ("LATERALE", None, "LATERAL"),
        ("RLD", None, "RLD"),
        ("Left lateral decubitus", None, "LLD"),
        ("AP DECUBITUS", None, "DECUBITUS"),
        ("RAO", None, "RAO"),
        ("LPO", None, "LPO"),
        ("SCHRÄG", None, "OBLIQUE"),
        ("LATERAL OBLIQUE", None, "OBLIQUE"),
        ("APICAL LORDOTIC", None, "LORDOTIC"),
        ("DOE JOHN", None, None),
        ("Landau, Patricia", None, None),
    ],
)
def test_read_vendors_spelling_canonical_code(text, body_part, view):
    assert (read(text).body_part, read(text).view) == (body_part, view)


@pytest.mark.parametrize(
    ("text", "animal"),
    [
        ("CANINE LATERAL THORAX 0-15cm", "SPECIES"),
        ("Feline", "SPECIES"),
        ("EQUINE STIFLE", "SPECIES"),
        ("Tierklinik", "SPECIES"),
        ("Hund Thorax", "CREATURE"),
        ("CAT", "CREATURE"),
        ("CAT SCAN", None),
        ("CHEST", None),
        ("CHEST CAT 3", None),
        ("CATHETER", None),
        ("porcine valve", "CREATURE"),
        ("Siamese", "BREED"),
        ("Dogan", None),
    ],
)
def test_read_animals_by_whole_words(text, animal):
    assert read(text).animal == animal


@pytest.mark.parametrize(
    ("table", "of"), [(BODY_PARTS, "body_part"), (STANDING_OR_FOOT, "body_part"), (VIEWS, "view"), (ANIMALS, "animal")]
)
def test_read_every_entry_of_the_tables_as_its_own_code(table, of):
    for expected, phrases in table.items():
        assert {phrase: getattr(read(phrase), of) for phrase in phrases.split(",")} == dict.fromkeys(
            phrases.split(","), expected
        )


def test_read_stems_of_four_letters_or_more_as_their_own_code():
    for expected, stems in BODY_PART_STEMS.items():
        for stem in stems.split(", "):
            assert len(stem) >= 4
            assert read(f"{stem}xyz").body_part == expected, stem


@pytest.mark.parametrize("text", ["", " ", "UNKNOWN", "-", "ERECT", "0001", "RX", "hand held"])
def test_read_text_that_says_nothing_silent(text):
    assert read(text).silent


def test_read_whatever_is_written_only_codes_come_back():
    for text in ("Zoe^Secret CHEST", "SECRET", "Müller 1961", "胸部 山田太郎", "CHEST" * 1000):
        said = read(text)
        assert said.body_part in (None, "CHEST")
        assert said.view is None


def test_codes_of_views_and_regions_equal_those_of_pydicom():
    concepts = codes.SCT
    expected = {
        "PosteroAnterior": "PA",
        "AnteroPosterior": "AP",
        "Frontal": "FRONTAL",
        "LeftLateral": "LL",
        "RightLateral": "RL",
        "LateralProjection": "LATERAL",
        "LeftAnteriorOblique": "LAO",
        "RightAnteriorOblique": "RAO",
        "LeftPosteriorOblique": "LPO",
        "RightPosteriorOblique": "RPO",
        "ObliqueProjection": "OBLIQUE",
    }
    assert {name: VIEW_CODES[getattr(concepts, name).value] for name in expected} == expected
    regions = {"Chest": "CHEST", "Hand": "HAND", "Knee": "KNEE", "Breast": "BREAST", "ThoracicSpine": "TSPINE"}
    assert {name: BODY_PART_CODES[getattr(concepts, name).value] for name in regions} == regions
    assert BODY_PART_CODES["T-D3000"] == BODY_PART_CODES["51185008"] == "CHEST"


# Headers


@pytest.mark.parametrize(
    "header",
    [
        chest(),
        chest(modality="CR"),
        chest(body_part=None),
        chest(body_part=None, view=None),
        chest(view=Hint(OTHER, "ViewPosition")),
        chest(kinds=("digitised_film",)),
        chest(rows=64, columns=64),
        Header(format="png", rows=64, columns=70),
    ],
)
def test_check_gate_frontal_chest_passes(header):
    check_gate(header, GATE)


@pytest.mark.parametrize(
    ("header", "fault", "told"),
    [
        (chest(modality="MR"), Fault.WRONG_MODALITY, "(0008,0060) Modality is 'MR'; add it to gate.modalities"),
        (chest(modality=None), Fault.WRONG_MODALITY, "(0008,0060) Modality is ''"),
        (
            chest(body_part=Hint("HIP", "BodyPartExamined")),
            Fault.WRONG_BODY_PART,
            "(0018,0015) BodyPartExamined says 'HIP'; add it to gate.body_parts",
        ),
        (chest(body_part=Hint(OTHER, "BodyPartExamined")), Fault.WRONG_BODY_PART, "'OTHER'"),
        (
            chest(view=Hint("LATERAL", "SeriesDescription")),
            Fault.WRONG_VIEW,
            "(0008,103E) SeriesDescription says 'LATERAL'; add it to gate.views",
        ),
        (chest(columns=63), Fault.TOO_SMALL, "2500 x 63, the shorter side below gate.min_side = 64"),
        (Header(format="jpeg", rows=10, columns=700), Fault.TOO_SMALL, "10 x 700"),
        (chest(columns=999), Fault.EXTREME_ASPECT, "2500 x 999, a ratio above gate.max_aspect = 2.5; raise it"),
        (Header(format="png", rows=100, columns=251), Fault.EXTREME_ASPECT, "100 x 251"),
    ],
)
def test_check_gate_other_image_fault_with_tag_value_and_remedy(header, fault, told):
    error = refusal(header)
    assert error.fault is fault
    assert told in error.detail


KINDS = {
    "animal": Fault.NOT_HUMAN,
    "mammogram": Fault.MAMMOGRAM,
    "screenshot": Fault.SCREENSHOT,
    "localizer": Fault.LOCALIZER,
    "for_processing": Fault.FOR_PROCESSING,
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_gate_kind_refused_before_all_else_unless_named(kind):
    error = refusal(chest(kinds=(kind,), modality="MR", view=Hint("LL", "ViewPosition"), rows=1))
    assert error.fault is KINDS[kind]
    assert f"add {kind!r} to gate.kinds" in error.detail
    check_gate(chest(kinds=(kind,)), GateConfig(kinds=(kind,)))


def test_check_gate_scanned_films_can_be_refused():
    assert refusal(chest(kinds=("digitised_film",)), GateConfig(kinds=())).fault is Fault.SCREENSHOT


def test_check_gate_several_reasons_the_furthest_from_a_radiograph_first():
    header = chest(kinds=("animal", "mammogram", "screenshot", "localizer", "for_processing"), modality="MG")
    order = []
    for accepted in ((), ("animal",), ("animal", "mammogram"), ("animal", "mammogram", "screenshot")):
        order.append(refusal(header, GateConfig(kinds=accepted)).fault)
    assert order == [Fault.NOT_HUMAN, Fault.MAMMOGRAM, Fault.SCREENSHOT, Fault.LOCALIZER]


def test_check_gate_lists_are_settings_in_any_spelling():
    gate = GateConfig(
        modalities=("", "mr"), body_parts=("hip", "Brustkorb"), views=("left lateral",), min_side=8, max_aspect=400
    )
    lateral = Hint("LL", "ViewPosition")
    check_gate(chest(modality="MR", body_part=Hint("HIP", "BodyPartExamined"), view=lateral, rows=8), gate)
    check_gate(chest(modality=None, view=lateral), gate)
    assert refusal(chest(modality="MR", body_part=None), gate).fault is Fault.WRONG_BODY_PART
    assert refusal(chest(modality="MR", view=None), gate).fault is Fault.WRONG_VIEW
    assert refusal(chest(modality="MR"), gate).fault is Fault.WRONG_VIEW


# DICOM files


def code(value: str, meaning: str = "") -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({}, None),
        ({"BodyPartExamined": None, "ViewPosition": None}, None),
        ({"BodyPartExamined": "HAND"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": "DOE JOHN"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": "XYZ", "SeriesDescription": "Thorax pa"}, None),
        ({"BodyPartExamined": None, "SeriesDescription": "Hand dors.volar"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": None, "SeriesDescription": "Kniegelenk ap"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": None, "SeriesDescription": "XR RIBS LEFT WITH PA CHEST"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": None, "SeriesDescription": "PA Chest", "StudyDescription": "XR RIBS W CHEST"}, None),
        ({"BodyPartExamined": "CHEST/RIBS"}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": "TORAX PIE"}, None),
        ({"BodyPartExamined": "HEART"}, None),
        ({"BodyPartExamined": "MEDIASTINUM"}, None),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": [code("T-D3000")]}, None),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": [code("85562004")]}, Fault.WRONG_BODY_PART),
        ({"BodyPartExamined": "CHESTABDOMEN"}, Fault.WRONG_BODY_PART),
        ({"ViewPosition": "LL"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "LATERAL LEFT"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "L"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "R"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "SIDE"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "LATERL"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "SEITENANSICHT"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "LORD"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "AP LORD"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "DECUBIT"}, Fault.WRONG_VIEW),
        ({"ViewPosition": "LLDECUB"}, Fault.WRONG_VIEW),
        ({"ViewPosition": ["PA", "LL"]}, Fault.WRONG_VIEW),
        ({"ViewPosition": ["PA", "ERECT"]}, None),
        ({"ViewPosition": None, "ViewCodeSequence": [code("399198007")]}, Fault.WRONG_VIEW),
        ({"ViewPosition": "PA", "ViewCodeSequence": [code("399067008")]}, Fault.WRONG_VIEW),
        ({"ViewPosition": "LL", "ViewCodeSequence": [code("272479007")]}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "ViewCodeSequence": [code("272479007")]}, None),
        ({"ViewPosition": None, "SeriesDescription": "CHEST LATERAL"}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "ProtocolName": "Thorax seitlich"}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "BodyPartExamined": "CHEST LAT"}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "PerformedProtocolCodeSequence": [code("1", "CHEST LAT")]}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "SeriesDescription": "CHEST PA AND LATERAL"}, None),
        ({"ViewPosition": None, "SeriesDescription": "late film, latex allergy"}, None),
        ({"ViewPosition": None, "StudyDescription": "XR CHEST LATERAL IF NEEDED"}, None),
        ({"BodyPartExamined": None, "StudyDescription": "XR KNEE LATERAL"}, Fault.WRONG_BODY_PART),
        ({"ViewPosition": "PA", "SeriesDescription": "CHEST PA AND LATERAL"}, None),
        ({"ViewPosition": None, "PatientOrientation": ["P", "F"]}, Fault.WRONG_VIEW),
        ({"ViewPosition": None, "PatientOrientation": ["L", "F"]}, None),
        ({"ViewPosition": "BED"}, None),
        ({"Modality": "MG"}, Fault.MAMMOGRAM),
        ({"SOPClassUID": uid.DigitalMammographyXRayImageStorageForPresentation}, Fault.MAMMOGRAM),
        ({"SOPClassUID": uid.BreastTomosynthesisImageStorage}, Fault.MAMMOGRAM),
        ({"BodyPartExamined": "BREAST"}, Fault.WRONG_BODY_PART),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, Fault.SCREENSHOT),
        ({"SOPClassUID": uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage}, Fault.SCREENSHOT),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "ConversionType": "WSD"}, Fault.SCREENSHOT),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "ConversionType": "DF"}, None),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "ConversionType": "DF", "Modality": "OT"}, Fault.SCREENSHOT),
        ({"Modality": "SC"}, Fault.SCREENSHOT),
        ({"ImageType": ["DERIVED", "SECONDARY"], "ConversionType": "SI"}, Fault.SCREENSHOT),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "Modality": "CT"}, Fault.LOCALIZER),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "", "SCOUT"]}, Fault.LOCALIZER),
        ({"PresentationIntentType": "FOR PROCESSING"}, Fault.FOR_PROCESSING),
        ({"PresentationIntentType": "FOR PRESENTATION"}, None),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing}, Fault.FOR_PROCESSING),
        ({"PatientSpeciesDescription": "Canine"}, Fault.NOT_HUMAN),
        ({"PatientSpeciesDescription": "Homo sapiens"}, None),
        ({"PatientSpeciesCodeSequence": [code("L-80700")]}, Fault.NOT_HUMAN),
        ({"PatientSpeciesCodeSequence": [code("337915000")]}, None),
        ({"PatientSpeciesDescription": "Felis catus"}, Fault.NOT_HUMAN),
        ({"PatientSpeciesDescription": "UNKNOWN"}, None),
        ({"PatientSpeciesDescription": "Adult"}, None),
        ({"PatientSpeciesDescription": "UNSPECIFIED", "PatientBreedDescription": " "}, None),
        ({"PatientSpeciesDescription": "Human (no animal)"}, None),
        ({"PatientBreedDescription": "NONE"}, None),
        ({"PatientBreedDescription": "Siamese"}, Fault.NOT_HUMAN),
        ({"ProtocolName": "Boxer's fracture"}, None),
        ({"ProtocolName": "CHEST CAT 3"}, None),
        ({"ProtocolName": "CAT CHEST"}, Fault.NOT_HUMAN),
        ({"ProtocolName": "PORCINE THORAX"}, Fault.NOT_HUMAN),
        ({"AcquisitionDeviceProcessingDescription": "CANINE LATERAL THORAX 0-15cm"}, Fault.NOT_HUMAN),
        ({"ProtocolName": "Katze Thorax"}, Fault.NOT_HUMAN),
        ({"SeriesDescription": "Equine thorax"}, Fault.NOT_HUMAN),
        ({"StudyDescription": "Feline thorax"}, Fault.NOT_HUMAN),
        ({"StudyDescription": "Chest pain, fell from horse"}, None),
        ({"StudyDescription": "ANIMAL BITE"}, None),
        ({"StudyDescription": "s/p porcine valve"}, None),
        ({"SeriesDescription": "bovine valve"}, None),
        ({"Modality": "CT"}, Fault.WRONG_MODALITY),
        ({"Modality": "DOE JOHN"}, Fault.WRONG_MODALITY),
        ({"Modality": None}, Fault.WRONG_MODALITY),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_check_gate_dicom_file(build_dicom, attributes, fault):
    film = np.random.default_rng(0).integers(0, 4096, (80, 70)).astype(np.uint16)
    header = header_of(build_dicom(film, bits_stored=12, **attributes))
    if fault is None:
        check_gate(header, GATE)
    else:
        error = refusal(header)
        assert error.fault is fault
        assert "DOE" not in error.detail


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Modality": "dx", "BodyPartExamined": "Thorax", "ViewPosition": "ap erect"}, ("DX", "CHEST", "AP")),
        ({"Modality": "DOE JOHN", "BodyPartExamined": "DOE JOHN", "ViewPosition": "DOE JOHN"}, (OTHER,) * 3),
        ({"BodyPartExamined": "", "ViewPosition": "UNKNOWN"}, ("DX", None, None)),
        ({"BodyPartExamined": "CHEST OF MR SMITH"}, ("DX", "CHEST", "PA")),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:The value length:UserWarning")
def test_header_code_strings_only_of_the_vocabularies(build_dicom, film, attributes, expected):
    header = header_of(build_dicom(film, **attributes))
    assert (header.modality, header.body_part_examined, header.view_position) == expected


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning", "ignore:Incorrect value:UserWarning")
@pytest.mark.parametrize("written", ["pulmón", "胸部側面"])
def test_header_code_string_in_utf_8_understood(build_dicom, film, written):
    data = build_dicom(film, BodyPartExamined="CHESTCHESTCH", ViewPosition=None)
    raw = written.encode("utf-8")
    body_part = header_of(data.replace(b"CHESTCHESTCH", raw.ljust(12))).body_part
    assert body_part == CHEST


def test_real_files_only_the_human_chest_films_pass():
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    verdicts = {}
    for path in sorted(SHARED.glob("dicom/*/*.dcm")):
        try:
            check_gate(header_of(path.read_bytes()), GateConfig(min_side=8))
            verdicts[path.parent.name, path.stem[-8:]] = None
        except DecodeError as error:
            verdicts[path.parent.name, path.stem[-8:]] = error.fault
    assert {fault for (folder, _), fault in verdicts.items() if folder in ("chest", "transcoded")} == {None}
    assert {name: fault for (folder, name), fault in verdicts.items() if folder == "not_chest"} == {
        "dx_image": Fault.NOT_HUMAN,
        "RG3_J2KI": Fault.WRONG_BODY_PART,
        "LY_fixed": Fault.WRONG_BODY_PART,
    }
    assert None not in {fault for (folder, _), fault in verdicts.items() if folder == "decoders"}


# Pixels

WORDS = [
    "patient",
    "name",
    "date of birth",
    "findings",
    "impression",
    "no",
    "acute",
    "disease",
    "the heart",
    "is",
    "of",
]


def noise(rows: int, columns: int) -> np.ndarray:
    """A film as far as the look at the pixels is concerned: all shades, nothing sharp."""
    ramp = np.linspace(0, 0.8, rows)[:, None] + np.zeros((1, columns))
    return (ramp + np.random.default_rng(0).uniform(0, 0.2, (rows, columns))).astype(np.float32)


def page(seed: int) -> np.ndarray:
    """A made-up page (H, W) 0..1: text, a short note or a form, of any size, colour of paper, and wear."""
    random = np.random.default_rng(seed)
    rows, columns = [(1100, 850), (600, 800), (2200, 1700), (480, 640), (1024, 1024), (768, 1366)][random.integers(6)]
    paper, ink = [(255, 0), (255, 60), (245, 20), (0, 255), (20, 230)][random.integers(5)]
    image = Image.new("L", (columns, rows), paper)
    draw, size = ImageDraw.Draw(image), int(random.choice([10, 12, 14, 18, 24, 32, 48]))
    font, kind = ImageFont.load_default(size), ["text", "note", "form"][random.integers(3)]
    step = int(size * (2 if kind == "form" else 1.4))
    if kind == "form":
        for row in range(step, rows - step, step):
            draw.line([(20, row), (columns - 20, row)], fill=ink)
        for column in np.linspace(20, columns - 20, 5):
            draw.line([(int(column), step), (int(column), rows - step)], fill=ink)
    num_lines = int(random.integers(4, 12)) if kind == "note" else rows
    for row in range(size, min(rows - size, size + num_lines * step), step):
        text = " ".join(random.choice(WORDS, 40))
        draw.text((0.05 * columns, row), text[: int(1.6 * columns / size)], fill=ink, font=font)
    return worn(image, random) / np.float32(255.0)


def worn(image: Image.Image, random: np.random.Generator) -> np.ndarray:
    """The page as it is, after JPEG, with noise, or scanned a little smaller."""
    wear = random.integers(4)
    if wear == 1:
        target = io.BytesIO()
        image.save(target, format="JPEG", quality=int(random.integers(30, 90)))
        image = Image.open(target)
    if wear == 2:
        pixels = np.asarray(image) + random.normal(0, random.uniform(1, 4), image.size[::-1])
        return np.clip(pixels, 0, 255).astype(np.uint8)
    if wear == 3:
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.BILINEAR)
    return np.asarray(image)


def screen(seed: int) -> np.ndarray:
    """A made-up screen (H, W) 0..1: panels of one shade each, and labels."""
    random = np.random.default_rng(seed)
    image = Image.new("L", (1024, 768), int(random.integers(180, 256)))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for left, top, width, height in random.integers(40, 500, (8, 4)):
        draw.rectangle([(left, top), (left + width, top + height)], fill=int(random.integers(256)))
    for left, top in random.integers(0, 700, (30, 2)):
        draw.text((left, top), str(random.choice(WORDS)), fill=int(random.integers(90)), font=font)
    return np.asarray(image) / np.float32(255.0)


def verdict(pixels: np.ndarray, gate: GateConfig = GATE, header: Header | None = None) -> Fault | str:
    """What the look at a PNG with these pixels ends with."""
    shown = header or Header(format="png", rows=pixels.shape[0], columns=pixels.shape[1])
    try:
        return check_picture(shown, pixels.astype(np.float32), gate)
    except DecodeError as error:
        return error.fault


def test_check_picture_pages_of_text_and_forms_refused():
    verdicts = [verdict(page(seed)) for seed in range(120)]
    assert verdicts.count(Fault.TEXT_PAGE) > 0.95 * len(verdicts)
    assert "image" not in verdicts


def test_check_picture_screens_refused():
    assert {verdict(screen(seed)) for seed in range(30)} <= {Fault.FLAT, Fault.TEXT_PAGE}


def test_check_picture_without_contrast_or_detail_flat():
    rows, columns = np.mgrid[:300, :400] / 400.0
    faint = 0.5 + 0.03 * noise(300, 400)
    pictures = [faint, rows, columns, (rows + columns) / 2, np.hypot(rows - 0.4, columns - 0.5)]
    assert [verdict(picture) for picture in pictures] == [Fault.FLAT] * len(pictures)


def test_check_picture_one_mark_on_an_empty_picture_refused():
    picture = np.zeros((300, 400))
    picture[100:120, 50:90] = 1.0
    assert verdict(picture) in (Fault.FLAT, Fault.TEXT_PAGE)


def test_check_picture_grey_film_like_pictures_pass():
    film = noise(300, 250)
    for picture in (film, 1.0 - film, 0.3 + 0.3 * film, np.pad(film, 60), noise(64, 64), noise(2500, 2048)):
        assert verdict(picture) == "image"


@pytest.mark.parametrize("inverted", [False, True])
def test_check_picture_phantoms_with_every_finding_pass(inverted):
    for seed in range(40):
        film = make_phantom(seed, side=128 + 37 * seed % 257).pixels
        assert verdict(1.0 - film if inverted else film) == "image"


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    ("pattern", "least"), [("nih64/images/*.png", 600), ("nih_few/*.png", 6), ("hannover/png/*", 73)]
)
def test_check_picture_real_films_and_their_negatives_pass(pattern, least, inverted):
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    paths = sorted(SHARED.glob(pattern))
    assert len(paths) >= least
    for path in paths:
        film = np.asarray(Image.open(path).convert("L")) / np.float32(255.0)
        assert verdict(1.0 - film if inverted else film) == "image", path.name


def test_check_picture_runs_when_asked_and_says_what_let_the_image_pass():
    text, film = page(0), noise(100, 90)
    silent = chest(body_part=None, view=Hint(OTHER, "ViewPosition"))
    assert verdict(text, header=chest()) == "header"
    assert verdict(text, GateConfig(image_check="always"), chest()) is Fault.TEXT_PAGE
    assert verdict(film, GateConfig(image_check="always"), chest()) == "header"
    assert verdict(film, header=silent) == "image"
    assert verdict(text, header=silent) is Fault.TEXT_PAGE
    assert verdict(text, GateConfig(image_check="never"), silent) == "unchecked"
    assert verdict(film, header=chest(body_part=None)) == "image"
    assert verdict(text, header=chest(body_part=None)) is Fault.TEXT_PAGE
    assert verdict(film, header=chest(view=None)) == "header"


def test_look_leaves_the_pixels_alone():
    pixels = page(3)
    before = pixels.copy()
    look(pixels)
    assert_array_equal(pixels, before)


# The document


def test_every_fault_has_a_sentence_with_a_remedy_in_one_group():
    assert set(FAULT_MEANINGS) == set(Fault)
    assert sorted(fault for faults in FAULT_GROUPS.values() for fault in faults) == sorted(Fault)
    for meaning in FAULT_MEANINGS.values():
        assert "; " in meaning
        assert meaning.endswith(".")


def test_faults_document_is_what_the_code_says():
    written = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
    assert written.read_text() == faults_document(), "run: python -m cxr_ray.errors > docs/faults.md"


def test_check_codes_default_and_any_spelling_usable():
    check_codes(GateConfig())
    check_codes(GateConfig(body_parts=("", "thorax", "Brustkorb", "rib"), views=("p.a.", "LL", "other", "")))


@pytest.mark.parametrize(
    ("setting", "value"), [("body_parts", "CHESST"), ("body_parts", "PA"), ("views", "LAETRAL"), ("views", "CHEST")]
)
def test_check_codes_code_in_no_vocabulary_named_with_the_choice(setting, value):
    with pytest.raises(ConfigError, match=rf"gate\.{setting} names '{value}'.*choose from"):
        check_codes(GateConfig(**{setting: ("", value)}))
