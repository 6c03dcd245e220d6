"""Which decoder serves which transfer syntax, and the samples it gives.

What a compressed frame says of itself is checked in codestream.py before a codec sees it. Knows nothing of what the
samples mean: that is presentation.py.
"""

from dataclasses import dataclass
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from cxr_ray.config import PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.dicom.attributes import DicomImage, first_frame, name_of_uid, number_of
from cxr_ray.images.dicom.codestream import Process, checked_stream
from cxr_ray.images.dicom.reduced import decode_reduced
from cxr_ray.images.header import PIXEL_DATA_KEYWORDS, Header, codec_border

UNCOMPRESSED = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
"""Neither pixels nor dataset are compressed, so that the length of a file tells whether it is whole."""
NATIVE = (*UNCOMPRESSED, uid.DeflatedExplicitVRLittleEndian)
"""The pixels are not compressed, though the dataset may be."""
JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_PROCESSES: dict[str, Process] = {
    uid.JPEGBaseline8Bit: "jpeg_baseline",
    uid.JPEGExtended12Bit: "jpeg_extended",
    uid.JPEGLossless: "jpeg_lossless",
    uid.JPEGLosslessSV1: "jpeg_lossless",
    uid.JPEGLSLossless: "jpeg_ls",
    uid.JPEGLSNearLossless: "jpeg_ls",
    uid.JPEG2000Lossless: "jpeg_2000",
    uid.JPEG2000: "jpeg_2000",
    uid.HTJ2KLossless: "jpeg_2000",
    uid.HTJ2KLosslessRPCL: "jpeg_2000",
    uid.HTJ2K: "jpeg_2000",
}
PLUGINS: dict[str, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: ("pillow", "pylibjpeg", "gdcm"),
    uid.JPEGExtended12Bit: ("pillow", "pylibjpeg", "gdcm"),
    uid.JPEGLossless: ("gdcm", "pylibjpeg"),
    uid.JPEGLosslessSV1: ("gdcm", "pylibjpeg"),
    uid.JPEGLSLossless: ("pyjpegls", "pylibjpeg", "gdcm"),
    uid.JPEGLSNearLossless: ("pyjpegls", "pylibjpeg", "gdcm"),
    uid.JPEG2000Lossless: ("pylibjpeg", "gdcm", "pillow"),
    uid.JPEG2000: ("pylibjpeg", "gdcm", "pillow"),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
    uid.RLELossless: ("pylibjpeg", "pydicom"),
}
"""pydicom's decoding plugins, the fastest first (measured; docs of the project, DESIGN section 9)."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What a codec gave: `values` (H, W) or (H, W, 3), the bits of a colour sample, and how often H and W were halved.

    Unused bits of grey samples are not yet cleared.
    """

    values: NDArray[Any]
    colour_bits: int
    reduction: int = 0


def decode_samples(image: DicomImage, preprocess: PreprocessConfig | None = None) -> Samples:
    """The samples of the only frame; of JPEG 2000 no more of them than `preprocess`, if any, has a use for.

    Raises DecodeError: UNSUPPORTED_ENCODING, CORRUPT.
    """
    syntax, dataset, plugin = image.transfer_syntax, image.dataset, _plugin(image.transfer_syntax)
    options: dict[str, Any] = {}
    if syntax in NATIVE:
        present = (keyword for keyword in PIXEL_DATA_KEYWORDS if keyword in dataset)
        checked_length(dataset, image.header, sum(len(dataset[keyword].value) for keyword in present))
        options["view_only"] = True
    elif syntax != uid.RLELossless:
        frame = first_frame(dataset)
        options |= _codestream_options(image, frame)
        if preprocess and (reduced := decode_reduced(image, frame, preprocess)):
            return Samples(reduced.values, colour_bits=0, reduction=reduced.reduction)
        del frame  # pydicom assembles its own
    if image.header.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2"):
        options["correct_unused_bits"] = False
    with codec_border("Decoding the pixel data"):
        if syntax == uid.JPEGExtended12Bit and options["bits_stored"] > 8:
            # pydicom refuses GDCM here, yet GDCM takes the precision from the codestream, whatever the syntax is
            # called (checked on RG2_JPLY and, in the tests, on all 12 bits). Nothing else installed can do it.
            options = {**as_pixel_options(dataset), **options, "pixel_keyword": "PixelData"}
            decoder, source, plugin = get_decoder(uid.JPEGLosslessSV1), dataset.PixelData, "gdcm"
        else:
            decoder, source = get_decoder(syntax), dataset
        values, properties = decoder.as_array(source, index=0, decoding_plugin=plugin, **options)
    return Samples(values, colour_bits=int(properties.get("bits_stored", 0)))


def checked_length(dataset: pydicom.Dataset, header: Header, length: int) -> float:
    """The bytes of native pixel data, of which there are `length`, that the header accounts for.

    Pixels of one bit may end within a byte. pydicom refuses what is too short and shows the beginning of what is too
    long. Raises DecodeError: CORRUPT where more than a row of padding follows.
    """
    samples, bits = (number_of(dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated"))
    row_bytes = (header.columns or 0) * samples * bits / 8.0
    wanted = row_bytes * (header.rows or 0)
    if length > wanted + max(row_bytes, 2.0):
        detail = f"(7FE0,0010) PixelData has {length} bytes, more than Rows, Columns and BitsAllocated account for; "
        raise DecodeError(Fault.CORRUPT, detail + "export the file again.")
    return wanted


def _codestream_options(image: DicomImage, frame: bytes) -> dict[str, Any]:
    """What the JPEG or JPEG 2000 codestream says that the header may have wrong; raises CORRUPT if they disagree."""
    samples, bits_allocated = (number_of(image.dataset, keyword) for keyword in ("SamplesPerPixel", "BitsAllocated"))
    precision = checked_stream(
        frame,
        process=_PROCESSES[image.transfer_syntax],
        rows=image.header.rows,
        columns=image.header.columns,
        samples=samples,
        bits_allocated=bits_allocated,
    ).precision
    if image.transfer_syntax not in JPEG:
        return {"bits_stored": precision}
    return {"bits_allocated": 8 if precision <= 8 else 16, "bits_stored": max(8, precision)}


def _plugin(syntax: UID) -> str:
    """The fastest installed pydicom plugin for `syntax`, empty for native pixel data; raises UNSUPPORTED_ENCODING."""
    if syntax in NATIVE:
        return ""
    wanted = PLUGINS.get(syntax, ())
    available = get_decoder(syntax).available_plugins if wanted else ()
    for plugin in wanted:
        if plugin in available:
            return plugin
    remedy = "install the codecs this package depends on" if wanted else "convert it to a supported transfer syntax"
    detail = f"(0002,0010) TransferSyntaxUID {syntax} ({name_of_uid(syntax)}) has no installed decoder; {remedy}."
    raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail)
