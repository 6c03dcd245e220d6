"""The inputs of a run in shards that tasks list side by side: parts of listings, inventory files, chunks of tables.

Planning costs a few requests for each input, and no input is ever held as a whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxr_ray import storage
from cxr_ray.errors import ConfigError, Fault, StorageError
from cxr_ray.images.packed import archives
from cxr_ray.images.packed.members import split
from cxr_ray.scoring.worklist import named
from cxr_ray.scoring.worklist.inventory import InventoryFile, read_inventory
from cxr_ray.storage import Span

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Spans:
    """Parts of the listing of the input `given`."""

    given: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """Objects and members of archives that a table names, or an input that `must_exist`."""

    uris: tuple[str, ...]
    must_exist: bool = False


Shard = Spans | Named | InventoryFile


def plan_shards(inputs: Sequence[str], *, wanted: int) -> Iterator[Shard]:
    """Shards that together hold what the inputs hold, about `wanted` for all folders and prefixes together.

    Raises:
        ConfigError: An input does not exist or cannot be read.
        StorageError: An input cannot be listed.
    """
    for given in inputs:
        uri = archives.absolute(given)
        if split(uri)[1] is not None:
            yield Named((uri,), must_exist=True)
        elif named.is_table(uri):
            yield from (Named(tuple(uris)) for uris in named.chunks(uri))
        else:
            yield from _inventory(uri) or _spans(uri, max(1, wanted // len(inputs)))


def _inventory(uri: str) -> list[InventoryFile]:
    """The data files of an S3 Inventory; none where the input is something else."""
    return read_inventory(uri) if uri.rpartition("/")[2] == MANIFEST else []


def _spans(uri: str, wanted: int) -> list[Spans]:
    """A file, folder or prefix, dealt out to the wanted number of shards, so that neighbours lie in different ones."""
    try:
        found = storage.spans(uri, wanted=wanted)
    except StorageError as error:
        if error.fault is Fault.NOT_FOUND:
            raise ConfigError(f"The input cannot be used: {error.detail}") from error
        raise
    number = min(wanted, len(found))
    return [Spans(uri, tuple(found[first::number])) for first in range(number)]
