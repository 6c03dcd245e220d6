"""The members of a .tar and a .tar.gz: from header to header, the data fetched only of what is wanted.

The standard library reads one header; the way from one to the next is our own, because tarfile takes a long name or
an extended header of any size into memory. Knows nothing of what the members are.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
"""

import io
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, StorageError
from cxr_ray.images.packed.deflate import GZIP, inflated
from cxr_ray.images.packed.members import Member, bad_archive, check_size, join

ReadAt = Callable[[int, int], bytes]
"""The bytes at an offset of a given length, fewer where the archive ends."""

_BLOCK = 512
_BUFFER = 256 * 2**10  # read around a header: small members cost no request of their own
_CHUNK = 4 * 2**20  # bytes of a .tar.gz that one request fetches
_LEEWAY = 64 * 2**10  # stored bytes a stream is credited with: the black border of a film deflates 1,000-fold
_LONGEST = 2**20  # bytes of a long name or an extended header
_MOST_SHARED = 256  # names that global headers set
_MOST_IN_A_ROW = 16  # long names and extended headers before one member
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_LOCAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_DESCRIBING = (*_LOCAL, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_DAMAGED = "is damaged or no tar file; transfer it again."
_CUT_SHORT = "ends early, without the mark of its end; transfer it again."
_SPARSE = "is a sparse file; repack the archive without --sparse."


def scan(uri: str, read_at: ReadAt) -> Iterator[Member | None]:
    """Every entry in order, None for folders, links and devices.

    Raises DecodeError: BAD_ARCHIVE for a damaged archive and for one that ends early.
    """
    position, described = 0, 0
    shared: dict[str, str] = {}  # of global extended headers, for all that follow
    records: dict[str, str] = {}
    while any(block := read_at(position, _BLOCK)) or len(block) < _BLOCK:
        header = _header(uri, block)
        position += _BLOCK
        if header.type in _DESCRIBING:
            described += 1
            if not 0 <= header.size <= _LONGEST or described > _MOST_IN_A_ROW or len(shared) > _MOST_SHARED:
                raise bad_archive(uri, _DAMAGED)
            found = _records(uri, header, read_at(position, header.size))
            (shared if header.type == tarfile.XGLTYPE else records).update(found)
            position += _padded(header.size)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            position = _behind_sparse_map(uri, block, position, read_at)
        member = _member(uri, header, shared | records, position)
        yield member if header.type in _REGULAR else None
        if header.type in _REGULAR or header.type not in tarfile.SUPPORTED_TYPES:
            position += _padded(member.size)
        records, described = {}, 0


def _header(uri: str, block: bytes) -> tarfile.TarInfo:
    r"""One header block; a name that is no UTF-8 keeps its odd bytes as \xNN."""
    if len(block) < _BLOCK:
        raise bad_archive(uri, _CUT_SHORT)
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise bad_archive(uri, _DAMAGED) from error


def _records(uri: str, header: tarfile.TarInfo, body: bytes) -> dict[str, str]:
    """What a long name or an extended header says of the next entry."""
    if len(body) < header.size:
        raise bad_archive(uri, _CUT_SHORT)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(body.partition(b"\0")[0])}
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    try:
        return dict(_pax_records(body))
    except ValueError as error:
        raise bad_archive(uri, _DAMAGED) from error


def _pax_records(body: bytes) -> Iterator[tuple[str, str]]:
    """Keyword and value of each record `LENGTH KEYWORD=VALUE` and line feed. Raises ValueError."""
    position = 0
    while position < len(body) and body[position]:
        blank = body.index(b" ", position, position + 20)
        end = position + int(body[position:blank])
        if not blank < end <= len(body):
            raise ValueError("the length of a record is wrong")
        keyword, _, value = body[blank + 1 : end - 1].partition(b"=")
        yield _text(keyword), _text(value)
        position = end


