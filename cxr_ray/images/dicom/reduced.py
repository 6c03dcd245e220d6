"""JPEG 2000 at 1/2, 1/4 or 1/8 of its size: the wavelet transform holds the smaller films already.

The low-pass band of r decompositions is the film on every 2^r-th pixel, so that a film that will be a small square
anyway need not be decoded in full: 16 ms instead of 200 for 2500 x 3000 lossy pixels at r = 2. Pillow is the only
decoder installed by default that offers it. Knows nothing of what the samples mean.

Source: ITU-T T.800 B.5 (resolution levels), F.3.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin
from pydicom import uid

from cxr_ray.config import PreprocessConfig
from cxr_ray.errors import DecodeError
from cxr_ray.images.dicom.attributes import DicomImage, optional_numbers_of
from cxr_ray.images.dicom.codestream import Layout, jpeg_2000_layout
from cxr_ray.images.header import Header, codec_border

LEAST_OVERSAMPLING = 1.4
"""Side of a reduced film over S, at least: what is left for the antialiasing filter of the resize to do."""
_MOST = 3
_LOSSY = (uid.JPEG2000, uid.HTJ2K)
_LOSSLESS = (uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)


@dataclass(frozen=True, slots=True)
class Reduced:
    """The samples on every 2^reduction-th row and column, the first included: (ceil(H / 2^r), ceil(W / 2^r))."""

    values: NDArray[Any]
    reduction: int


def decode_reduced(image: DicomImage, frame: bytes, preprocess: PreprocessConfig) -> Reduced | None:
    """The film halved once to three times while its only `frame` is decoded; None where it is to be decoded in full.

    In full is also what cannot be read at that size: a part of the codestream may have fewer levels than its header
    says, or it is damaged, which decoding in full will tell.
    """
    layout = _layout(image, frame, preprocess)
    reduction = _reduction(image.header, layout, preprocess) if layout else 0
    if layout is None or reduction == 0:
        return None
    try:
        with codec_border("Decoding the pixel data"):
            picture = Jpeg2KImagePlugin.Jpeg2KImageFile(BytesIO(frame))
            picture.reduce = reduction
            # Pillow rounds the size to the nearest where the standard rounds up, and then refuses the smaller film.
            picture._size = tuple(-(-side // 2**reduction) * 2**reduction for side in picture.size)
            picture.load()
            words: NDArray[Any] = np.asarray(picture)
    except DecodeError:
        return None
    return Reduced(_stored(words, layout), reduction)


def _layout(image: DicomImage, frame: bytes, preprocess: PreprocessConfig) -> Layout | None:
    """How the frame is laid out, if the film may be decoded at less than its size at all.

    Only grey films of one sample per pixel whose codestream agrees with the header about the sign, and only without
    padding: at its edge a pixel of the smaller film is neither one nor the other.
    """
    syntaxes = {"never": (), "lossy": _LOSSY, "always": (*_LOSSY, *_LOSSLESS)}[preprocess.reduced_decode]
    if image.transfer_syntax not in syntaxes or "PixelPaddingValue" in image.dataset:
        return None
    if image.header.photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return None
    layout = jpeg_2000_layout(frame)
    signed = optional_numbers_of(image.dataset, "PixelRepresentation") == (1,)
    if layout is None or layout.samples != 1 or layout.precision > 16 or layout.signed != signed:
        return None
    return layout


def _reduction(header: Header, layout: Layout, preprocess: PreprocessConfig) -> int:
    """How often the film may be halved: 0, not at all, to 3."""
    sides = (header.rows or 0, header.columns or 0)
    side = min(sides) if preprocess.fit == "stretch" else max(sides)  # the one that is enlarged first
    most = min(_MOST, layout.num_levels)
    return max((r for r in range(most + 1) if side / 2**r >= LEAST_OVERSAMPLING * preprocess.size), default=0)


def _stored(words: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """The samples of Pillow's words: it moves them to the upper end of 8 or 16 bits, and signed ones above zero."""
    values: NDArray[Any] = words >> (8 * words.dtype.itemsize - layout.precision)
    if not layout.signed:
        return values
    signed: NDArray[Any] = (values.astype(np.int32) - 2 ** (layout.precision - 1)).astype(f"i{words.dtype.itemsize}")
    return signed
