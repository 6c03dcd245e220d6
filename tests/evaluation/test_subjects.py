"""Which films an audit looks at and whose they are: as in an evaluation of the same scores and labels."""

import pytest

from cxr_ray.errors import ManifestError
from cxr_ray.evaluation.labelled import read_labelled
from cxr_ray.evaluation.localisation.subjects import choose, read_films
from tests.evaluation.invented import CONTRACT, faulted_row, scored_row, write_scores

NUMBERS = ((0.9, 0.1, 0.1), (3, 0, 0), (0.1, 0.1, 0.1))
OWNERS = {"/a.dcm": "p", "/b.dcm": "q", "/c.dcm": "p", "/d.dcm": "q"}


def write(folder, head, *lines, keys=OWNERS):
    rows = [scored_row(uri, "1", NUMBERS, patient_key=keys.get(uri)) for uri in OWNERS]
    write_scores(folder, "a.parquet", [*rows, faulted_row("/e.dcm", "corrupt")])
    (folder / "labels.csv").write_text("\n".join([head, *lines]))
    return str(folder), str(folder / "labels.csv")


def test_read_films_labels_without_patients_take_those_of_the_scores(tmp_path):
    output, manifest = write(tmp_path, "uri,Mass", *(f"{uri},1" for uri in OWNERS))
    found = read_films(output, manifest, CONTRACT)
    assert {film.uri: film.patient for film in found.films} == OWNERS
    assert found.clustered_by == "patient_key"
    data = read_labelled(output, manifest)
    assert dict(zip(data.uris, data.patients.tolist(), strict=True)) == OWNERS
    assert len({film.patient for film in choose(found.films, limit=2, seed=0)}) == 1


def test_read_films_one_row_without_a_key_and_each_image_counts(tmp_path):
    keys = {uri: owner for uri, owner in OWNERS.items() if uri != "/d.dcm"}
    output, manifest = write(tmp_path, "uri,Mass", *(f"{uri},1" for uri in OWNERS), keys=keys)
    found = read_films(output, manifest, CONTRACT)
    assert (len({film.patient for film in found.films}), found.clustered_by) == (4, None)
    assert any("no column patient_id: each image counts as a patient" in note for note in found.notes)


def test_read_films_patient_column_is_taken_when_named_and_refused_when_absent(tmp_path):
    lines = ("/a.dcm,1,x", "/b.dcm,1,x", "/c.dcm,0,", "/e.dcm,1,y", "/f.dcm,1,y")
    output, manifest = write(tmp_path, "uri,Mass,owner", *lines)
    found = read_films(output, manifest, CONTRACT, patient_column="owner")
    first, second, blank = (film.patient for film in found.films)
    assert first == second == "x" != blank
    assert found.counts.to_dict() == {
        "num_labelled": 5,
        "num_scored": 3,
        "num_faulted": 1,
        "num_unscored": 1,
        "num_unlabelled": 1,
    }
    assert found.notes == (
        "1 labelled image was not scored: /f.dcm.",
        "1 scored image has no label: /d.dcm.",
        "1 image without a patient counts as one each.",
    )
    for name, near in (("ownr", r" \(did you mean 'owner'\?\)"), ("patient_id", "")):
        with pytest.raises(ManifestError, match=rf"no column '{name}'{near}; its columns are uri, Mass, owner"):
            read_films(output, manifest, CONTRACT, patient_column=name)
