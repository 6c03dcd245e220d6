"""CheXpert and MIMIC-CXR-JPG: uncertain and unmentioned labels, frontal views, official parts."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from cxr_ray.config import ManifestConfig, parse
from cxr_ray.errors import ConfigError, ManifestError
from cxr_ray.labels.sources.chexpert import FINDINGS
from tests.labels.tables import CHEXPERT_HEADER, METADATA_HEADER, MIMIC_HEADER, manifest, source, write

ROOT = "CheXpert-v1.0-small"
TRAIN = [
    f"{ROOT}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    f"{ROOT}/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    f"{ROOT}/train/patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
    f"{ROOT}/train/patient00003/study1/view1_frontal.jpg,Unknown,0,Frontal,LL,,,,,,1.0,,,,0.0,,,,",
    f"{ROOT}/train/patient00004/study1/view1_frontal.jpg,Male,20,Frontal,PA,,,1.0,0.0,,0.0,,,,0.0,1.0,,,",
    f"{ROOT}/train/patient00005/study1/view1_frontal.jpg,Male,,Frontal,AP,,,0.0,,,,1.0,,,0.0,,,,",
]
VALID = [f"{ROOT}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0" + ",0.0" * 11]


def chexpert(folder: Path, rows: list[str] = TRAIN) -> str:
    return write(folder / "train.csv", CHEXPERT_HEADER, *rows)


def test_read_chexpert_blank_and_uncertain_are_not_stated_by_default(tmp_path):
    labelled = source("chexpert", chexpert(tmp_path))
    frame = labelled.frame
    assert labelled.findings == FINDINGS
    assert frame["patient_id"].tolist() == ["patient00001", "patient00002", "patient00004", "patient00005"]
    assert frame["view"].tolist() == ["AP", "PA", "PA", "AP"]
    np.testing.assert_array_equal(frame["Cardiomegaly"], [0, np.nan, 1, 0])
    np.testing.assert_array_equal(frame["Fracture"], [0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(frame["Support Devices"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(frame["age"], [68, 87, 20, np.nan])


@pytest.mark.parametrize(("policy", "value"), [("ignore", np.nan), ("zeros", 0), ("ones", 1)])
def test_read_chexpert_uncertain_follows_the_policy_of_its_finding(tmp_path, policy, value):
    overrides = {"Consolidation": "ones", "Edema": "zeros"}
    frame = source("chexpert", chexpert(tmp_path), uncertain=policy, uncertain_findings=overrides).frame
    np.testing.assert_array_equal(frame["Cardiomegaly"].iloc[1], value)
    assert frame[["Consolidation", "Edema"]].iloc[1].tolist() == [1, 0]
    assert np.isnan(frame["Lung Lesion"].iloc[1])


def test_read_chexpert_unmentioned_zeros_leaves_uncertain_alone(tmp_path):
    frame = source("chexpert", chexpert(tmp_path), unmentioned="zeros").frame
    np.testing.assert_array_equal(frame["Cardiomegaly"], [0, np.nan, 1, 0])
    np.testing.assert_array_equal(frame["Fracture"], [0, 1, 0, 0])
    assert frame["Support Devices"].tolist() == [1, 0, 0, 0]


def test_read_chexpert_lateral_views_come_when_asked_for(tmp_path):
    views = source("chexpert", chexpert(tmp_path), views=["Lateral", "LL"]).frame["view"].tolist()
    assert views == ["Lateral", "LL"]
    assert len(source("chexpert", chexpert(tmp_path), views=[]).frame) == len(TRAIN)


def test_read_chexpert_valid_csv_is_the_test_part(tmp_path):
    valid = write(tmp_path / "valid.csv", CHEXPERT_HEADER, *VALID)
    result = manifest("chexpert", chexpert(tmp_path), test_path=valid, views=[], shares=[0.6, 0.3, 0.1])
    parts = result.frame.set_index("patient_id")["part"]
    assert parts["patient64541"] == "test"
    assert set(parts.drop("patient64541")) == {"train", "validation"}


def test_read_chexpert_strange_label_is_named_with_its_line(tmp_path):
    rows = [TRAIN[0].replace(",0.0,", ",2.0,"), *TRAIN[1:]]
    with pytest.raises(ManifestError, match=r"Pneumothorax must be 1, 0, -1 or blank, but holds '2\.0' \(line 2\);"):
        manifest("chexpert", chexpert(tmp_path, rows))


STUDIES = [
    "10000032,50414267,,,,,,,,,1.0,,,,,",
    "10000032,53189527,,,,1.0,,,,,,-1.0,,,,",
    "10000764,57375967,,,1.0,,,,,,,,,-1.0,,",
    "10000898,50771383,1.0,0.0,,,,,,,,,,0.0,,",
    "10000935,50578979,,,,,,,,1.0,,,,,,1.0",
]
IMAGES = [
    "02aa804e-a,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.531,CHEST (PA AND LAT),p,Erect",
    "174413ec-b,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531,CHEST (PA AND LAT),l,Erect",
    "2a2277a9-c,10000032,53189527,CHEST (PA AND LAT),PA,3056,2544,21800626,165500.312,CHEST (PA AND LAT),p,Erect",
    "096052b7-d,10000764,57375967,CHEST (PA AND LAT),AP,2544,3056,21321015,103510.781,CHEST (PA AND LAT),a,",
    "8959e402-e,10000898,50771383,,AP,2544,3056,21880315,111111.0,,,",
    "cafe0000-f,10000935,50578979,,PA,2544,3056,21880315,111111.0,,,",
    "cafe0001-g,10000980,50000001,,PA,2544,3056,21880315,111111.0,,,",
    "cafe0002-h,10000935,50578979,,,2544,3056,21880315,111111.0,,,",
]
SPLIT = ["train", "train", "train", "validate", "test", "train", "train", "train"]


def mimic(folder: Path, parts: list[str] = SPLIT) -> dict[str, str]:
    metadata = folder / "mimic-cxr-2.0.0-metadata.csv.gz"
    metadata.write_bytes(gzip.compress("\n".join([METADATA_HEADER, *IMAGES, ""]).encode()))
    rows = [
        ",".join([image.split(",")[0], *image.split(",")[2:0:-1], part])
        for image, part in zip(IMAGES, parts, strict=True)
    ]
    return {
        "path": write(folder / "mimic-cxr-2.0.0-chexpert.csv", MIMIC_HEADER, *STUDIES),
        "metadata_path": str(metadata),
        "split_path": write(folder / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", *rows),
    }


def test_read_mimic_images_get_the_labels_of_their_study(tmp_path):
    result = manifest("mimic", **mimic(tmp_path))
    frame = result.frame
    assert frame["uri"].iloc[0] == "s3://bucket/films/files/p10/p10000032/s50414267/02aa804e-a.jpg"
    assert frame["part"].tolist() == ["train", "train", "validation", "test", "train"]
    np.testing.assert_array_equal(frame["Edema"], [0, 1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(frame["Pleural Effusion"], [0, np.nan, np.nan, np.nan, np.nan])
    assert result.notes == ("8 images in the table", "7 of a labelled study", "5 of view AP or PA")


def test_read_mimic_split_that_does_not_fit_is_refused(tmp_path):
    files = mimic(tmp_path)
    with pytest.raises(ManifestError, match="must name each image once with train, validate or test"):
        manifest("mimic", **mimic(tmp_path, ["valid", *SPLIT[1:]]))
    with pytest.raises(ManifestError, match="the same patient is in two parts: 10000032;"):
        manifest("mimic", **mimic(tmp_path, ["validate", *SPLIT[1:]]))
    write(tmp_path / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", "other,1,2,train")
    with pytest.raises(ManifestError, match="names the unknown images other;"):
        manifest("mimic", **files)


def test_read_mimic_study_labelled_twice_is_refused(tmp_path):
    files = mimic(tmp_path)
    write(Path(files["path"]), MIMIC_HEADER, *STUDIES, STUDIES[0])
    with pytest.raises(ManifestError, match="labels the studies 50414267 twice"):
        manifest("mimic", **files)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "mimic"}, "needs metadata_path"),
        ({"source": "chexpert", "tree_path": "t"}, "tree_path belongs to the source padchest, not to chexpert"),
        ({"source": "nih14", "test_list": "t"}, "name both or none"),
        ({"source": "padchest", "uncertain": "zeros"}, "uncertain belongs to the source csv or chexpert or mimic, not"),
        ({"source": "nih14", "uncertain_findings": {"Edema": "ones"}}, "uncertain_findings belongs to the source csv"),
        (
            {"source": "csv", "findings": ["A"], "unmentioned": "zeros"},
            "unmentioned belongs to .*chexpert or mimic, not",
        ),
        ({"source": "chexpert", "consensus": "any"}, "consensus belongs to the source vindr, not to chexpert"),
        ({"source": "vindr", "views": ["PA"]}, "views belongs to the source .*, not to vindr"),
        ({"source": "nih14", "uri_column": "image"}, "uri_column belongs to the source csv, not to nih14"),
        (
            {"source": "csv", "findings": ["A"], "uri_column": "i", "layout": "{i}"},
            "no effect beside layout; remove one",
        ),
        (
            {"source": "csv", "findings": ["A"], "uncertain": "ones", "label_column": "l"},
            "no effect beside label_column",
        ),
        ({"source": "csv", "findings": ["A"], "label_separator": ";"}, "label_separator needs label_column"),
        ({"source": "csv", "findings": ["A"], "views": ["PA"]}, "views of a csv need view_column"),
        ({"source": "padchest", "layout": "images"}, "layout must name a column in braces"),
        ({"source": "csv"}, "findings must name at least one column"),
    ],
)
def test_manifest_settings_that_do_not_fit_their_source_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        parse(ManifestConfig, {"path": "train.csv", **settings}, source="run.yaml")


def test_manifest_settings_left_at_their_default_fit_every_source():
    defaults = {"uri_column": "uri", "consensus": "majority", "unmentioned": "ignore", "views": None, "uncertain": None}
    assert ManifestConfig.model_validate({"source": "nih14", "path": "t", **defaults}).uri_column == "uri"


def test_read_chexpert_policy_for_no_finding_of_the_run_is_refused(tmp_path):
    with pytest.raises(
        ManifestError, match=r"uncertain_findings names no finding of the run: 'Edma' \(did you .*'Edema'"
    ):
        source("chexpert", chexpert(tmp_path), uncertain_findings={"Edma": "ones"})
