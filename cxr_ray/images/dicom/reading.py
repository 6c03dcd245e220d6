"""DICOM bytes to pixels in MONOCHROME2 order, 0..1, and the attributes that identify them.

Parses the object and decides in which order things happen. Which attributes are read and what of them may get out is
said in header.py, how a value is read in attributes.py, which decoder takes the pixels in codecs.py, what the header
says of grey in presentation.py, and the arithmetic in grey.py. Beside this package only phantom/files.py knows pydicom.
Knows nothing of files, of other formats, or of what is to be scored.
"""

from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images import grey
from cxr_ray.images.dicom import hints
from cxr_ray.images.dicom.attributes import (
    DicomImage,
    first_frame,
    name_of_uid,
    number_of,
    optional_numbers_of,
    spacing_of,
    text_of,
    uid_of,
)
from cxr_ray.images.dicom.codecs import decode_samples
from cxr_ray.images.dicom.codestream import jpeg_2000_stream, jpeg_stream
from cxr_ray.images.dicom.presentation import closed, grey_steps
from cxr_ray.images.header import (
    HEADER_KEYWORDS,
    PALETTE_KEYWORDS,
    PIXEL_DATA_KEYWORDS,
    PIXEL_KEYWORDS,
    Header,
    codec_border,
    patient_key,
)
from cxr_ray.images.packed.deflate import within_limits

_SYNTAX_OF_MARKER = {0xC1: uid.JPEGExtended12Bit, 0xC3: uid.JPEGLossless, 0xF7: uid.JPEGLSLossless}


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin like DICOM: with the prefix, or, for want of it, with an element of group 2 or 8.

    Source: PS3.10 7.1.
    """
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    return (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00") or (
        data[:2] == b"\x00\x08" and data[2:3] == b"\x00" and data[4:6].isupper()
    )


class _Source(BytesIO):
    """Bytes that remember whether the parser ran into their end inside an element."""

    cut_short = False

    def __init__(self, data: bytes, limits: LimitsConfig) -> None:
        super().__init__(data)
        self.limits = limits

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like BytesIO and notice a read that falls short.

        Only a deflated dataset is read without a size, to be inflated whole: that is done here, within the limits.
        Raises DecodeError: TOO_LARGE.
        """
        beyond = self.tell() > self.getbuffer().nbytes
        chunk = super().read(size)
        if size is None or size < 0:
            return within_limits(chunk, self.limits)
        self.cut_short |= beyond or (size is not None and 0 < len(chunk) < size)
        return chunk


def read_dicom(
    data: bytes, *, limits: LimitsConfig | None = None, patient_key_secret: bytes | None = None
) -> DicomImage:
    """Parse a DICOM object up to, but not into, its pixel data.

    `limits` bound what a deflated dataset inflates to; None takes the defaults.
    Raises DecodeError: NOT_AN_IMAGE, NO_PIXELS, STRUCTURED_REPORT, DICOMDIR, CORRUPT, TOO_LARGE.
    """
    dataset = read_dataset(data, limits=limits)
    transfer_syntax = _transfer_syntax(dataset)
    return DicomImage(
        header=_header(dataset, transfer_syntax, secret=patient_key_secret),
        transfer_syntax=transfer_syntax,
        dataset=dataset,
    )


def read_dataset(data: bytes, *, limits: LimitsConfig | None = None) -> pydicom.Dataset:
    """Parse the attributes that are used here, with or without preamble and meta header.

    Raises DecodeError: NOT_AN_IMAGE, CORRUPT for a file that ends early, STRUCTURED_REPORT, DICOMDIR, and NO_PIXELS
    for all other objects without pixel data.
    """
    source = _Source(b"\0" * 128 + data if data[:4] == b"DICM" else data, limits or LimitsConfig())
    tags: list[Any] = [*HEADER_KEYWORDS, *hints.HINT_KEYWORDS, *PIXEL_KEYWORDS, *PALETTE_KEYWORDS, *PIXEL_DATA_KEYWORDS]
    if is_dicom(data):
        with codec_border("Reading the DICOM header"):
            dataset = pydicom.dcmread(source, force=True, specific_tags=tags)
            if any(keyword in dataset and dataset[keyword].value for keyword in PIXEL_DATA_KEYWORDS):
                return dataset
        if source.cut_short:
            raise DecodeError(Fault.CORRUPT, "The DICOM file ends before its pixel data; transfer it again.")
        if len(dataset) > 0 or len(dataset.file_meta) > 0:
            raise _without_pixels(dataset)
    raise DecodeError(Fault.NOT_AN_IMAGE, "These bytes are not a DICOM object; list files of a supported format only.")


