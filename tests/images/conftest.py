"""DICOM files made on the spot, and the real ones in ../shared/data where that folder exists."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.images.radiograph import Radiograph, decode, read_header
from tests.images import dicom_files
from tests.images.dicom_files import SHARED_DICOM


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """The folder of real DICOM files beside the repository."""
    if not SHARED_DICOM.is_dir():
        pytest.skip("../shared/data/dicom is absent")
    return SHARED_DICOM


@pytest.fixture(scope="session")
def imagecodecs() -> Any:
    """Encoders that share no code with the decoders under test: OpenJPH and libjpeg-turbo."""
    return pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: pip install -e '.[dev]'")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each of the real odd files; none, and a skip, where the folder is absent."""
    if "decoder_file" in metafunc.fixturenames:
        paths = sorted(SHARED_DICOM.glob("decoders/*.dcm"))
        metafunc.parametrize("decoder_file", paths, ids=[path.stem.split("__")[-1] for path in paths])


@pytest.fixture(scope="session")
def film() -> NDArray[np.uint16]:
    """A 12-bit film of 62 x 47 pixels with all grey values from 0 to 4095, noise, and no symmetry."""
    rows, columns = np.mgrid[:62, :47]
    noise = np.random.default_rng(7).integers(0, 200, rows.shape)
    values = np.clip(rows * 45 + columns * 30 + noise, 0, 4095).astype(np.uint16)
    values[0, 0], values[-1, -1] = 0, 4095
    return values


@pytest.fixture(scope="session")
def build_dicom() -> Callable[..., bytes]:
    """Make a DICOM file of pixels (H, W) or (H, W, 3): see dicom_files.py."""
    return dicom_files.build_dicom


@pytest.fixture(scope="session")
def show() -> Callable[..., Radiograph]:
    """Decode image bytes with the default settings."""

    def decoded(data: bytes, **preprocess: Any) -> Radiograph:
        return decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig(**preprocess))

    return decoded
