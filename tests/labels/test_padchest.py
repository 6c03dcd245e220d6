"""PadChest: lists in text, a tree of terms, PA only, and the paper's rules."""

import numpy as np
import pytest

from cxr_ray.errors import ManifestError
from cxr_ray.labels.sources.padchest import SPECIFIC, parse_labels, top_terms
from tests.labels.tables import TREE, manifest, source, write, write_padchest

ROWS = [
    {"ImageID": "1_a.png", "PatientID": "11", "Labels": "['COPD signs', ' pneumonia', 'pneumonia']"},
    {"ImageID": "2_a.png", "PatientID": "12", "Labels": "['normal']", "PatientSex_DICOM": "M", "PatientBirth": ""},
    {"ImageID": "3_a.png", "PatientID": "13", "Labels": "['calcified granuloma', 'NSG tube', '']", "ImageDir": 7},
    {"ImageID": "4_a.png", "PatientID": "14", "Labels": "['pneumonia']", "Projection": "L"},
    {"ImageID": "5_a.png", "PatientID": "15", "Labels": "", "PatientSex_DICOM": "O"},
    {"ImageID": "6_a.png", "PatientID": "16", "Labels": "['exclude', 'suboptimal study']"},
    {"ImageID": "7_a.png", "PatientID": "17", "Labels": "['atypical pneumonia']", "Projection": "AP_horizontal"},
    {"ImageID": "8_a.png", "PatientID": "18", "Labels": "['atypical pneumonia', \"goiter\"]"},
]


def test_read_padchest_labels_are_normalised_and_pa_with_a_label_is_kept(tmp_path):
    labelled = source("padchest", write_padchest(tmp_path / "p.csv", ROWS), findings=["pneumonia", "COPD  signs"])
    assert labelled.frame["name"].tolist() == ["1_a.png", "2_a.png", "3_a.png", "8_a.png"]
    assert labelled.frame["path"].tolist()[2] == "7/3_a.png"
    assert labelled.frame[["pneumonia", "COPD  signs"]].to_numpy().tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert labelled.frame["sex"].tolist() == ["F", "M", "F", "F"]
    assert labelled.frame["age"].tolist()[0] == 64
    assert np.isnan(labelled.frame["age"].tolist()[1])
    assert labelled.notes == ("8 images in the table", "6 with a label", "4 of view PA")


def test_read_padchest_without_findings_looks_for_the_papers_35(tmp_path):
    labelled = source("padchest", write_padchest(tmp_path / "p.csv", ROWS))
    assert len(set(SPECIFIC)) == 35
    assert labelled.findings == SPECIFIC
    assert labelled.frame["copd signs"].sum() == 1


def test_read_padchest_rare_findings_and_images_without_any_are_left_out(tmp_path):
    path = write_padchest(tmp_path / "p.csv", ROWS)
    labelled = source("padchest", path, min_images=1, require_finding=True)
    assert labelled.findings == ("normal", "copd signs", "pneumonia", "calcified granuloma")
    assert labelled.frame["name"].tolist() == ["1_a.png", "2_a.png", "3_a.png"]
    assert labelled.notes[-1] == "3 with one of the findings"
    with pytest.raises(ManifestError, match=r"No finding .* has 200 positive images: normal \(1\).*lower min_images"):
        source("padchest", path, min_images=200)


def test_read_padchest_tree_groups_labels_into_all_their_top_terms(tmp_path):
    path, tree = write_padchest(tmp_path / "p.csv", ROWS), write(tmp_path / "tree.csv", TREE)
    labelled = source("padchest", path, tree_path=tree, views=[])
    general = ("normal", "calcified densities", "granuloma", "nsg tube", "pneumonia", "copd signs")
    assert labelled.findings == general
    by_name = labelled.frame.set_index("name")[list(general)]
    assert by_name.loc["3_a.png"].tolist() == [0, 1, 1, 1, 0, 0]
    assert by_name.loc["8_a.png"].tolist() == [0, 0, 0, 0, 1, 0]
    assert "6_a.png" not in by_name.index


def test_top_terms_tree_without_roots_reads_the_same():
    lines = [line for line in TREE.splitlines() if line[0] in "├│└" and "bone" not in line]
    assert top_terms("\n".join(lines)) == top_terms(TREE)
    assert top_terms(TREE)["calcified mediastinal adenopathy"] == ("calcified densities",)
    with pytest.raises(ManifestError, match="tree_term_CUI_counts"):
        top_terms("label,parent\nnodule,mass\n")


@pytest.mark.parametrize("cell", ["normal", "['a'", "{'a': 1}", "['a', 1]", "__import__('os').getcwd()", "(" * 500])
def test_parse_labels_anything_but_a_list_of_names_is_refused(cell):
    with pytest.raises(ValueError, match="is no list"):
        parse_labels(cell)


def test_read_padchest_broken_list_is_named_with_its_line(tmp_path):
    rows = [*ROWS, {"ImageID": "9_a.png", "PatientID": "19", "Labels": "['normal'"}]
    with pytest.raises(ManifestError, match=r"Labels must be a Python list of names, not \"\['normal'\" \(line 10\)"):
        manifest("padchest", write_padchest(tmp_path / "p.csv", rows))


def test_read_padchest_misspelt_finding_and_absent_view_are_named(tmp_path):
    path = write_padchest(tmp_path / "p.csv", ROWS)
    with pytest.raises(ManifestError, match=r"has the labels 'Pneumonias' \(did you mean 'pneumonia'\?\)"):
        source("padchest", path, findings=["normal", "Pneumonias"])
    with pytest.raises(ManifestError, match=r"left: 8 images in the table, 6 with a label, 0 of view AP; .*change"):
        source("padchest", path, views=["AP"])


def test_read_padchest_to_manifest_splits_seventy_ten_twenty_by_patient(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        {
            "ImageID": f"{i}.png",
            "PatientID": f"{i // 2}",
            "Labels": str([name for name, rate in (("normal", 0.5), ("pneumonia", 0.1)) if random.random() < rate]),
        }
        for i in range(1000)
    ]
    path = write_padchest(tmp_path / "p.csv", rows)
    result = manifest("padchest", path, layout="{ImageID}", findings=["normal", "pneumonia"], require_finding=True)
    share = result.frame["part"].value_counts(normalize=True)
    assert share.to_dict() == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.02)
    assert result.frame.groupby("patient_id")["part"].nunique().max() == 1
    assert result.frame["uri"].iloc[0].startswith("s3://bucket/films/")
    assert set(result.frame) >= {"sex", "age", "view", "manufacturer"}


def test_read_padchest_image_listed_twice_is_named_with_its_line(tmp_path):
    with pytest.raises(ManifestError, match=r"these images are listed before: 2_a\.png \(line 10\);"):
        manifest("padchest", write_padchest(tmp_path / "p.csv", [*ROWS, ROWS[1]]))


def test_read_padchest_tree_that_is_not_there_says_where_it_is_published(tmp_path):
    path = write_padchest(tmp_path / "p.csv", ROWS)
    published = r"must be tree_term_CUI_counts_160K\.csv of github\.com/auriml/Rx-thorax-automatic-captioning\.$"
    with pytest.raises(ManifestError, match=rf"tree\.csv cannot be read .*; it {published}"):
        source("padchest", path, tree_path=str(tmp_path / "tree.csv"))
    with pytest.raises(ManifestError, match=rf"'granuloma' .*; for general terms manifest\.tree_path {published}"):
        source("padchest", path, findings=["granuloma"])
