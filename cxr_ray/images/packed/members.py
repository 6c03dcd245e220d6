"""What an archive holds: the names that make archives and members, and the directory of one archive.

A member is written `archive!/name`. Knows neither the layout of a .zip nor that of a .tar, and reads nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cxr_ray.config import LimitsConfig
from cxr_ray.errors import DecodeError, Fault

SEPARATOR = "!/"
MEMBER_PATTERN = r"(?is)^(.*?\.(?:zip|tar|tar\.gz|tgz))!/(.*)$"
"""Archive and member of a member's uri, as Python and Arrow (RE2) both understand it: the first archive counts."""

ENCRYPTED = "is encrypted; repack the archive without a password."
_NESTED = "is an archive inside an archive; unpack it beside the outer one."
_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_MEMBER = re.compile(MEMBER_PATTERN)


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive: its name, its size in bytes as declared, and where it lies.

    `place` is where its local header (zip) or its data (tar) begins. A `problem`, the end of a sentence, says why it
    cannot be read.
    """

    name: str
    size: int
    place: int
    problem: str = ""


def is_archive(uri: str) -> bool:
    """Whether the name says .zip, .tar, .tar.gz or .tgz, and the uri is not itself a member."""
    return uri.lower().endswith(_SUFFIXES) and split(uri)[1] is None


def split(uri: str) -> tuple[str, str | None]:
    """The archive and the member's name; for what is no member, the uri itself and None."""
    match = _MEMBER.fullmatch(uri)
    return (match[1], match[2]) if match else (uri, None)


def join(archive: str, name: str) -> str:
    """The uri of a member."""
    return f"{archive}{SEPARATOR}{name}"


def clean_name(name: str) -> str:
    """A member's name as it stands in uris: without `.` parts and needless slashes, the leading one included.

    `..` stays, for nothing is ever unpacked. Empty for what is no candidate: hidden files and folders, and the
    resource forks that macOS adds.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)
    return "" if hidden else "/".join(parts)


def bad_archive(uri: str, problem: str) -> DecodeError:
    """The fault of an archive or a member; `problem` ends the sentence and holds the remedy."""
    return DecodeError(Fault.BAD_ARCHIVE, f"{uri} {problem}")


def directory(uri: str, entries: Iterable[Member | None], limits: LimitsConfig) -> dict[str, Member]:
    """The members of an archive by clean name; entries that are no files are None and count, too.

    Of two members of the same name the last is the one, as it is for everybody who unpacks the archive: that is how
    a file is replaced in a tar. Raises DecodeError: BAD_ARCHIVE for too many entries, or when all are encrypted.
    """
    members: dict[str, Member] = {}
    for count, member in enumerate(entries, start=1):
        if count > limits.archive_members:
            raise too_many(uri, limits)
        name = clean_name(member.name) if member else ""
        if member and name:
            members[name] = replace(member, name=name, problem=_NESTED if is_archive(name) else member.problem)
    if members and all(member.problem == ENCRYPTED for member in members.values()):
        raise bad_archive(uri, ENCRYPTED)
    return members


def too_many(uri: str, limits: LimitsConfig) -> DecodeError:
    """The fault of an archive of more entries than the limit."""
    return bad_archive(
        uri, f"holds more than limits.archive_members = {limits.archive_members} entries; raise it or split the file."
    )


def check_size(uri: str, size: int, limits: LimitsConfig) -> None:
    """Refuse a member of `size` bytes. Raises DecodeError: TOO_LARGE."""
    if size > limits.object_bytes:
        detail = f"{uri} has {size} bytes, more than limits.object_bytes = {limits.object_bytes}; raise it."
        raise DecodeError(Fault.TOO_LARGE, detail)
