"""The shortcut audit: a planted shortcut is named and honest reading is not; regions, hiding and borrowed masks."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_ray.errors import ConfigError
from cxr_ray.evaluation.localisation.subjects import Subject
from cxr_ray.evaluation.report.sections.blocks import Words
from cxr_ray.evaluation.report.sections.localisation import shortcuts
from cxr_ray.evaluation.shortcuts.regions import borders, film, fixed_lungs, hide, widened
from cxr_ray.evaluation.shortcuts.study import REGIMES, shortcut_audit
from cxr_ray.images.phantom.drawing import make_phantom
from cxr_ray.images.preprocess import Placement

SIDE = 64
FINDINGS = ("Read", "Marked", "One class")
# Films of 120 x 90 fill 64 x 48 pixels: the columns 8..55.
PLACEMENT = Placement(120 / SIDE, 0.0, 120 / SIDE, -15.0)


def subject(number: int, *, marked: bool = True, lungs: bool = False, drawn: bool = True) -> Subject:
    """A film with a bright disc for `Read`, and a square in the corner that goes with `Marked`."""
    random = np.random.default_rng((number, 1))
    labels = np.array([number % 2, (number // 2) % 2, 0], float)
    pixels = random.normal(100, 8, (SIDE, SIDE)).clip(0, 255)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    lesions = np.zeros((3, SIDE, SIDE), np.bool_)
    for f in range(2):
        row, column = random.integers(24, 36), random.choice([random.integers(18, 26), random.integers(38, 46)])
        if labels[f]:
            lesions[f] = (rows - row) ** 2 + (columns - column) ** 2 <= 16
    if drawn:
        pixels[lesions[0]] += 80
    if drawn and (labels[1] or random.random() < 0.1):
        pixels[1:5, 9:13] = 255
    pixels[:, :8] = pixels[:, 56:] = 0
    return Subject(
        uri=f"/{number}.png",
        patient=f"p{number // 3}",
        pixels=pixels.clip(0, 255).astype(np.uint8),
        placement=PLACEMENT,
        height=120,
        width=90,
        labels=labels,
        lesions=lesions if marked else None,
        lungs=np.ones((SIDE, SIDE), np.bool_) if lungs else None,
    )


def subjects(count: int, **options: bool) -> Iterator[Subject]:
    return (subject(number, **options) for number in range(count))


def score(images: np.ndarray) -> np.ndarray:
    """`Read` by the brightest patch inside the film, `Marked` by the corner, the third by nothing."""
    patches = images[:, 16:48, 12:52].reshape(len(images), 8, 4, 10, 4).mean(axis=(2, 4))
    corner = images[:, 1:5, 9:13].mean(axis=(1, 2))
    return np.column_stack([patches.max(axis=(1, 2)) / 255, corner / 255, np.full(len(images), 0.5)])


def test_shortcut_audit_names_the_marker_and_not_the_lesion():
    found = shortcut_audit(score, subjects(180), findings=FINDINGS, num_draws=200)
    assert [finding for finding, _ in found.named] == ["Marked"]
    assert "with lesion hidden" in found.named[0][1]
    assert "Not judged, for want of an AUROC with an interval: One class." in found.lines()
    read, marked = found.aurocs["Read"], found.aurocs["Marked"]
    assert read["whole"].low > 0.95
    assert read["without_lesion"].low < 0.5 < read["without_lesion"].high
    assert read["only_lesion"].low > 0.95
    assert marked["whole"].low > 0.8
    assert marked["without_borders"].value == pytest.approx(0.5, abs=0.15)
    assert marked["only_borders"].value == pytest.approx(marked["whole"].value)
    assert found.to_dict()["findings"]["One class"]["regimes"]["whole"]["auroc"]["value"] is None


def test_shortcut_audit_without_labels_judges_nothing_and_says_so():
    unlabelled = (replace(one, labels=np.full(3, np.nan)) for one in subjects(20))
    found = shortcut_audit(score, unlabelled, findings=FINDINGS, num_draws=20)
    lines = "\n".join(found.lines())
    assert "Nothing could be judged: no finding has an AUROC with an interval" in lines
    assert "No finding survives" not in lines
    page = shortcuts(found.to_dict())
    verdicts = [block.text for block in page.blocks if isinstance(block, Words) and block.kind == "verdict"]
    assert [words.split(":")[0] for words in verdicts] == ["Nothing could be judged"]


def test_shortcut_audit_findings_that_could_not_be_judged_are_told():
    found = shortcut_audit(lambda images: np.tile(score(images)[:, :1], 3), subjects(180), findings=FINDINGS)
    assert found.named == ()
    sentence = (
        "No finding that could be judged survives without the region it should be seen in; not judged, for want of an"
        " AUROC with an interval: One class."
    )
    assert sentence in found.lines()
    assert sentence in [block.text for block in shortcuts(found.to_dict()).blocks if isinstance(block, Words)]


def test_shortcut_audit_without_marked_lesions_names_by_borders():
    found = shortcut_audit(score, subjects(180, marked=False), findings=FINDINGS, num_draws=200)
    assert [finding for finding, _ in found.named] == ["Marked"]
    assert "with all but the borders hidden" in found.named[0][1]
    assert set(found.macro) == set(REGIMES) - {"without_lesion", "only_lesion"}
    assert any("No lesion is marked" in note for note in found.notes)


def test_shortcut_audit_whole_image_auroc_is_scikit_learn_s():
    everyone = list(subjects(90))
    found = shortcut_audit(score, everyone, findings=FINDINGS, num_draws=50)
    labels, scores = np.stack([one.labels for one in everyone]), score(np.stack([one.pixels for one in everyone]))
    for f, finding in enumerate(FINDINGS[:2]):
        assert found.aurocs[finding]["whole"].value == pytest.approx(roc_auc_score(labels[:, f], scores[:, f]))
    expected = np.mean([found.aurocs[finding]["whole"].value for finding in FINDINGS[:2]])
    assert found.macro["whole"].value == pytest.approx(expected)


def test_shortcut_audit_shape_of_the_mask_alone_tells_nothing():
    def holes(images: np.ndarray) -> np.ndarray:
        """Reads how much of the image is even, which is what was hidden."""
        flat = (np.diff(images.astype(int), axis=2) == 0)[:, :, 8:55].mean(axis=(1, 2))
        return np.column_stack([flat] * 3)

    found = shortcut_audit(holes, subjects(300, drawn=False), findings=FINDINGS, num_draws=200)
    for regime in ("without_lesion", "only_lesion"):
        assert found.aurocs["Read"][regime].low < 0.5 < found.aurocs["Read"][regime].high


def test_shortcut_audit_reports_regions_and_the_contract_s_keys():
    found = shortcut_audit(score, subjects(40, lungs=True), findings=FINDINGS, num_draws=20)
    plain = found.to_dict()
    assert {"num_images", "regions", "findings", "regimes", "named", "notes"} <= set(plain)
    assert {name: region["source"] for name, region in plain["regions"].items()} == {
        "lungs": "masks",
        "borders": "fixed",
        "lesion": "masks",
    }
    assert plain["regions"]["borders"]["mean_share"] == pytest.approx(1 - 0.8**2, abs=0.04)
    assert plain["regions"]["lungs"]["mean_share"] == 1.0
    assert (plain["num_images"], plain["num_patients"], plain["findings"]["Read"]["num_positives"]) == (40, 14, 20)
    text = "\n".join(found.lines())
    assert "40 images of 14 patients" in text
    assert "without_lesion" in text


def test_shortcut_audit_same_seed_same_result():
    first, second = (shortcut_audit(score, subjects(60), findings=FINDINGS, num_draws=30, seed=4) for _ in range(2))
    assert first.to_dict() == second.to_dict()


def test_shortcut_audit_memory_does_not_hold_the_images():
    at_once = []

    def watched(images: np.ndarray) -> np.ndarray:
        at_once.append(len(images))
        return score(images)

    shortcut_audit(watched, subjects(70), findings=FINDINGS, num_draws=5)
    assert max(at_once) <= 64
    # Whole, lungs and borders twice each; lesions twice each of the two findings that are marked anywhere.
    assert sum(at_once) == 70 * (5 + 4)


def test_shortcut_audit_of_nothing_and_of_a_wrong_score_is_refused():
    with pytest.raises(ConfigError, match="No labelled image could be read"):
        shortcut_audit(score, [], findings=FINDINGS)
    with pytest.raises(ValueError, match=r"scored as \(\d+, 3\)"):
        shortcut_audit(score, subjects(3), findings=("Read", "Marked"))


def test_regions_lie_on_the_film_and_not_on_the_padding():
    one = subject(1)
    assert film(one).sum() == 64 * 48
    assert not film(one)[:, :8].any()
    edge = borders(one)
    assert edge[:, :8].all()
    assert not edge[32, 13:51].any()
    assert edge[5, 32]
    assert not edge[6, 32]
    lungs = fixed_lungs(one)
    assert not (lungs & ~film(one)).any()
    np.testing.assert_array_equal(lungs, lungs[:, ::-1])


def test_fixed_lungs_hold_most_of_a_phantom_s_lungs():
    for seed in range(6):
        phantom = make_phantom(seed, side=128, present=())
        height, width = phantom.lungs.shape
        side = max(height, width)
        pixels = np.zeros((side, side), np.uint8)
        shape = Subject("", "", pixels, Placement(1.0, 0.0, 1.0, 0.0), height, width, np.zeros(1))
        assert (fixed_lungs(shape)[:height, :width] & phantom.lungs).sum() > 0.6 * phantom.lungs.sum()


@given(seed=st.integers(0, 300))
def test_hide_result_does_not_depend_on_what_is_hidden(seed):
    random = np.random.default_rng(seed)
    one = subject(seed)
    hidden = widened(random.random((SIDE, SIDE)) < 0.003, 4)
    other = one.pixels.copy()
    other[hidden] = random.integers(0, 256, int(hidden.sum()))
    before = one.pixels.copy()
    found = hide(one.pixels, hidden, film(one))
    np.testing.assert_array_equal(found, hide(other, hidden, film(one)))
    np.testing.assert_array_equal(one.pixels, before)
    far = ~widened(hidden, 2)
    np.testing.assert_array_equal(found[far], one.pixels[far])


def test_hide_nothing_is_the_image_and_everything_is_even():
    one = subject(1)
    nothing = np.zeros((SIDE, SIDE), np.bool_)
    np.testing.assert_array_equal(hide(one.pixels, nothing, film(one)), one.pixels)
    assert np.unique(hide(one.pixels, ~nothing, film(one))).tolist() == [0]


def test_widened_by_two_pixels():
    point = np.zeros((7, 7), np.bool_)
    point[3, 3] = True
    assert widened(point, 2).sum() == 13
    assert not widened(np.zeros((7, 7), np.bool_), 2).any()
