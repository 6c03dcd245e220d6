"""A DICOM object walked from its beginning up to its pixel data, and no further.

Reads a seekable file, skips what is long, and gives the attributes it met, also as a small DICOM file of their own.
Knows nothing of what the attributes mean.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_partial
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from cxr_ray.images.dicom.attributes import uid_of
from cxr_ray.images.packed.deflate import RAW, inflated

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # FloatPixelData, DoubleFloatPixelData, PixelData
UNDEFINED = 0xFFFFFFFF
_LONG_VALUE = 4096  # bytes; nothing that is wanted of a header is longer
_CHUNK = 65_536  # deflated bytes read at a time
_FRAME_HEAD = 65_536  # bytes of the first frame that tell which codec made it
_INFLATED_HEADS = (2**20, 2**26)  # bytes of a deflated dataset that are inflated at first, and at most
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


class Source:
    """A file for pydicom that remembers whether the parser ran into its end inside an element.

    `bare` stands for a file that begins with the prefix DICM, without the preamble that belongs before it. Not an
    io.BufferedReader, of which pydicom asks a name, and a read never asks for more than there is: an element with a
    wrong length would take that much memory. Of a deflated dataset only the first `most` bytes are inflated;
    `given_up` says that it goes on.
    """

    cut_short = is_deflated = given_up = False

    def __init__(self, file: BinaryIO, size: int, *, bare: bool = False) -> None:
        """Nothing is read yet."""
        self.file, self.lead, self.position = file, bytes(128 if bare else 0), 0
        self.size = size + len(self.lead)
        self.most = _INFLATED_HEADS[0]

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, also beyond the end."""
        self.position = max(0, offset + {0: 0, 1: self.position, 2: self.size}[whence])
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """Read, and notice a read that falls short; only what is deflated is read without a size."""
        if size is None or size < 0:
            return _deflated(self._inflated_head())
        wanted = min(size, max(0, self.size - self.position))
        chunk = self.lead[self.position : self.position + wanted]
        if len(chunk) < wanted:
            self.file.seek(self.position + len(chunk) - len(self.lead))
            chunk += self.file.read(wanted - len(chunk))
        beyond = self.position > self.size
        self.cut_short |= beyond or 0 < len(chunk) < size
        self.position += len(chunk)
        return chunk

    def _inflated_head(self) -> bytes:
        """The first `most` bytes, or somewhat more, of what is deflated from here on. Source: PS3.5 A.5."""
        self.file.seek(self.position - len(self.lead))
        chunks: Iterator[bytes] = iter(lambda: self.file.read(_CHUNK), b"")
        head = bytearray()
        for piece, _ in inflated(chunks, wbits=RAW):
            head += piece
            if len(head) >= self.most:
                break
        self.is_deflated, self.given_up = True, len(head) >= self.most
        return bytes(head)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The element with the pixel data as its header announces it; `available` bytes of its value are in the file."""

    tag: int
    vr: str | None
    length: int
    start: int
    available: int


@dataclass(frozen=True, slots=True)
class Walk:
    """What was met on the way to the pixel data; `pixels` is None where there are none."""

    file_meta: pydicom.Dataset
    dataset: pydicom.Dataset
    is_implicit: bool
    is_little_endian: bool
    source: Source
    pixels: Pixels | None

    @property
    def ends_early(self) -> bool:
        """Whether the file ends inside an element before the pixel data."""
        return self.pixels is None and self.source.cut_short

    @property
    def is_deflated(self) -> bool:
        """Whether the dataset is deflated, so that only its beginning is known."""
        return self.source.is_deflated

    @property
    def given_up(self) -> bool:
        """Whether a deflated dataset may have pixel data further on."""
        return self.pixels is None and self.source.given_up


class _AtPixels:
    """Tells pydicom to stop at pixel data that is not empty, and keeps what was announced there."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.pixels: Pixels | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Whether to stop before this element."""
        start = self.source.tell()
        available = length if self.source.is_deflated else self.source.size - start
        if int(tag) not in _PIXEL_TAGS or length == 0:
            return False
        if available > 0:
            self.pixels = Pixels(int(tag), vr, length, start, min(length, available))
        return True


