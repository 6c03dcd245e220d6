"""What three independent programs make of a DICOM file: displayed grey, 0 black to 1 white.

pydicom and highdicom are asked for each step by their own functions; DCMTK is run. No code of cxr_ray.
"""

import io
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_presentation_lut, apply_rescale, apply_voi_lut

Film = NDArray[np.float64]

_NEVER_REACHED = 1e12


def read(data: bytes) -> Dataset:
    """The dataset, also where preamble or meta header are missing, which pydicom wants to be told."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        syntax = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else syntax
    return dataset


def pydicom_display(data: bytes) -> Film:
    """pixel_array, then its modality, VOI and presentation functions, scaled to 0..1.

    The output range of its windows depends on BitsStored, sign and slope, and runs backwards where the slope is
    negative: it is read off at inputs far outside the window. It has no function for MONOCHROME1. Its INVERSE
    subtracts from the array's own maximum, so a white point is added to the film.
    """
    dataset = read(data)
    to_modality = apply_modality_lut if "ModalityLUTSequence" in dataset else apply_rescale
    with warnings.catch_warnings(action="ignore"):  # of excess bytes, of a LUT on floats, of its sigmoid's overflow
        shown = np.asarray(apply_voi_lut(to_modality(dataset.pixel_array, dataset), dataset), dtype=np.float64)
        black, white = apply_voi_lut(np.array([-_NEVER_REACHED, _NEVER_REACHED]), dataset)
    if "VOILUTSequence" in dataset:
        black, white = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1.0
    grey = (shown - black) / (white - black)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 1.0 - grey
    return apply_presentation_lut(np.append(grey, 1.0), dataset)[:-1].reshape(grey.shape)


def highdicom_display(data: bytes) -> Film:
    """highdicom's whole grayscale pipeline, or its functions one after the other where that is not the standard's.

    The pipeline merges a rescale and a window into one window on stored values and there scales the half and the one
    of LINEAR along with the slope, which PS3.3 C.11.2.1.2.1 applies to modality values: off by up to 0.0007. Of a VOI
    LUT it takes the least and the greatest entry for black and white, not 0 and 2^bits - 1 (PS3.3 C.11.2.1.1).
    """
    image = highdicom.imread(io.BytesIO(data))
    options = {"dtype": np.float64, "apply_real_world_transform": False}
    if "RescaleSlope" not in image and "VOILUTSequence" not in image:
        with np.errstate(over="ignore"):  # in its sigmoid
            return image.get_frame(1, **options, apply_voi_transform=True, voi_output_range=(0.0, 1.0))
    values = image.get_frame(1, **options, apply_voi_transform=False, apply_presentation_lut=False)
    if "VOILUTSequence" in image:
        table = highdicom.VOILUT.from_dataset(image.VOILUTSequence[0])
        grey = table.apply(values.astype(np.int32)) / (2.0**table.bits_per_entry - 1.0)
    else:
        center, width = float(image.WindowCenter), float(image.WindowWidth)
        grey = highdicom.pixels.apply_voi_window(values, center, width, output_range=(0.0, 1.0))
    return 1.0 - grey if image.PhotometricInterpretation == "MONOCHROME1" else grey


def dcmtk_display(data: bytes) -> Film:
    """DCMTK's rendering to 16 bits with the file's first VOI LUT or window, without overlays."""
    dataset = read(data)
    voi = ["+Wl", "1"] if "VOILUTSequence" in dataset else ["+Wi", "1"]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "film.dcm", Path(folder) / "film.png"
        source.write_bytes(data)
        program = dcmtk_program(dataset.file_meta.TransferSyntaxUID)
        subprocess.run([program, "-q", "-O", *voi, "+on2", source, target], check=True, timeout=60)
        with Image.open(target) as image:
            return np.asarray(image, dtype=np.float64) / 65535.0


def dcmtk_program(syntax: str) -> str:
    """DCMTK's renderer for a transfer syntax: one with JPEG, one with JPEG-LS, one with neither."""
    return {".50": "dcmj2pnm", ".57": "dcmj2pnm", ".70": "dcmj2pnm", ".80": "dcml2pnm", ".81": "dcml2pnm"}.get(
        syntax[-3:], "dcm2pnm"
    )


def has_dcmtk() -> bool:
    """Whether DCMTK is installed."""
    return shutil.which("dcm2pnm") is not None


REFERENCES: dict[str, Callable[[bytes], Film]] = {
    "pydicom": pydicom_display,
    "highdicom": highdicom_display,
    "dcmtk": dcmtk_display,
}
TOLERANCES = {"pydicom": 1e-7, "highdicom": 1e-7, "dcmtk": 1.01 / 65535}
"""Largest difference to the expectation, which is stored in single precision; DCMTK gives 16 bits."""
