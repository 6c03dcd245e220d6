"""The split by patient, and what keeps a part from its purpose."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ray.errors import ManifestError
from cxr_ray.labels.split import PARTS, complete_parts, split_by_patient
from tests.labels.tables import manifest, write

FINDINGS = ["Common", "Rare", "Clustered", "Half stated"]
SHARES = (0.7, 0.1, 0.2)


def invented(num_patients: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Patients with 1 to 6 images; one finding is of the patient, not the image, one is stated half the time."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), random.integers(1, 7, num_patients))
    labels = (random.random((len(patients), 4)) < (0.3, 0.01, 0.0, 0.2)).astype(np.float32)
    labels[:, 2] = (random.random(num_patients) < 0.05)[patients]
    labels[random.random(len(patients)) < 0.5, 3] = np.nan
    frame = pd.DataFrame(labels, columns=FINDINGS).assign(patient_id=patients.astype(str), part=None)
    return frame.sample(frac=1.0, random_state=seed).reset_index(drop=True)


def test_split_by_patient_every_part_holds_its_share_of_images_and_findings():
    frame = invented()
    parts = split_by_patient(frame, FINDINGS, shares=SHARES, seed=3)
    assert frame["patient_id"].groupby(parts).nunique().sum() == 2000
    images = parts.value_counts(normalize=True)
    prevalence = (frame[FINDINGS] == 1).groupby(parts).mean()
    for part, share in zip(PARTS, SHARES, strict=True):
        assert images[part] == pytest.approx(share, abs=0.005)
        for finding in FINDINGS:
            assert prevalence.loc[part, finding] == pytest.approx((frame[finding] == 1).mean(), rel=0.1)


def test_split_by_patient_is_the_seeds_alone():
    frame = invented(300)
    first = split_by_patient(frame, FINDINGS, shares=SHARES, seed=1)
    pd.testing.assert_series_equal(first, split_by_patient(frame, FINDINGS, shares=SHARES, seed=1))
    assert (first != split_by_patient(frame, FINDINGS, shares=SHARES, seed=2)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 1000))
def test_split_by_patient_no_patient_is_ever_torn_and_no_part_of_share_zero_is_filled(num_patients, seed):
    frame = invented(num_patients, seed)
    parts = split_by_patient(frame, FINDINGS, shares=(0.6, 0.4, 0.0), seed=seed)
    assert set(parts) == {"train", "validation"}
    assert parts.groupby(frame["patient_id"]).nunique().max() == 1


def test_complete_parts_official_test_patients_stay_and_validation_is_drawn_from_training():
    frame = invented(400)
    test = frame["patient_id"].astype(int) >= 300
    official = frame.assign(part=np.where(test, "test", "train"))
    parts = complete_parts(official, FINDINGS, shares=SHARES, seed=0)
    assert (parts[test] == "test").all()
    assert (parts[~test] == "validation").mean() == pytest.approx(0.1 / 0.8, abs=0.01)
    stated = official.assign(part=np.where(test, "validation", "train"))
    assert complete_parts(stated, FINDINGS, shares=SHARES, seed=0).tolist() == stated["part"].tolist()


def test_read_manifest_finding_of_one_class_is_refused_by_part(tmp_path):
    rows = [f"{i}.png,{i},{'train' if i < 6 else 'validation'},{i % 2},{int(i < 5)},1,0" for i in range(10)]
    path = write(tmp_path / "t.csv", "uri,patient_id,part,Good,Late,Always,Never", *rows)
    findings = ["Good", "Late", "Always", "Never"]
    with pytest.raises(ManifestError) as caught:
        manifest("csv", path, part_column="part", findings=findings, one_class="refuse")
    for words in (
        "no image of the part train has Never present;",
        "no image of the part train has Always absent;",
        "no image of the part validation has Late, Never present;",
        "set manifest.one_class to allow.",
    ):
        assert words in str(caught.value)
    assert manifest("csv", path, part_column="part", findings=findings).findings == tuple(findings)
