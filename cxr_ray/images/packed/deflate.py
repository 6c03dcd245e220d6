"""Inflating data piece by piece, so that a small file cannot take all memory. Knows no format and no files."""

import zlib
from collections.abc import Iterable, Iterator

from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault

RAW, GZIP = -zlib.MAX_WBITS, 16 + zlib.MAX_WBITS
_PIECE = 256 * 2**10  # most bytes inflated at a time
_FED = 64 * 2**10  # most stored bytes handed to zlib at a time


def inflated(chunks: Iterable[bytes], *, wbits: int) -> Iterator[tuple[bytes, int]]:
    """The inflated data in pieces of bounded size, each with the stored bytes it took from the beginning to here.

    Gzip members that follow each other are one stream, as gzip itself reads them; zeros behind the last are padding.
    Raises zlib.error for damaged data, and EOFError where the stream ends early.
    """
    engine, stored = zlib.decompressobj(wbits), 0
    for rest in _cut(chunks):
        piece = b""
        while rest or len(piece) == _PIECE:
            if engine.eof:
                rest, stored = _skip_padding(rest, stored) if wbits == GZIP else (b"", stored)
                if not rest:
                    break
                engine = zlib.decompressobj(wbits)
            piece = engine.decompress(rest, _PIECE)
            left = engine.unused_data if engine.eof else engine.unconsumed_tail
            stored += len(rest) - len(left)
            rest = left
            yield piece, stored
    if not engine.eof:
        raise EOFError("the deflated stream ends early")


def _cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same data in small chunks: zlib copies what is left of a chunk with each piece it gives."""
    for chunk in chunks:
        for start in range(0, len(chunk), _FED):
            yield chunk[start : start + _FED]


def _skip_padding(rest: bytes, stored: int) -> tuple[bytes, int]:
    """What follows the zeros between or behind gzip members, and the stored bytes up to there."""
    follows = rest.lstrip(b"\0")
    return follows, stored + len(rest) - len(follows)


def within_limits(data: bytes, limits: LimitsConfig) -> bytes:
    """Raw deflated data as what it inflates to in stored blocks, which whoever inflates it next only copies.

    Inflating twice, once to look and once to read, would cost 75 ms for a film of 15 MB; this costs 10. Damaged data
    comes back as it is: whoever inflates it next says so. Raises DecodeError: TOO_LARGE.
    """
    most = min(limits.object_bytes, int(limits.expansion_ratio * len(data)))
    engine = zlib.compressobj(level=0, wbits=RAW)
    blocks, total = [], 0
    try:
        for piece, _ in inflated([data], wbits=RAW):
            total += len(piece)
            if total > most:
                raise DecodeError(Fault.TOO_LARGE, _too_large(total, len(data), limits))
            blocks.append(engine.compress(piece))
    except (zlib.error, EOFError):
        return data
    return b"".join((*blocks, engine.flush()))


def _too_large(size: int, stored: int, limits: LimitsConfig) -> str:
    """One sentence about data of at least `size` bytes deflated to `stored`."""
    if size > limits.object_bytes:
        return f"{stored} deflated bytes hold more than limits.object_bytes = {limits.object_bytes} bytes; raise it."
    return (
        f"{stored} deflated bytes hold over limits.expansion_ratio = {limits.expansion_ratio:g} times as many; raise it"
        " if the file is genuine."
    )
