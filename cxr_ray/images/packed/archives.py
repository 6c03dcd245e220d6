"""Object bytes to member bytes: members of .zip, .tar, .tar.gz and .tgz, or the object itself, within the limits.

Nothing is unpacked to disk and no archive is held in memory. A .zip costs its central directory and the wanted
members; a .tar one look at each header, and the wanted members; a .tar.gz has to be inflated from its first byte up
to the wanted member, once for its directory and once for each ascending series of reads. Of two members of the same
name the last is the one. An archive inside an archive is not opened. Knows nothing of images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from cxr_ray import storage
from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault, StorageError
from cxr_ray.images.packed import members, tars, zips
from cxr_ray.images.packed.members import Member, bad_archive, is_archive, split


@dataclass(frozen=True, slots=True)
class Archive:
    """The directory of one archive, by the members' names, and the way to their bytes. Holds nothing open."""

    uri: str
    members: Mapping[str, Member]
    get: Callable[[Member], bytes]

    def read(self, name: str) -> bytes:
        """The bytes of one member; in order of `place` they are read in one pass.

        Raises:
            DecodeError: TOO_LARGE by `limits`, BAD_ARCHIVE for what is damaged, encrypted, sparse or an archive itself.
            StorageError: NOT_FOUND for a name it does not hold, or what the storage says.
        """
        member = self.members.get(name)
        if member is None:
            raise StorageError(Fault.NOT_FOUND, f"{self.uri} holds no member {name!r}; list the input again.")
        if member.problem:
            raise bad_archive(members.join(self.uri, name), member.problem)
        return self.get(member)


def absolute(uri: str) -> str:
    """The uri as it is written to rows: `storage.absolute` of the archive, and the member's clean name, if any."""
    archive, name = split(uri)
    whole = storage.absolute(archive)
    return whole if name is None else members.join(whole, members.clean_name(name) or name)


def open_archive(uri: str, version: str, limits: LimitsConfig) -> Archive:
    """The archive of this `version` ('' for any) with its directory; this process remembers the last few.

    Raises DecodeError: BAD_ARCHIVE for an archive that is damaged, wholly encrypted or beyond `limits`. Raises
    StorageError: CHANGED for another version, or what the storage says.
    """
    opened = _remembered(uri, version, limits)
    if isinstance(opened, str):
        raise DecodeError(Fault.BAD_ARCHIVE, opened)
    return opened


@lru_cache(maxsize=4)
def _remembered(uri: str, version: str, limits: LimitsConfig) -> Archive | str:
    """The archive, or the sentence that says why it cannot be listed: it stays so for each of its members."""
    try:
        return _opened(uri, version, limits)
    except DecodeError as error:
        return error.detail


def forget_archives() -> None:
    """Read the directory of every archive anew, whatever its version."""
    _remembered.cache_clear()


def _opened(uri: str, version: str, limits: LimitsConfig) -> Archive:
    """The archive with its directory. Raises DecodeError (BAD_ARCHIVE), StorageError."""
    found = storage.stat(uri)
    if version and found.version != version:
        detail = f"{uri} is not the archive that was listed: it was replaced; the next run scores it."
        raise StorageError(Fault.CHANGED, detail)
    size, version = found.size, found.version  # from here on, every range is one of this version
    if uri.lower().endswith(".zip"):
        entries = members.directory(uri, zips.scan(uri, size, limits, version=version), limits)
        return Archive(uri, entries, partial(zips.read, uri, limits=limits, version=version))
    if uri.lower().endswith(".tar"):
        entries = members.directory(uri, tars.scan(uri, tars.hopping(uri, size, version=version)), limits)
        ranges = partial(storage.get_range, uri, version=version)
        return Archive(uri, entries, partial(tars.read, uri, read_at=ranges, limits=limits))
    reader = tars.GzipReader(uri, size, limits=limits, version=version)
    entries = members.directory(uri, tars.scan(uri, reader.read_at), limits)
    reader.check_to_the_end()
    return Archive(uri, entries, partial(tars.read, uri, read_at=reader.read_at, limits=limits))


def is_packed(uri: str) -> bool:
    """Whether it is an archive or a member of one, rather than an object that is an image itself."""
    return split(uri)[1] is not None or is_archive(uri)


def fetch(uri: str, version: str, *, limits: LimitsConfig) -> bytes:
    """The bytes of an object, or of the member of an archive, of this `version`; '' takes any.

    Raises:
        DecodeError: As `Archive.read` and `open_archive`. The uri of a whole archive has no bytes of its own: it is
            listed only where its members cannot be, and the reason is raised.
        StorageError: The storage does not hand it out.
    """
    if not is_packed(uri):
        return storage.get(uri, version=version, max_bytes=limits.object_bytes)
    archive, name = split(uri)
    opened = open_archive(archive, version, limits)
    if name is None:
        raise bad_archive(uri, "could not be listed when this run began, but can be now; start the run again.")
    return opened.read(name)
