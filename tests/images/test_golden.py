"""The golden DICOM files: ours, the references and the script that made them, all against one stored expectation.

The references are asked again each time, so that the stored arrays cannot drift into being our own output.
"""

import json
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.images.golden.cases import cases
from tests.images.golden.make import FOLDER, expectation, stored
from tests.images.golden.references import REFERENCES, TOLERANCES, has_dcmtk

CASES = {case.name: case for case in cases()}
AGREEMENT = json.loads((FOLDER / "agreement.json").read_text())
ASKED = [(name, reference) for name, case in CASES.items() for reference in REFERENCES if reference not in case.without]
OURS = 1e-6  # pixels are float32 in a range of 1


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """What is to be seen of each case."""
    return stored()


@pytest.mark.parametrize("name", CASES)
def test_golden_file_shown_as_expected(show, expected, name):
    radiograph = show((FOLDER / f"{name}.dcm").read_bytes())
    assert radiograph.pixels.shape == expected[name].shape
    assert_allclose(radiograph.pixels, expected[name], rtol=0, atol=OURS)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("voi_lut_before_window", "lut"),
        ("both_luts", "lut"),
        ("windows_several", "window"),
        ("window_sigmoid", "window"),
        ("windows_first_misses", "percentiles"),
        ("window_width_negative", "percentiles"),
        ("window_function_unknown", "percentiles"),
    ],
)
def test_golden_file_voi_source_recorded(show, name, source):
    assert show((FOLDER / f"{name}.dcm").read_bytes()).voi_source == source


@pytest.mark.parametrize(("name", "reference"), ASKED, ids=lambda part: part)
def test_golden_reference_asked_again_agrees(expected, name, reference):
    if reference == "dcmtk" and not has_dcmtk():
        pytest.skip("dcm2pnm is not on the PATH: apt-get install dcmtk")
    shown = REFERENCES[reference](CASES[name].data)
    assert_allclose(shown, expected[name], rtol=0, atol=TOLERANCES[reference])


def comparable(data: bytes) -> bytes:
    """A file as it is, but a deflated one inflated: another zlib may pack the same bytes otherwise."""
    start = 144 + int.from_bytes(data[140:144], "little")
    if b"1.2.840.10008.1.2.1.99" in data[:start]:
        return data[:start] + zlib.decompress(data[start:], -zlib.MAX_WBITS)
    return data


@pytest.mark.parametrize("name", CASES)
def test_golden_script_makes_the_committed_file(expected, name):
    assert comparable(CASES[name].data) == comparable((FOLDER / f"{name}.dcm").read_bytes())
    assert_allclose(expectation(CASES[name]), expected[name], rtol=0, atol=1e-7)


def test_golden_folder_holds_the_cases_and_nothing_else(expected):
    assert {path.stem for path in FOLDER.glob("*.dcm")} == set(CASES) == set(expected) == set(AGREEMENT)


def test_golden_agreement_says_why_a_reference_is_left_out():
    for name, case in CASES.items():
        told = {reference: text for reference, text in AGREEMENT[name].items() if isinstance(text, str)}
        assert told == case.without


def test_golden_cases_without_by_hand_have_two_references():
    """Something must stand against a reference's own mistake."""
    alone = [name for name, case in CASES.items() if case.by_hand is None and len(case.without) > 1]
    assert alone == []
