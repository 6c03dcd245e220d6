"""Any image bytes to a Radiograph: DICOM through dicom/reading.py, PNG, JPEG and TIFF here.

The format is told by the first bytes, never by a name. Reading the header and decoding are two steps, so that what
is too large or no chest film costs no decoding. Knows nothing of storage, archives and models.
"""

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images import grey
from cxr_ray.images.dicom.attributes import DicomImage
from cxr_ray.images.dicom.reading import decode_dicom, is_dicom, read_dicom
from cxr_ray.images.header import Header, codec_border
from cxr_ray.images.transfer import Span

RasterFormat = Literal["png", "jpeg", "tiff"]

_MAGIC: tuple[tuple[bytes, RasterFormat], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
_OPENERS: dict[RasterFormat, Any] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
_MIN_IS_WHITE = 0  # TIFF PhotometricInterpretation WhiteIsZero


@dataclass(frozen=True, slots=True)
class Radiograph:
    """Pixels (H, W) float32, 0 black to 1 white in MONOCHROME2 order, and where they came from.

    `voi_source` is `lut`, `window`, `percentiles` or `full_range`: what set black and white. With a `reduction` r
    above 0 the pixels are the film's on every 2^r-th row and column, beginning with the first.
    """

    pixels: NDArray[np.float32]
    header: Header
    voi_source: str
    reduction: int = 0


@dataclass(frozen=True, slots=True)
class RasterImage:
    """A PNG, JPEG or TIFF file."""

    format: RasterFormat
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Image bytes whose header has been read and whose pixels have not."""

    header: Header
    source: DicomImage | RasterImage = field(repr=False)


def read_header(data: bytes, *, limits: LimitsConfig, patient_key_secret: bytes | None = None) -> Encoded:
    """Tell the format, read the header and check the size, without decoding.

    `patient_key_secret` is the HMAC key of `Header.patient_key`, which stays None without one.
    Raises DecodeError: EMPTY_FILE, TOO_LARGE, NOT_AN_IMAGE, NO_PIXELS, STRUCTURED_REPORT, DICOMDIR, CORRUPT,
    UNSUPPORTED_ENCODING.
    """
    if not data:
        raise DecodeError(Fault.EMPTY_FILE, "The file has no bytes; transfer it again.")
    if len(data) > limits.object_bytes:
        detail = f"The file has {len(data)} bytes, more than limits.object_bytes = {limits.object_bytes}; raise it."
        raise DecodeError(Fault.TOO_LARGE, detail)
    encoded = _read(data, limits, patient_key_secret)
    check_pixels(encoded.header, limits)
    return encoded


def decode(encoded: Encoded, *, preprocess: PreprocessConfig) -> Radiograph:
    """Decode the pixels.

    Raises DecodeError: CORRUPT, UNSUPPORTED_ENCODING, MULTIPLE_FRAMES, COLOUR, BLANK.
    """
    if isinstance(encoded.source, DicomImage):
        pixels, voi_source, reduction = decode_dicom(encoded.source, preprocess)
    else:
        reduction = 0
        pixels, voi_source = _decode_raster(encoded.source, percentiles=preprocess.percentiles)
    if (pixels[::61, ::61] == pixels[0, 0]).all() and pixels.min() == pixels.max():
        raise DecodeError(Fault.BLANK, "All pixels have the same value; there is nothing to see.")
    return Radiograph(pixels=pixels, header=encoded.header, voi_source=voi_source, reduction=reduction)


def _read(data: bytes, limits: LimitsConfig, secret: bytes | None) -> Encoded:
    """The header of `data` in whichever format it is. DICOM first: its preamble may imitate a TIFF (PS3.10 7.1)."""
    if is_dicom(data):
        image = read_dicom(data, limits=limits, patient_key_secret=secret)
        return Encoded(header=image.header, source=image)
    image_format = raster_format(data)
    if image_format is None:
        raise DecodeError(Fault.NOT_AN_IMAGE, "The bytes begin like none of DICOM, PNG, JPEG and TIFF; leave it out.")
    width, height = upright_size(open_raster(BytesIO(data), image_format))
    return Encoded(
        header=Header(format=image_format, rows=height, columns=width), source=RasterImage(image_format, data)
    )


def check_pixels(header: Header, limits: LimitsConfig) -> None:
    """Refuse images without pixels and with more than the limit."""
    rows, columns = header.rows or 0, header.columns or 0
    if rows * columns == 0:
        raise DecodeError(Fault.CORRUPT, f"Rows x columns is {rows} x {columns}; export the image again.")
    if rows * columns > limits.pixels:
        detail = f"The image has {rows} x {columns} pixels, more than limits.pixels = {limits.pixels}; raise it."
        raise DecodeError(Fault.TOO_LARGE, detail)


def raster_format(data: bytes) -> RasterFormat | None:
    """The format whose magic number the bytes begin with."""
    return next((image_format for magic, image_format in _MAGIC if data.startswith(magic)), None)


def open_raster(file: BinaryIO, image_format: RasterFormat) -> Any:
    """The Pillow image of a seekable file, its pixels not yet read.

    The format's own class is called and not Image.open, which warns of "decompression bombs" by a global limit
    below ours; the size is checked against `limits.pixels` instead.
    Raises DecodeError: CORRUPT, UNSUPPORTED_ENCODING for a layout that Pillow does not know, TOO_LARGE.
    """
    with codec_border(f"Reading the {image_format.upper()} header"):
        try:
            return _OPENERS[image_format](file)
        except SyntaxError as error:
            if "unknown pixel mode" in str(error):
                raise NotImplementedError from error
            raise


def _orientation(image: Any) -> int:
    """EXIF orientation 1..8; 1, upright, for TIFF, which Pillow turns by itself, and for what makes no sense.

    Read from what precedes the pixels: Pillow's own `getexif` would decode a PNG to look behind them.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    exif = Image.Exif()
    try:
        with codec_border("Reading the EXIF orientation"):
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(ExifTags.Base.Orientation, 1)
    except DecodeError:
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height after the orientation has been applied."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Samples (H, W, ...) turned so that they are seen as meant. Source: EXIF 2.32, 4.6.4 A, Orientation."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples


def _decode_raster(raster: RasterImage, *, percentiles: tuple[float, float]) -> tuple[NDArray[np.float32], str]:
    """Pixels (H, W) 0..1 of a PNG, JPEG or TIFF, and what set black and white."""
    image = open_raster(BytesIO(raster.data), raster.format)
    orientation = _orientation(image)
    with codec_border(f"Decoding the {raster.format.upper()} image"):
        num_frames = getattr(image, "n_frames", 1)
        if num_frames == 1:
            samples = _samples(image)
    if num_frames > 1:
        detail = f"The file has {num_frames} frames or pages; export the radiograph as a single image."
        raise DecodeError(Fault.MULTIPLE_FRAMES, detail)
    samples = np.ascontiguousarray(_upright(samples, orientation))
    if samples.ndim == 3:
        return grey.grey_from_rgb(samples, full_scale=255.0), "full_range"
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / np.float32(255.0), "full_range"
    return grey.render(samples, _raster_steps(image, samples), percentiles=percentiles)


def _samples(image: Any) -> NDArray[Any]:
    """Samples of a loaded Pillow image: (H, W) for grey, (H, W, 3) uint8 for colour; see-through parts on black."""
    image.load()
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "L" or image.mode[0] in "IF":
        return np.asarray(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        colour = image.convert("RGBA")
        black = Image.new("RGBA", colour.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, colour).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _raster_steps(image: Any, samples: NDArray[Any]) -> grey.GreySteps:
    """What black and white are in samples of 16 and 32 bits.

    Black and white are the ends of the type's range, or 0 and 1 for floats, unless the values leave the upper half
    of that range empty (12-bit data in 16-bit samples, say) or leave the range: then robust percentiles. Pillow
    inverts WhiteIsZero only up to 8 bits.
    """
    white = 1.0 if samples.dtype.kind == "f" else 65535.0
    finite = samples[np.isfinite(samples)]
    fills = finite.size > 0 and finite.min() >= 0 and white / 2.0 < finite.max() <= white
    tags = getattr(image, "tag_v2", {})
    return grey.GreySteps(
        bits_stored=8 * samples.dtype.itemsize,
        high_bit=8 * samples.dtype.itemsize - 1,
        signed=samples.dtype.kind == "i",
        voi=(("full_range", Span(0.0, white)),) if fills else (),
        inverted=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == _MIN_IS_WHITE,
    )
