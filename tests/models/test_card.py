"""The model card says what was measured, and a dash where nothing was."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cxr_ray.models.calibration import Calibration, calibration_errors
from cxr_ray.models.card import CardFacts, FindingResult, PartResult, model_card
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
    loss="bce, weighting sqrt",
    weights=[4.5, 20.0],
    results=[replace(TEST, part="validation"), TEST],
    population="750 patients; sex F 50%, M 50%",
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
        "| Mass | 0.375 | 1.250 | -0.500 | 0.250 | 0.125 |",
        "| Hernia | 0.500 | 1.000 | 0.000 | 0.500 | - |",
        "## Results on the validation part",
        "## Results on the test part",
        "Loss: bce, weighting sqrt. The weight is that of a finding's positives in it.",
        "- Member b: weights 2222222222222222",
        "- Training table: abc.",
    ],
)
def test_model_card_every_figure_stands_in_its_table(line):
    assert line in model_card(SPEC, FACTS).splitlines()


def test_model_card_says_what_it_is_not_for_and_only_validation_is_called_too_good():
    card = model_card(SPEC, FACTS)
    assert "not a medical device" in card
    assert "750 patients; sex F 50%, M 50%" in card
    assert "refuses lateral views" in card
    validation, test = card.split("## Results on the ")[1:]
    assert "F1 is somewhat too good" in validation
    assert "F1 is somewhat too good" not in test
    assert "nan" not in card


def test_model_card_without_facts_is_still_a_card():
    card = model_card(SPEC, CardFacts())
    assert "nan" not in card
    assert "Population: not recorded." in card


def test_calibration_errors_known_gaps_and_unstated_labels():
    labels = np.array([[0.0, np.nan], [1.0, np.nan]] * 50)
    probabilities = np.full((100, 2), 0.75)
    assert calibration_errors(probabilities, labels)[0] == pytest.approx(0.25)
    assert math.isnan(calibration_errors(probabilities, labels)[1])
    assert calibration_errors(np.repeat([[0.0], [1.0]], 50, axis=0), np.repeat([[0.0], [1.0]], 50, axis=0)) == (0.0,)
