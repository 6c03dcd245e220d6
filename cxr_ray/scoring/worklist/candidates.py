"""What of the listed may be an image: by name, by age, and as members of archives. Knows no pixels and no Ray."""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from cxr_ray import storage
from cxr_ray.config import LimitsConfig, ScoreConfig
from cxr_ray.errors import ConfigError, DecodeError, StorageError
from cxr_ray.images.packed import archives
from cxr_ray.images.packed.members import Member, is_archive, join, split
from cxr_ray.scoring.worklist import inventory, named
from cxr_ray.scoring.worklist.inventory import InventoryFile
from cxr_ray.scoring.worklist.named import ABSENT
from cxr_ray.scoring.worklist.shards import Named, Shard, plan_shards
from cxr_ray.storage import ObjectInfo


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may be an image, and where it lies in its archive (0 for what lies in none)."""

    uri: str
    version: str
    size: int
    modified: datetime | None = None
    place: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of the listed: patterns of names, the earliest time of change, and what bounds the archives."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    since: datetime | None = None
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @classmethod
    def of(cls, config: ScoreConfig) -> Self:
        """The selection of these settings now: an age becomes a time, the same for all tasks."""
        return cls(config.include, config.exclude, config.modified_after(datetime.now(UTC)), config.limits)


class Listing:
    """Lists candidates, and counts what its names or its age leave out."""

    def __init__(self, selection: Selection) -> None:
        """Nothing is listed yet."""
        self.limits, self.since = selection.limits, selection.since
        self.included, self.excluded = _Patterns(selection.include or ("*",)), _Patterns(selection.exclude)
        self.left_out = self.too_old = 0

    def objects(self, inputs: Sequence[str]) -> Iterator[Candidate]:
        """Every object of the inputs, and every member of their archives, that may be an image.

        Raises:
            ConfigError: An input does not exist or cannot be used.
            StorageError: The storage refuses to list.
        """
        for shard in plan_shards(inputs, wanted=1):
            yield from self.of(shard)

    def of(self, shard: Shard) -> Iterator[Candidate]:
        """The candidates of one shard. Raises as `objects`."""
        if isinstance(shard, Named):
            yield from self._named(shard)
            return
        if isinstance(shard, InventoryFile):
            items = inventory.objects(shard)
        else:
            items = (item for span in shard.spans for item in storage.list_span(span))
        below = shard.given if shard.given.endswith("/") else f"{shard.given}/"
        for item in items:
            # An archive is left out by name, but never kept out for lack of a pattern: that is for its members.
            path, packed = item.uri.removeprefix(below), is_archive(item.uri)
            if item.uri != shard.given and not self._is_wanted(path, always=packed):
                self.left_out += 1
            elif self._is_recent(item):
                yield from self._members(item, path) if packed else (_candidate(item),)

    def _named(self, shard: Named) -> Iterator[Candidate]:
        """What is named itself: each gets its row, whatever it is; of an archive all members that may be images."""
        for item in named.look_up(shard.uris):
            if shard.must_exist and item.version == ABSENT:
                raise ConfigError(f"The input cannot be used: there is nothing at {item.uri}; check the path.")
            if not self._is_recent(item):
                continue
            archive, name = split(item.uri)
            if item.version == ABSENT:
                yield _candidate(item)
            elif name is not None:
                member = (_directory(archive, item.version, self.limits) or {}).get(name, Member(name, 0, 0))
                yield _candidate(item, member)
            else:
                yield from self._members(item, item.uri) if is_archive(item.uri) else (_candidate(item),)

    def _members(self, item: ObjectInfo, path: str) -> Iterable[Candidate]:
        """The members of an archive; the archive itself where it cannot be listed: decoding that row says why."""
        members = _directory(item.uri, item.version, self.limits)
        if members is None:
            return [_candidate(item)]
        wanted = [member for member in members.values() if self._is_wanted(join(path, member.name))]
        self.left_out += len(members) - len(wanted) if members else 1
        return (_candidate(item, member) for member in wanted)

    def _is_wanted(self, path: str, *, always: bool = False) -> bool:
        """Whether the name speaks for an image; `always` asks only whether it is left out on purpose."""
        return (always or self.included.match(path)) and not self.excluded.match(path)

    def _is_recent(self, item: ObjectInfo) -> bool:
        """Whether it changed late enough, or does not say when; counts what did not."""
        recent = self.since is None or item.modified is None or item.modified >= self.since
        self.too_old += not recent
        return recent


class _Patterns:
    """Shell patterns, case ignored: those without a `/` are held against the last part of a path, others against it."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.names = _any_of([pattern for pattern in patterns if "/" not in pattern])
        self.paths = _any_of([pattern for pattern in patterns if "/" in pattern])

    def match(self, path: str) -> bool:
        """Whether one of them fits."""
        lowered = path.lower()
        return bool(self.names.match(lowered.rpartition("/")[2]) or self.paths.match(lowered))


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for all patterns, which is ten times as fast; nothing fits none."""
    return re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns) or r"(?!)")


def _candidate(item: ObjectInfo, member: Member | None = None) -> Candidate:
    """An object, or a member of it."""
    if member is None:
        return Candidate(item.uri, item.version, item.size, item.modified)
    uri = join(split(item.uri)[0], member.name)
    return Candidate(uri, item.version, member.size, item.modified, member.place)


def _directory(uri: str, version: str, limits: LimitsConfig) -> Mapping[str, Member] | None:
    """The members of an archive by name, or None when it cannot be listed."""
    try:
        return archives.open_archive(uri, version, limits).members
    except (DecodeError, StorageError):
        return None
