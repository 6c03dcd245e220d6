"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, and whether a codec may be let at it.

Reads the few bytes of a frame header, decodes nothing and believes nothing: the codecs behind it take memory by these
numbers and end the process on some of them. Knows nothing of pydicom, transfer syntaxes, the attributes of a file, or
of what decodes the stream.
"""

import struct
from dataclasses import dataclass, replace
from typing import Literal

from cxr_ray.errors import DecodeError, Fault

Process = Literal["jpeg_baseline", "jpeg_extended", "jpeg_lossless", "jpeg_ls", "jpeg_2000"]

_FRAME_MARKERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_SEGMENT_MARKERS = _FRAME_MARKERS | {0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE, 0xFF}
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class Stream:
    """The frame header of a codestream; `marker` is the JPEG marker that tells the process.

    `regular` says that a JPEG header runs without a gap to its scan and holds no version that libjpeg warns of.
    """

    marker: int
    precision: int
    rows: int
    columns: int
    samples: int
    regular: bool = True


def checked_stream(
    frame: bytes, *, process: Process, rows: int | None, columns: int | None, samples: float, bits_allocated: float
) -> Stream:
    """The frame header of a codestream that agrees with the numbers of the file's own header.

    Checked before decoding, because a codec takes memory by the codestream and not by the header, and because GDCM
    3.2 ends the process on sample sizes that contradict each other and on any libjpeg warning about the header.
    Raises DecodeError: CORRUPT where the two disagree or the codestream is not intact, UNSUPPORTED_ENCODING.
    """
    stream = jpeg_2000_stream(frame) if process == "jpeg_2000" else jpeg_stream(frame)
    if stream is None or (not stream.regular and process in ("jpeg_extended", "jpeg_lossless")):
        raise DecodeError(Fault.CORRUPT, "The encoded frame has no intact header of its own; transfer the file again.")
    if (stream.rows, stream.columns, stream.samples) != (rows, columns, samples):
        detail = f"The header says {rows} x {columns} pixels of {samples:.0f} samples, the encoded frame "
        detail += f"{stream.rows} x {stream.columns} of {stream.samples}; export the file again."
        raise DecodeError(Fault.CORRUPT, detail)
    if process == "jpeg_ls" and b"\xff\xd9" not in frame[-16:]:
        # CharLS may take seconds to find out that such a frame ends early.
        raise DecodeError(Fault.CORRUPT, "The JPEG-LS frame has no end; transfer the file again.")
    if stream.precision > bits_allocated:
        detail = f"(0028,0100) BitsAllocated is {bits_allocated:.0f}, the encoded frame has {stream.precision} bits; "
        raise DecodeError(Fault.CORRUPT, detail + "export the file again.")
    if process == "jpeg_extended" and stream.precision not in (8, 12):
        detail = f"JPEG Extended has samples of 8 or 12 bits (T.81 B.2.2), not {stream.precision}; convert the file."
        raise DecodeError(Fault.UNSUPPORTED_ENCODING, detail)
    return stream


def jpeg_stream(frame: bytes) -> Stream | None:
    """The frame header of a JPEG or JPEG-LS codestream. Source: ITU-T T.81 B.1.1 and B.2, T.87 C.2.2."""
    stream, regular, position = None, True, 2
    while frame[:2] == b"\xff\xd8" and position + 4 <= len(frame) and frame[position] == 0xFF:
        marker, length = frame[position + 1], int.from_bytes(frame[position + 2 : position + 4])
        body = frame[position + 4 : position + 2 + length]
        if marker == _START_OF_SCAN and stream:
            return replace(stream, regular=regular)
        if marker in _FRAME_MARKERS and len(body) >= 6:
            stream = Stream(marker, *struct.unpack_from(">BHHB", body))
        regular &= marker in _SEGMENT_MARKERS
        regular &= not (body.startswith(b"JFIF\0") and body[5:6] != b"\1")
        regular &= not (body.startswith(b"Adobe") and body[11:12] > b"\2")
        position += 1 if marker == 0xFF else 2 + length
    return replace(stream, regular=False) if stream else None


def jpeg_2000_stream(frame: bytes) -> Stream | None:
    """The SIZ segment of a JPEG 2000 codestream, also inside a JP2 file. Source: ITU-T T.800 A.5.1."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return Stream(0x4F, (depth & 0x7F) + 1, bottom - top, right - left, samples)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a JPEG 2000 main header says of its samples and of the resolutions it holds; `num_levels` may be 0."""

    precision: int
    signed: bool
    samples: int
    num_levels: int


def jpeg_2000_layout(frame: bytes) -> Layout | None:
    """SIZ and COD of a JPEG 2000 codestream; None where they are not intact.

    No level is reported where the image does not begin at the origin of its reference grid, whose even pixels would
    then not be the film's. Source: ITU-T T.800 A.5.1, A.6.1, B.2.
    """
    stream, start = jpeg_2000_stream(frame), frame.find(b"\xff\x4f\xff\x51")
    if stream is None:
        return None
    position, num_levels = start + 2, 0
    while position + 4 <= len(frame) and frame[position] == 0xFF and frame[position + 1] not in (0x90, 0xD9):
        if frame[position + 1] == 0x52 and position + 10 <= len(frame):
            num_levels = frame[position + 9]
        position += 2 + max(2, int.from_bytes(frame[position + 2 : position + 4]))
    at_origin = frame[start + 16 : start + 24] == b"\0" * 8
    signed = bool(frame[start + 42] & 0x80)
    return Layout(stream.precision, signed, stream.samples, num_levels if at_origin else 0)