def _text(raw: bytes) -> str:
    r"""UTF-8, with bytes that are none as \xNN."""
    return raw.decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    """The bytes that data of `size` bytes take in the archive."""
    return -(-size // _BLOCK) * _BLOCK


def _behind_sparse_map(uri: str, block: bytes, position: int, read_at: ReadAt) -> int:
    """Where the data of an old GNU sparse file begins: its map may go on in blocks of its own."""
    extended = block[482]
    while extended:
        block = read_at(position, _BLOCK)
        if len(block) < _BLOCK:
            raise bad_archive(uri, _CUT_SHORT)
        extended, position = block[504], position + _BLOCK
    return position


def _member(uri: str, header: tarfile.TarInfo, records: dict[str, str], position: int) -> Member:
    """The entry of a header and the records before it, its data at `position`."""
    try:
        size = int(records.get("size") or header.size)
    except ValueError as error:
        raise bad_archive(uri, _DAMAGED) from error
    if size < 0:
        raise bad_archive(uri, _DAMAGED)
    is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in records)
    name = records.get("GNU.sparse.name") or records.get("path") or header.name
    return Member(name=name, size=size, place=position, problem=_SPARSE if is_sparse else "")


def read(archive: str, member: Member, *, read_at: ReadAt, limits: LimitsConfig) -> bytes:
    """The bytes of one member, fetched with its header, which must still be one.

    Raises DecodeError: TOO_LARGE, before anything is fetched; BAD_ARCHIVE. Raises StorageError.
    """
    uri = join(archive, member.name)
    check_size(uri, member.size, limits)
    found = read_at(member.place - _BLOCK, _BLOCK + member.size)
    _header(uri, found[:_BLOCK])
    if len(found) < _BLOCK + member.size:
        raise bad_archive(uri, _CUT_SHORT)
    return found[_BLOCK:]


def hopping(uri: str, size: int, *, version: str) -> ReadAt:
    """Reads headers here and there of an uncompressed archive of `size` bytes. Raises StorageError."""
    file = io.BufferedReader(storage.RangedFile(uri, size, version=version), _BUFFER)

    def read_at(offset: int, length: int) -> bytes:
        if offset >= size:  # an absurd size in a header leads beyond what a file position can be
            return b""
        file.seek(offset)
        return file.read(length)

    return read_at


class GzipReader:
    """Reads a .tar.gz by offsets of the inflated archive, forwards: going back starts again from the first byte.

    Holds one piece of the stream at a time, whatever is skipped.
    """

    def __init__(self, uri: str, size: int, *, limits: LimitsConfig, version: str) -> None:
        """Nothing is read yet."""
        self.uri, self.size, self.limits, self.version = uri, size, limits, version
        self._lock = threading.Lock()
        self._restart()

    def read_at(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset`. Raises DecodeError (BAD_ARCHIVE), StorageError."""
        with self._lock:
            if offset < self._position:
                self._restart()
            for _ in self._parts(offset - self._position):
                pass
            return b"".join(self._parts(length))

    def check_to_the_end(self) -> None:
        """Read what follows, for gzip's own checksum stands last. Raises DecodeError (BAD_ARCHIVE), StorageError."""
        with self._lock:
            for _ in self._pieces:
                pass
            self._restart()

    def _restart(self) -> None:
        """Go back to the first byte."""
        self._pieces, self._rest, self._position = self._inflate(), memoryview(b""), 0

    def _parts(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes in parts."""
        while length > 0:
            if not self._rest:
                self._rest = self._next_piece()
                if not self._rest:
                    return
            part = self._rest[:length]
            self._rest = self._rest[len(part) :]
            self._position += len(part)
            length -= len(part)
            yield part

    def _next_piece(self) -> memoryview:
        """The next piece, empty at the end; after an error the next read starts anew."""
        try:
            return memoryview(next(self._pieces, b""))
        except (DecodeError, StorageError):
            self._restart()
            raise

    def _inflate(self) -> Iterator[bytes]:
        """The inflated archive from its first byte, as long as it does not grow out of proportion."""
        starts = range(0, self.size, _CHUNK)
        chunks = (storage.get_range(self.uri, start, _CHUNK, version=self.version) for start in starts)
        total = 0
        try:
            for piece, stored in inflated(chunks, wbits=GZIP):
                total += len(piece)
                if total > self.limits.expansion_ratio * max(stored, _LEEWAY):
                    limit = f"limits.expansion_ratio = {self.limits.expansion_ratio:g}"
                    raise bad_archive(self.uri, f"inflates by more than {limit}; raise it if the file is genuine.")
                if piece:
                    yield piece
        except (zlib.error, EOFError) as error:
            raise bad_archive(self.uri, "is damaged or ends early; transfer it again.") from error
