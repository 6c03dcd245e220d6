"""A listing in parts, for several tasks to list at the same time: every object lies in exactly one of them.

An object store is cut along its folders, and where one holds more than a page, along the characters that follow its
prefix; the local disk along its folders. Parts are prefixes and not ranges of keys, so that a store with another
order of keys than S3's loses nothing.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cxr_ray.errors import Fault, StorageError
from cxr_ray.storage import local, s3
from cxr_ray.storage.uris import SCHEME, ObjectInfo, is_remote, path_of, split

PAGE = 1_000  # keys that one request lists at most. Source: ListObjectsV2, MaxKeys
_ABREAST = 8  # prefixes looked at side by side
_LAST = "\U0010ffff"  # no character follows it
_UNORDERED = "--x-s3"  # ends the names of directory buckets, which list in no order and take no StartAfter


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a listing: of the objects whose uris begin with `uri` all, those without a further `/`, or itself alone.

    On the local disk `uri` is a file or a folder, and not the beginning of a name.
    """

    uri: str
    depth: Literal["all", "direct", "itself"] = "all"


def spans(uri: str, *, wanted: int, page: int = PAGE) -> list[Span]:
    """Spans that hold each object at or below `uri` once, as `list_objects` has it: `wanted` or more if it has so many.

    Costs a few requests for each span. What holds no more than `page` objects is not cut.

    Raises:
        StorageError: There is nothing at `uri`, or the storage refuses to list.
    """
    cut = partial(_cut_prefix, page=page) if is_remote(uri) else _cut_folder
    done, waiting = (_roots if is_remote(uri) else _local_roots)(uri)
    if not done and not waiting:
        raise StorageError(Fault.NOT_FOUND, f"There is nothing at {uri}; check the path or the prefix.")
    with ThreadPoolExecutor(_ABREAST) as pool:
        while waiting and len(done) + len(waiting) < wanted:
            batch = [waiting.popleft() for _ in range(min(_ABREAST, len(waiting)))]
            for whole, further in pool.map(cut, batch):
                done += whole
                waiting += further
    return [*done, *map(Span, waiting)]


def list_span(span: Span) -> Iterator[ObjectInfo]:
    """The objects of a span, without holding the list in memory. Raises StorageError."""
    if not is_remote(span.uri):
        yield from local.list_objects(span.uri, direct=span.depth == "direct")
        return
    if span.depth == "itself":
        yield from (item for item in s3.objects_on(_first_page(span.uri, 1), span.uri) if item.uri == span.uri)
        return
    for page in s3.pages(span.uri, **({"Delimiter": "/"} if span.depth == "direct" else {})):
        yield from s3.objects_on(page, span.uri)


def _roots(uri: str) -> tuple[list[Span], deque[str]]:
    """The object of that very name, and the prefix of all below it, where there are any.

    Its requests come one after the other: boto3 makes its client on first use, which threads must not do side by side.
    """
    whole_name = split(uri)[1] and not uri.endswith("/")
    itself = [Span(uri, "itself")] if whole_name and any(list_span(Span(uri, "itself"))) else []
    below = uri if uri.endswith("/") else f"{uri}/"
    return itself, deque([below] if _first_key(below, "") else [])


def _local_roots(uri: str) -> tuple[list[Span], deque[str]]:
    """The file or the folder, if there is one."""
    path = path_of(uri)
    return [Span(uri)] if path.is_file() else [], deque([uri] if path.is_dir() else [])


def _cut_folder(folder: str) -> tuple[list[Span], list[str]]:
    """A local folder as the files in it, and the folders to cut further."""
    return [Span(folder, "direct")], local.subfolders(folder)


def _cut_prefix(prefix: str, *, page: int) -> tuple[list[Span], list[str]]:
    """The spans of a prefix that are cut enough, and the prefixes that are not; nothing where nothing is."""
    first = _first_page(prefix, page, Delimiter="/")
    folders = [f"{SCHEME}{split(prefix)[0]}/{item['Prefix']}" for item in first.get("CommonPrefixes", [])]
    files = any(s3.objects_on(first, prefix))
    if first.get("IsTruncated"):
        return _by_characters(prefix)
    if not folders:
        return ([Span(prefix)] if files else []), []
    return ([Span(prefix, "direct")] if files else []), folders


def _by_characters(prefix: str) -> tuple[list[Span], list[str]]:
    """A prefix by the characters that follow it, behind what all of its keys have in common."""
    done: list[Span] = []
    if split(prefix)[0].endswith(_UNORDERED):
        return [Span(prefix)], []
    while True:
        itself, further = _following(prefix)
        if further is None:
            return [*done, Span(prefix)], []
        if itself and not prefix.endswith("/"):
            done.append(Span(prefix, "itself"))
        if len(further) != 1:
            return done, further
        prefix = further[0]


def _following(prefix: str) -> tuple[bool, list[str] | None]:
    """Whether a key ends with the prefix, and the prefixes longer by a character; None where keys come in no order.

    One request for each character: it asks for the first key behind all keys with the character before.
    """
    itself, found, after, repeated = False, list[str](), "", 1
    while key := _first_key(prefix, after):
        if after and key <= after:
            return itself, None
        if key == prefix:
            itself, after = True, prefix
            continue
        longer = key[: len(prefix) + 1]
        # A key may hold the last character itself, and then lies behind; so many of them fit in no key in the end.
        repeated = 2 * repeated if found and found[-1] == longer else 1
        if repeated == 1:
            found.append(longer)
        after = longer + _LAST * repeated
    return itself, found


def _first_key(prefix: str, after: str) -> str | None:
    """The uri of the first key with the prefix, and behind that of `after` if there is any."""
    options = {"StartAfter": split(after)[1]} if after and split(after)[1] else {}
    items = _first_page(prefix, 1, **options).get("Contents", [])
    return f"{SCHEME}{split(prefix)[0]}/{items[0]['Key']}" if items else None


def _first_page(prefix: str, size: int, **options: Any) -> dict[str, Any]:
    """The first page of a listing, of at most `size` keys and folders."""
    return next(s3.pages(prefix, MaxKeys=size, **options))