def _without_pixels(dataset: pydicom.Dataset) -> DecodeError:
    """What an object without pixel data is, if no image."""
    if hints.is_directory(dataset):
        return DecodeError(Fault.DICOMDIR, "This is a DICOMDIR, the directory of a medium; list the files it names.")
    kind = name_of_uid(hints.sop_class_of(dataset))
    if hints.is_report(dataset):
        detail = f"(0008,0016) SOPClassUID says report or document ({kind}), no image; leave such objects out."
        return DecodeError(Fault.STRUCTURED_REPORT, detail)
    detail = f"(7FE0,0010) PixelData is absent or empty in this object ({kind}); leave such objects out."
    return DecodeError(Fault.NO_PIXELS, detail)


def decode_dicom(image: DicomImage, preprocess: PreprocessConfig) -> tuple[NDArray[np.float32], str, int]:
    """Pixels (H, W), 0 black to 1 white, `voi_source`, and how often H and W were halved on the way.

    `voi_source` is `lut`, `window`, `percentiles` (neither in the header, or they miss the data), or `full_range` for
    colour encodings of a grey film, to which no VOI applies. Raises DecodeError: MULTIPLE_FRAMES,
    UNSUPPORTED_ENCODING, CORRUPT, COLOUR, BLANK.
    """
    num_frames = optional_numbers_of(image.dataset, "NumberOfFrames")
    if num_frames and num_frames[0] > 1:
        detail = f"(0028,0008) NumberOfFrames is {num_frames[0]:.0f}; export the radiograph as a single-frame object."
        raise DecodeError(Fault.MULTIPLE_FRAMES, detail)
    decoded = decode_samples(image, preprocess)
    samples = decoded.values
    if image.header.photometric_interpretation == "PALETTE COLOR":
        check_palette(image.dataset)
        with codec_border("Applying the palette"):
            samples = apply_color_lut(samples, image.dataset)
        if samples.shape[2:] != (3,):
            raise DecodeError(Fault.CORRUPT, "The palette has not three colours; export the file again.")
        return grey.grey_from_rgb(samples, full_scale=float(np.iinfo(samples.dtype).max)), "full_range", 0
    if samples.ndim == 3:
        return grey.grey_from_rgb(samples, full_scale=2.0**decoded.colour_bits - 1.0), "full_range", 0
    step = 2**decoded.reduction
    pixels, voi_source = grey.render(
        samples,
        grey_steps(image, samples),
        percentiles=preprocess.percentiles,
        hidden=closed(image, samples.shape, device="Shutter", step=step),
        uncounted=closed(image, samples.shape, device="Collimator", step=step),
    )
    return pixels, voi_source, decoded.reduction


def check_palette(dataset: pydicom.Dataset) -> None:
    """Refuse segmented palettes: a few bytes of theirs may stand for any number of entries. Source: PS3.3 C.7.9.2."""
    if any(keyword.startswith("Segmented") and keyword in dataset for keyword in PALETTE_KEYWORDS):
        detail = "(0028,1221) SegmentedRedPaletteColorLookupTableData is not read; export the radiograph in grey."
        raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail)


def _transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """The stated transfer syntax, else, without a meta header, the one the bytes betray."""
    stated = uid_of(dataset.file_meta, "TransferSyntaxUID")
    if stated:
        return UID(stated)
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        return _encapsulated_syntax(dataset)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if is_little_endian else uid.ExplicitVRBigEndian


def _encapsulated_syntax(dataset: pydicom.Dataset) -> UID:
    """The syntax whose codestream begins like the first frame; RLE has no marker. Source: PS3.5 8.2, A.4."""
    frame = first_frame(dataset)
    if jpeg_2000_stream(frame):
        return uid.JPEG2000
    stream = jpeg_stream(frame)
    return _SYNTAX_OF_MARKER.get(stream.marker, uid.JPEGBaseline8Bit) if stream else uid.RLELossless


def _header(dataset: pydicom.Dataset, transfer_syntax: UID, *, secret: bytes | None) -> Header:
    """The identifying attributes, reduced to UIDs, numbers and codes of fixed vocabularies."""
    return Header(
        format="dicom",
        sop_instance_uid=uid_of(dataset, "SOPInstanceUID"),
        series_instance_uid=uid_of(dataset, "SeriesInstanceUID"),
        study_instance_uid=uid_of(dataset, "StudyInstanceUID"),
        patient_key=patient_key(text_of(dataset, "PatientID"), secret),
        modality=hints.modality_of(dataset),
        manufacturer=hints.manufacturer_of(dataset),
        body_part=hints.body_part_of(dataset),
        view=hints.view_of(dataset),
        kinds=hints.kinds_of(dataset),
        photometric_interpretation=hints.photometric_interpretation_of(dataset),
        transfer_syntax_uid=str(transfer_syntax),
        rows=int(number_of(dataset, "Rows")),
        columns=int(number_of(dataset, "Columns")),
        pixel_spacing_mm=spacing_of(dataset, "PixelSpacing") or spacing_of(dataset, "ImagerPixelSpacing"),
    )
