"""JPEG 2000 at 1/2, 1/4 or 1/8 of its size: the wavelet transform holds the smaller films already.

The low-pass band of r decompositions is the film on every 2^r-th pixel, so that a film that will be a small square
anyway need not be decoded in full: 16 ms instead of 200 for 2500 x 3000 lossy pixels at r = 2. Pillow is the only
decoder installed by default that offers it. Knows nothing of what the samples mean.

Source: ITU-T T.800 B.5 (resolution levels), F.3.
"""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin
from pydicom import uid

from cxr_ray.config import PreprocessConfig
from cxr_ray.errors import DecodeError
from cxr_ray.images.dicom.attributes import DicomImage, first_frame, optional_numbers_of
from cxr_ray.images.dicom.codestream import jpeg_2000_layout
from cxr_ray.images.header import codec_border

LEAST_OVERSAMPLING = 1.4
"""Side of a reduced film over S, at least: what is left for the antialiasing filter of the resize to do."""
_MOST = 3
_LOSSY = (uid.JPEG2000, uid.HTJ2K)
_LOSSLESS = (uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)


def reduction_of(image: DicomImage, preprocess: PreprocessConfig) -> int:
    """How often the film may be halved while it is decoded: 0, not at all, to 3.

    Only grey films of one sample per pixel whose codestream agrees with the header about the sign, and only without
    padding: at its edge a pixel of the smaller film is neither one nor the other.
    """
    syntaxes = {"never": (), "lossy": _LOSSY, "always": (*_LOSSY, *_LOSSLESS)}[preprocess.reduced_decode]
    if image.transfer_syntax not in syntaxes or "PixelPaddingValue" in image.dataset:
        return 0
    if image.header.photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return 0
    layout = jpeg_2000_layout(first_frame(image.dataset))
    signed = optional_numbers_of(image.dataset, "PixelRepresentation") == (1,)
    if layout is None or layout.samples != 1 or layout.precision > 16 or layout.signed != signed:
        return 0
    sides = (image.header.rows or 0, image.header.columns or 0)
    side = min(sides) if preprocess.fit == "stretch" else max(sides)  # the one that is enlarged first
    most = min(_MOST, layout.num_levels)
    return max((r for r in range(most + 1) if side / 2**r >= LEAST_OVERSAMPLING * preprocess.size), default=0)


def decode_reduced(frame: bytes, reduction: int) -> NDArray[Any] | None:
    """The samples on every 2^reduction-th row and column, beginning with the first: (ceil(H / 2^r), ceil(W / 2^r)).

    None where the codestream cannot be read at that size: a part of it may have fewer levels than its header says,
    or it is damaged, which decoding in full will tell.
    """
    layout = jpeg_2000_layout(frame)
    if layout is None:
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
    # Pillow moves samples to the upper end of 8 or 16 bits, and signed ones above zero.
    values: NDArray[Any] = words >> (8 * words.dtype.itemsize - layout.precision)
    if not layout.signed:
        return values
    signed: NDArray[Any] = (values.astype(np.int32) - 2 ** (layout.precision - 1)).astype(f"i{words.dtype.itemsize}")
    return signed
