"""The model card says what was measured, and a dash where nothing was."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cxr_ray.models.calibration import Calibration, calibration_errors
from cxr_ray.models.card import CardFacts, FindingResult, PartResult, model_card, recalibrated_card
from cxr_ray.models.ensemble import EnsembleSpec
from tests.conftest import PREPROCESS

UNDEFINED = (math.nan, math.nan, math.nan)
SPEC = EnsembleSpec(
    ("Mass", "Hernia"),
    ("a", "b", "c"),
    ("1" * 64, "2" * 64, "3" * 64),
    "mean",
    calibration=Calibration((1.25, 1.0), (-0.5, 0.0)),
    thresholds=(0.375, 0.5),
    member_thresholds=((0.5, 0.5),) * 3,
    grid=7,
    preprocess=PREPROCESS,
    training={"manifest_digest": "abc"},
)
MASS = FindingResult("Mass", 12, 300, (0.8125, 0.7, 0.9), (0.5, 0.4, 0.6), (0.25, math.nan, math.nan))
HERNIA = FindingResult("Hernia", 0, 300, UNDEFINED, UNDEFINED, UNDEFINED)
TEST = PartResult("test", 300, 150, (MASS, HERNIA), replace(MASS, finding="mean"), (0.25, 0.5), (0.125, math.nan))
FACTS = CardFacts(
    images={"train": 1200, "test": 300},
    patients={"train": 600, "test": 150},
    positives={"train": [48, 2], "test": [12, 0]},
    unreadable=7,
    fitting=["Loss: bce, positives weighted (sqrt). Order of the images: shuffled.", "Second stage (cRT)."],
    weights=[4.5, 20.0],
    results=[replace(TEST, part="validation"), TEST],
    population="750 patients; sex F 50%, M 50%",
    views=("PA",),
    versions={"torch": "2.0"},
)


@pytest.mark.parametrize(
    "line",
    [
        "| positives of | train | test | weight |",
        "| **images** | 1,200 | 300 |  |",
        "| Mass | 48 | 12 | 4.50 |",
        "| Mass | 12 of 300 | 0.812 (0.700 to 0.900) | 0.500 (0.400 to 0.600) | 0.250 (- to -) |",
        "| Hernia | 0 of 300 | - | - | - |",
        "| Mass | 0.375 | f1 | platt 1.250 -0.500 | 0.250 | 0.125 |",
        "| Hernia | 0.500 | f1 | identity | 0.500 | - |",
        "## Results on the validation part",
        "## Results on the test part",
        "| **patients** | 600 | 150 |  |",
        "300 images of 150 patients.",
        "Counted are the images that could be read. 7 more could not, and are left out.",
        "Loss: bce, positives weighted (sqrt). Order of the images: shuffled.",
        "Second stage (cRT).",
        "- Member b: weights 2222222222222222",
        "- Training table: abc.",
    ],
)
def test_model_card_every_figure_stands_in_its_table(line):
    assert line in model_card(SPEC, FACTS).splitlines()


def test_model_card_says_what_it_is_not_for_and_only_validation_is_called_optimistic():
    card = model_card(SPEC, FACTS)
    assert "not a medical device" in card
    assert "750 patients; sex F 50%, M 50%" in card
    assert "refuses lateral views" in card
    validation, test = card.split("## Results on the ")[1:]
    assert "The best epoch of each member, the thresholds and any calibration were chosen by this part" in validation
    assert "optimistic" not in test
    assert "ECE on the test part: the expected" in test
    assert "nan" not in card


def test_model_card_without_test_part_calls_the_calibration_error_too_small():
    card = model_card(SPEC, replace(FACTS, results=FACTS.results[:1]))
    assert "ECE on the validation part, to which all this was fitted: it is too small:" in card


@pytest.mark.parametrize(
    ("views", "words"),
    [
        (("PA",), "Views: learnt from PA only. The gate of `cxr-ray score` lets PA, AP"),
        (("AP", "PA"), "Views: learnt from AP and PA only."),
        ((), "Views: learnt from all that the table has."),
        (None, "Views: those that were learnt are not recorded."),
    ],
)
def test_model_card_views_are_those_of_the_settings(views, words):
    assert f"- {words}" in model_card(SPEC, replace(FACTS, views=views))


def test_model_card_patients_that_are_not_named_are_unknown_not_counted():
    unknown = replace(FACTS, patients={}, results=[replace(TEST, patients=None)], weights=())
    card = model_card(SPEC, unknown)
    assert "| **patients** | unknown | unknown |  |" in card
    assert "300 images (patients unknown)." in card
    assert "draws of images" in card
    assert "| Mass | 48 | 12 | - |" in card


@pytest.mark.parametrize(
    ("combination", "words"),
    [("vote", "present when half of the members or more vote for it"), ("mode", "set of findings that most members")],
)
def test_model_card_voting_rules_have_no_calibration_and_the_members_thresholds(combination, words):
    members = ((0.25, 0.5), (0.5, 0.125), (0.75, 0.5))
    card = model_card(replace(SPEC, combination=combination, member_thresholds=members), FACTS)
    assert words in card
    assert "no probability, and not calibrated" in card
    assert "platt" not in card
    assert "| finding | threshold | rule | threshold of a | threshold of b | threshold of c | ECE |" in card
    assert "| Mass | 0.375 | f1 | 0.250 | 0.500 | 0.750 | 0.125 |" in card
    assert "of the combined votes, which take few values" in card


def test_model_card_rules_are_those_that_set_the_thresholds():
    rules = {"threshold_rules": {"Mass": "sensitivity>=0.95"}}
    card = model_card(replace(SPEC, training=rules, calibration=Calibration((1.25, 1.0), (0.0, 0.0))), CardFacts())
    assert "| Mass | 0.375 | sensitivity>=0.95 | temperature 1.250 |" in card
    assert "| Hernia | 0.500 | - | identity |" in card


def test_recalibrated_card_tells_the_new_figures_before_the_former_card():
    former, new = model_card(SPEC, FACTS), replace(SPEC, thresholds=(0.25, 0.5))
    rows = [("finding", "Brier before, after"), ("Mass", "0.2, 0.1")]
    card = recalibrated_card(new, story="Recalibrated on 40 images.", rows=rows, former=former)
    assert card.startswith(f"# Ensemble {new.digest}\n")
    assert "Recalibrated on 40 images.\n\n| finding | Brier before, after |\n| --- | --- |\n| Mass | 0.2, 0.1 |" in card
    assert (
        card.index("| Mass | 0.250 | f1 |") < card.index(f"## Ensemble {SPEC.digest}") < card.index("| Mass | 0.375 |")
    )
    assert "### Intended use and limits" in card
    assert [line for line in card.splitlines() if line.startswith("# ")] == [f"# Ensemble {new.digest}"]


def test_model_card_without_facts_is_still_a_card():
    card = model_card(SPEC, CardFacts())
    assert "nan" not in card
    assert "Population: not recorded." in card


@pytest.mark.parametrize("sort", [False, True])
def test_calibration_errors_known_gaps_and_unstated_labels(sort):
    labels = np.array([[0.0, np.nan], [1.0, np.nan]] * 50)
    labels = np.sort(labels, axis=0) if sort else labels  # what lies in a bin may not follow from the order of rows
    probabilities = np.full((100, 2), 0.75)
    assert calibration_errors(probabilities, labels)[0] == pytest.approx(0.25)
    assert math.isnan(calibration_errors(probabilities, labels)[1])
    assert calibration_errors(np.repeat([[0.0], [1.0]], 50, axis=0), np.repeat([[0.0], [1.0]], 50, axis=0)) == (0.0,)
