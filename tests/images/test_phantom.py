import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from scipy.ndimage import binary_dilation, label

from cxr_ray.errors import ConfigError
from cxr_ray.images.phantom import (
    ENCODINGS,
    FINDINGS,
    Item,
    draw_film,
    make_phantom,
    plan_archive,
    read_masks,
    write_archive,
)
from cxr_ray.images.phantom.cohort import PARTS, PREVALENCES, draw_labels

SIDE = 96


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two rounds of the encodings, written in this process."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, num_images=2 * len(ENCODINGS), seed=5, side=SIDE, processes=1)
    return folder


def items() -> tuple[Item, ...]:
    return plan_archive(2 * len(ENCODINGS), 5)


def drawn(item: Item):
    return draw_film(item.patient_seed, item.film_seed, SIDE, item.present)


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def displayed(path: Path) -> np.ndarray:
    """Grey values 0..1 as pydicom shows them: modality LUT, window, then inversion."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            pixels = np.asarray(image)
        return pixels / np.iinfo(pixels.dtype).max
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    # pydicom's window fills the range of the stored values after the modality LUT.
    low, high = (-(2 ** (dataset.BitsStored - 1)), 2 ** (dataset.BitsStored - 1) - 1)
    if not dataset.PixelRepresentation:
        low, high = 0, 2**dataset.BitsStored - 1
    low, high = (v * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept) for v in (low, high))
    grey = (apply_voi_lut(values, dataset, prefer_lut=False) - low) / (high - low)
    return 1 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def test_phantom_same_seed_is_identical_whatever_the_global_state():
    np.random.seed(1)
    first = make_phantom(3, side=SIDE)
    np.random.seed(2)
    second = make_phantom(3, side=SIDE)
    for name in ("pixels", "masks", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.sex, first.age, first.view_position) == (second.sex, second.age, second.view_position)


def test_phantom_other_seed_is_another_film():
    films = {make_phantom(seed, side=SIDE).pixels.tobytes() for seed in range(6)}
    assert len(films) == 6


def test_phantom_shapes_and_ranges_are_as_promised():
    for seed in range(12):
        phantom = make_phantom(seed, side=SIDE)
        height, width = phantom.pixels.shape
        assert height == SIDE
        assert 0.84 <= width / height <= 1.11
        assert phantom.pixels.dtype == np.float32
        assert phantom.pixels.min() >= 0
        assert phantom.pixels.max() <= 1
        assert phantom.masks.shape == (len(FINDINGS), height, width)
        assert phantom.masks.dtype == np.bool_
        assert phantom.labels.dtype == np.int8
        assert phantom.sex in ("F", "M")
        assert 18 <= phantom.age <= 92
        assert phantom.view_position in ("PA", "AP")


def test_phantom_mask_is_filled_exactly_where_the_label_is_one():
    for seed in range(60):
        phantom = make_phantom(seed, side=SIDE)
        np.testing.assert_array_equal(phantom.masks.any(axis=(1, 2)), phantom.labels == 1)


def test_phantom_lungs_are_dark_two_and_hold_the_nodules():
    for seed in range(8):
        healthy, sick = (make_phantom(seed, side=128, present=present) for present in ((), ("Nodule",)))
        np.testing.assert_array_equal(healthy.lungs, sick.lungs)
        assert 0.15 < healthy.lungs.mean() < 0.5
        assert healthy.pixels[healthy.lungs].mean() < healthy.pixels[~healthy.lungs & (healthy.pixels > 0.15)].mean()
        sizes = np.sort(np.bincount(label(healthy.lungs)[0].ravel())[1:])
        assert sizes[-2] > 0.2 * sizes[-1]
        nodule = sick.masks[FINDINGS.index("Nodule")]
        assert (nodule & sick.lungs).sum() > 0.8 * nodule.sum()


@pytest.mark.parametrize("finding", FINDINGS)
def test_phantom_finding_changes_its_mask_and_little_else(finding):
    for seed in range(6):
        sick, healthy = make_phantom(seed, side=128, present=(finding,)), make_phantom(seed, side=128, present=())
        change = np.abs(sick.pixels - healthy.pixels)
        mask = sick.masks[FINDINGS.index(finding)]
        near = binary_dilation(mask, iterations=2)
        # Scatter and equalisation spread a faint veil over the film: up to a third of the sum, none of it strong.
        assert change[mask].mean() > 0.05
        assert change[near].sum() > 0.6 * change.sum()
        assert change[mask].mean() > 8 * change[~near].mean()


@pytest.mark.parametrize("finding", ["Nodule", "Mass", "Pacemaker"])
def test_phantom_dense_findings_are_brighter_than_without(finding):
    for seed in range(6):
        sick, healthy = make_phantom(seed, side=128, present=(finding,)), make_phantom(seed, side=128, present=())
        mask = sick.masks[FINDINGS.index(finding)]
        assert (sick.pixels - healthy.pixels)[mask].mean() > 0.05


def test_phantom_pneumothorax_is_darker_than_without():
    for seed in range(6):
        sick, healthy = (make_phantom(seed, side=128, present=p) for p in (("Pneumothorax",), ()))
        mask = sick.masks[FINDINGS.index("Pneumothorax")]
        assert (sick.pixels - healthy.pixels)[mask].mean() < -0.03


def test_phantom_heart_with_cardiomegaly_fills_more_than_half_of_the_chest():
    for seed in range(6):
        phantom = make_phantom(seed, side=SIDE, present=("Cardiomegaly",))
        heart = phantom.masks[0].any(axis=0).sum() / phantom.pixels.shape[0]
        # The lungs of these bodies are 0.66 to 0.9 film heights wide.
        assert heart > 0.5 * 0.66


@pytest.mark.parametrize("present", [("Gout",), ("Mass", "mass")])
def test_phantom_unknown_finding_is_refused_by_name(present):
    with pytest.raises(ConfigError, match=present[-1]):
        make_phantom(0, present=present)


def test_labels_prevalences_lie_within_binomial_bounds():
    num = 3000
    rng = np.random.default_rng(0)
    labels = np.concatenate([draw_labels(rng, 1) for _ in range(num)])
    error = np.sqrt(np.array(PREVALENCES) * (1 - np.array(PREVALENCES)) / num)
    assert (np.abs(labels.mean(axis=0) - PREVALENCES) < 4 * error).all()
    assert 0.20 < (~labels.any(axis=1)).mean() < 0.30
    assert labels[labels[:, 0], 1].mean() > labels[~labels[:, 0], 1].mean() + 0.1


def test_labels_drawn_together_hold_their_prevalences_closely():
    labels = draw_labels(np.random.default_rng(1), 500)
    exact = [f for f, name in enumerate(FINDINGS) if name != "Pleural_Effusion"]
    assert (np.abs(labels.sum(axis=0) - 500 * np.array(PREVALENCES))[exact] <= 1).all()


@pytest.mark.parametrize(("num_images", "seed"), [(800, 0), (800, 1), (800, 2), (1203, 3), (1600, 0)])
def test_plan_every_part_has_enough_positives_of_each_finding(num_images, seed):
    plan = plan_archive(num_images, seed)
    found = {part: Counter(name for item in plan if item.part == part for name in item.present) for part in PARTS}
    for finding in FINDINGS:
        assert found["test"][finding] >= 4
        assert found["validation"][finding] >= 3
        assert found["train"][finding] >= 2
    shares = Counter(item.part for item in plan)
    for part, share in zip(PARTS, (0.72, 0.10, 0.18), strict=True):
        assert shares[part] / num_images == pytest.approx(share, abs=0.02)


def test_plan_no_patient_is_in_two_parts():
    plan = plan_archive(500, 7)
    parts = {item.patient_id: item.part for item in plan}
    assert all(parts[item.patient_id] == item.part for item in plan)
    assert set(Counter(item.patient_id for item in plan).values()) == {1, 2, 3}


def test_plan_names_do_not_depend_on_labels_or_parts():
    plan = plan_archive(40, 0)
    names = [item.name for item in plan]
    assert names == sorted(set(names))
    assert [item.encoding for item in plan] == [ENCODINGS[i % len(ENCODINGS)] for i in range(40)]


def test_plan_without_images_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        plan_archive(0, 0)


def test_archive_table_columns_and_files_match_the_plan(archive):
    rows = read_rows(archive)
    assert list(rows[0]) == ["uri", "patient_id", "part", "sex", "age", "view_position", "masks", "lungs", *FINDINGS]
    assert [row["uri"] for row in rows] == [item.uri for item in items()]
    for row, item in zip(rows, items(), strict=True):
        assert {name for name in FINDINGS if row[name] == "1"} == set(item.present)
        assert (archive / row["uri"]).is_file()


def test_archive_masks_are_read_back_as_drawn(archive):
    for row, item in zip(read_rows(archive), items(), strict=True):
        np.testing.assert_array_equal(read_masks((archive / row["masks"]).read_bytes()), drawn(item).masks)


def test_archive_lungs_are_those_drawn_in_one_bit_a_pixel(archive):
    for row, item in zip(read_rows(archive), items(), strict=True):
        with Image.open(archive / row["lungs"]) as image:
            assert image.mode == "1"
            np.testing.assert_array_equal(np.asarray(image), drawn(item).lungs)


@pytest.mark.parametrize("number", range(len(ENCODINGS)))
def test_archive_encoding_decodes_to_the_drawn_pixels(archive, number):
    encoding, item = ENCODINGS[number], items()[number]
    error = np.abs(displayed(archive / item.uri) - drawn(item).pixels)
    if encoding.syntax == pydicom.uid.JPEGBaseline8Bit:
        # Lossy at quality 97: two grey levels on average, a letter's edge rings more.
        assert error.mean() < 2 / 255
        assert error.max() < 12 / 255
    else:
        assert error.max() <= 0.5 / encoding.span + 1e-4


def test_archive_dicom_headers_are_complete_and_consistent(archive):
    uids = set()
    for row in read_rows(archive):
        if row["uri"].endswith(".png"):
            continue
        dataset = pydicom.dcmread(archive / row["uri"])
        assert (dataset.PatientID, dataset.PatientSex) == (row["patient_id"], row["sex"])
        assert (dataset.PatientName, dataset.PatientAge) == ("PHANTOM^", f"{int(row['age']):03d}Y")
        assert (dataset.BodyPartExamined, dataset.ViewPosition) == ("CHEST", row["view_position"])
        assert dataset.Modality in ("DX", "CR")
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert float(dataset.PixelSpacing[0]) * dataset.Rows == pytest.approx(350, abs=0.01)
        uids.add(dataset.SOPInstanceUID)
    assert len(uids) == 2 * sum(encoding.suffix == "dcm" for encoding in ENCODINGS)


def test_archive_patient_keeps_sex_and_age_between_films(archive):
    people = {}
    for row in read_rows(archive):
        assert people.setdefault(row["patient_id"], (row["sex"], row["age"])) == (row["sex"], row["age"])


def test_archive_is_the_same_from_two_processes(archive, tmp_path):
    write_archive(tmp_path, num_images=2 * len(ENCODINGS), seed=5, side=SIDE, processes=2)
    names = sorted(path.relative_to(archive) for path in archive.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in names:
        assert (archive / name).read_bytes() == (tmp_path / name).read_bytes(), name