def walk(source: Source) -> Walk:
    """The attributes up to the pixel data; values that are long are stepped over and left out."""
    for most in _INFLATED_HEADS:
        source.most = most
        source.seek(0)
        stop = _AtPixels(source)
        whole = read_partial(source, stop, defer_size=_LONG_VALUE, force=True)  # type: ignore[arg-type]
        found = Walk(whole.file_meta, whole, *_encoding(whole), source, stop.pixels)
        if not found.given_up:
            break
    return found


def _encoding(dataset: pydicom.FileDataset) -> tuple[bool, bool]:
    """Whether the elements are in implicit VR, and little endian: as pydicom found them, whatever the header says."""
    elements: list[Any] = [dataset.get_item(tag, keep_deferred=True) for tag in sorted(dataset.keys())]
    for element in reversed(elements):
        if isinstance(element, RawDataElement):
            return element.is_implicit_VR, element.is_little_endian
    is_implicit, is_little_endian = dataset.original_encoding
    return bool(is_implicit), bool(is_little_endian)


def stand_in(walked: Walk) -> bytes:
    """A small DICOM file with the attributes of the walk, as they stood, and next to nothing for the pixels."""
    meta = _encoded(walked.file_meta, is_implicit=False, is_little_endian=True)
    body = _encoded(walked.dataset, is_implicit=walked.is_implicit, is_little_endian=walked.is_little_endian)
    body += _pixel_stand_in(walked, walked.pixels) if walked.pixels else b""
    return bytes(128) + b"DICM" + meta + (_deflated(body) if walked.is_deflated else body)


def _encoded(dataset: pydicom.Dataset, *, is_implicit: bool, is_little_endian: bool) -> bytes:
    """The elements of a dataset as bytes; without those that were stepped over, commands and group lengths."""
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = is_implicit, is_little_endian
    for tag in sorted(dataset.keys()):
        element: Any = dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, RawDataElement):
            if element.value is None and element.length:
                continue
            # Without a VR where a writer changed to implicit VR in the middle.
            element = element._replace(value=element.value or b"", VR=element.VR or ("UN" if not is_implicit else None))
        if tag.group and tag.element:
            write_data_element(target, element)
    return target.getvalue()


def _pixel_stand_in(walked: Walk, pixels: Pixels) -> bytes:
    """An element like that of the pixels, with two bytes, or the head of the first frame where that tells the codec."""
    value, length = b"\0\0", 2
    if pixels.length == UNDEFINED:
        stated = uid_of(walked.file_meta, "TransferSyntaxUID")
        frame = value if stated else _frame_head(walked.source, pixels.start) or value
        value = _ITEM + bytes(4) + _ITEM + struct.pack("<I", len(frame)) + frame + _DELIMITER
        length = UNDEFINED
    order = "<" if walked.is_little_endian else ">"
    head = struct.pack(f"{order}HH", pixels.tag >> 16, pixels.tag & 0xFFFF)
    if walked.is_implicit or pixels.vr is None:  # None: the writer changed to implicit VR, or the VR is damaged
        return head + struct.pack(f"{order}I", length) + value
    is_long = pixels.vr in EXPLICIT_VR_LENGTH_32
    return head + pixels.vr.encode() + struct.pack(f"{order}xxI" if is_long else f"{order}H", length) + value


def _frame_head(source: Source, start: int) -> bytes:
    """The beginning of the first frame, behind the offset table; of even length. Source: PS3.5 A.4."""
    source.seek(start)
    offsets = source.read(8)
    source.seek(start + 8 + int.from_bytes(offsets[4:], "little"))
    length = int.from_bytes(source.read(8)[4:], "little")
    frame = source.read(min(length, _FRAME_HEAD))
    return frame[: len(frame) // 2 * 2]


def _deflated(data: bytes) -> bytes:
    """The data as a deflated stream, stored and not compressed.

    Two empty blocks go first: whoever looks for one more element of the meta header, or for a command, reads eight
    bytes of it, and finding less would look like a file that ends early. Their padding bits, 0xF8, make these bytes
    begin like no such element. Source: RFC 1951 3.2.4.
    """
    engine = zlib.compressobj(0, wbits=RAW)
    return b"\xf8\0\0\xff\xff" * 2 + engine.compress(data) + engine.flush()
