"""The decoders that are installed by default: all permissive, all there, one for every transfer syntax of a PACS."""

from importlib.metadata import metadata, requires

import pytest
from packaging.requirements import Requirement
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from cxr_ray.images.dicom.codecs import NATIVE, PLUGINS

PERMISSIVE = ("MIT", "BSD", "Apache", "HPND", "MIT-CMU")
DECODERS = (
    *("pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"),
    *("pillow", "opencv-python-headless"),
)


def licence_of(package: str) -> str:
    """Everything a package says about its licence in its metadata."""
    told = metadata(package)
    classifiers = [line for line in told.get_all("Classifier") or () if line.startswith("License")]
    return " ".join((told.get("License-Expression") or "", (told.get("License") or "")[:80], *classifiers))


@pytest.mark.parametrize("package", DECODERS)
def test_licence_of_a_default_decoder_permissive(package):
    licence = licence_of(package)
    assert any(name in licence for name in PERMISSIVE)
    assert "GPL" not in licence


def test_dependencies_by_default_hold_the_decoders_and_no_gpl_one():
    default = {Requirement(line).name for line in requires("cxr-ray") or () if "extra ==" not in line}
    assert set(DECODERS) <= default
    assert not default & {"pylibjpeg-libjpeg", "PyTurboJPEG", "glymur"}


@pytest.mark.parametrize("syntax", [*NATIVE, *map(uid.UID, PLUGINS)], ids=lambda syntax: syntax.keyword)
def test_every_transfer_syntax_has_its_first_choice_installed(syntax):
    decoder = get_decoder(syntax)
    assert decoder.is_available
    if syntax in PLUGINS:
        assert PLUGINS[syntax][0] in decoder.available_plugins
