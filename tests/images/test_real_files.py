"""The real DICOM files of ../shared/data: each is treated as index.csv beside them says."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom.codecs import decode_samples
from cxr_ray.images.dicom.reading import read_dicom
from cxr_ray.images.intake import Intake, decode_one
from cxr_ray.images.radiograph import decode, read_header
from tests.images.dicom_files import SHARED_DICOM

DEFAULT = Intake(PreprocessConfig(), LimitsConfig(), GateConfig())
NOT_CHEST = {
    "RG3_J2KI": Fault.WRONG_BODY_PART,  # a leg
    "RG2_JPLY_fixed": Fault.WRONG_BODY_PART,  # a hip
    "dx_image": Fault.NOT_HUMAN,  # a dog
}


def index() -> list[dict[str, Any]]:
    """The rows of index.csv; none, and a skip, where the folder is absent."""
    if not SHARED_DICOM.is_dir():
        return []
    with (SHARED_DICOM / "index.csv").open() as file:
        return list(csv.DictReader(file))


def path_of(said: dict[str, Any]) -> Path:
    return SHARED_DICOM.parent / said["file"]


def name_of(said: dict[str, Any]) -> str:
    return Path(said["file"]).stem.split("__")[-1]


@pytest.mark.parametrize("said", index(), ids=name_of)
def test_decode_one_by_default_only_the_chest_is_scored(said):
    image = decode_one(str(path_of(said)), "", DEFAULT)
    if said["kind"] == "chest radiograph":
        assert image.fault is None
        assert image.gate == "header"
    elif name_of(said) in NOT_CHEST:
        assert image.fault is NOT_CHEST[name_of(said)]
    else:
        assert image.fault in (Fault.WRONG_MODALITY, Fault.WRONG_BODY_PART, Fault.SCREENSHOT)
    assert (image.pixels is None) == (image.fault is not None)


@pytest.mark.parametrize("said", index(), ids=name_of)
def test_decode_without_a_gate_values_and_kinds_as_the_index_says(said):
    """Without the gate the pixels count: several frames and colours are refused, everything else has its values."""
    data = path_of(said).read_bytes()
    assert said["pydicom_decode"] == "ok"
    if float(said["frames"] or 1) > 1:
        with pytest.raises(DecodeError) as caught:
            decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig())
        assert caught.value.fault is Fault.MULTIPLE_FRAMES
    elif not said["photometric"].startswith("MONOCHROME"):
        with pytest.raises(DecodeError) as caught:
            decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig())
        assert caught.value.fault is Fault.COLOUR
    else:
        samples = decode_samples(read_dicom(data)).values
        assert samples.shape == (float(said["rows"]), float(said["cols"]))
        assert samples.min() == pytest.approx(float(said["min"]), abs=1e-12)
        assert samples.max() == pytest.approx(float(said["max"]), abs=1e-12)
        radiograph = decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig())
        assert np.ptp(radiograph.pixels) > 0.15


@pytest.mark.parametrize("name", ["ivle", "evle", "rle", "j2k", "mono2_inverted", "signed_rescale"])
def test_decode_one_transcoded_film_scored(shared_dicom, name):
    image = decode_one(str(shared_dicom / "transcoded" / f"{name}.dcm"), "", DEFAULT)
    assert image.fault is None
    assert image.header is not None
    assert image.header.body_part_examined == "CHEST"
