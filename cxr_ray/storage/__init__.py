"""The one door to folders and object stores: list, get with retries and verification, put whole or not at all.

uris.py says what a uri is and stores.py how a store is reached; local.py and s3.py do the work on files and in object
stores, with the same verbs; objects.py, reading.py, fetching.py and conditional.py choose between them; listing.py
cuts a listing in parts. Knows nothing of images or tables.
"""

from cxr_ray.storage.arrow import filesystem, paths_on
from cxr_ray.storage.conditional import create, replace
from cxr_ray.storage.fetching import Item, fetch
from cxr_ray.storage.listing import Span, list_span, spans
from cxr_ray.storage.objects import check_writable, delete, exists, list_objects, put, stat
from cxr_ray.storage.reading import RangedFile, get, get_range
from cxr_ray.storage.stores import configure, configured, forget_clients
from cxr_ray.storage.uris import ObjectInfo, absolute, is_remote, join

__all__ = [
    "Item",
    "ObjectInfo",
    "RangedFile",
    "Span",
    "absolute",
    "check_writable",
    "configure",
    "configured",
    "create",
    "delete",
    "exists",
    "fetch",
    "filesystem",
    "forget_clients",
    "get",
    "get_range",
    "is_remote",
    "join",
    "list_objects",
    "list_span",
    "paths_on",
    "put",
    "replace",
    "spans",
    "stat",
]
