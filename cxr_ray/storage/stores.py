"""The object stores as this process reaches them: which settings are whose, one client for each, made when needed.

Credentials come from boto3's own chain and stay in its clients. boto3's own repetitions are off: ours count.
"""

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cxr_ray.config import StorageConfig, StoreConfig
from cxr_ray.errors import ConfigError
from cxr_ray.storage.pace import Pace

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_AWS = "https://s3.amazonaws.com"


class Stores:
    """The stores of one configuration. Threads may share it."""

    def __init__(self, config: StorageConfig, share: float) -> None:
        """Nothing is connected yet; `share` is this process's part of the caps on requests per second."""
        self.config, self.share = config, share
        self.honours_conditions: set[tuple[str, str]] = set()  # (endpoint, bucket): see conditional.py
        self._lock = threading.RLock()
        self._longest_first = sorted(config.stores, key=lambda store: len(store.prefix), reverse=True)
        self._sessions: dict[str | None, Any] = {}
        self._clients: dict[StoreConfig, S3Client] = {}
        caps: dict[str | None, list[float]] = {}
        for store in config.stores:
            if store.requests_per_second is not None:
                caps.setdefault(store.endpoint, []).append(store.requests_per_second)
        self._paces = {endpoint: Pace(min(given) * share) for endpoint, given in caps.items()}

    def of(self, uri: str) -> "Store":
        """The store of a uri: by the longest prefix that holds it, or as boto3 would reach it."""
        found = next((store for store in self._longest_first if store.holds(uri)), StoreConfig())
        return Store(found, self, self._paces.get(found.endpoint))

    def session(self, store: StoreConfig) -> Any:
        """The boto3 session of a store's profile. Raises BotoCoreError for a profile that does not exist."""
        import boto3

        with self._lock:
            if store.profile not in self._sessions:
                self._sessions[store.profile] = boto3.Session(profile_name=store.profile)
            return self._sessions[store.profile]

    def credentials(self, store: StoreConfig) -> Any:
        """Access key, secret key and token of a store as they are now, or None. Raises BotoCoreError."""
        found = None if store.anonymous else self.session(store).get_credentials()
        return found and found.get_frozen_credentials()

    def client(self, store: StoreConfig) -> "S3Client":
        """The client of a store; stores that differ only in what is said with each request share it."""
        key = store.model_copy(update={"prefix": "", "requester_pays": False, "requests_per_second": None})
        with self._lock:  # boto3 makes sessions and clients in one thread only; made, clients may be shared
            if key not in self._clients:
                self._clients[key] = self._made(store)
            return self._clients[key]

    def _made(self, store: StoreConfig) -> "S3Client":
        """A new client."""
        from botocore import UNSIGNED
        from botocore.config import Config

        settings = Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=self.config.connect_seconds,
            read_timeout=self.config.read_seconds,
            max_pool_connections=max(64, self.config.requests_in_flight),
            s3={"addressing_style": "path" if store.path_style else "auto"},
            **({"signature_version": UNSIGNED} if store.anonymous else {}),
        )
        try:
            client: S3Client = self.session(store).client(
                "s3", endpoint_url=store.endpoint, region_name=store.region, config=settings
            )
        except ValueError as error:  # botocore's word for an endpoint that is no URL
            from botocore.exceptions import BotoCoreError

            if isinstance(error, BotoCoreError):
                raise
            raise ConfigError("AWS_ENDPOINT_URL is no URL; set it to one such as https://s3.example.org.") from None
        return client


@dataclass(frozen=True, slots=True)
class Store:
    """The store of one uri."""

    config: StoreConfig
    stores: Stores
    pace: Pace | None

    @property
    def client(self) -> "S3Client":
        """Its client. Raises BotoCoreError where boto3's configuration is of no use."""
        return self.stores.client(self.config)

    @property
    def endpoint(self) -> str:
        """Where it is, fit for a sentence: without a user, a password or a query."""
        given = self.config.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        parts = urlsplit(given or _AWS)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def payer(self) -> dict[str, Any]:
        """What each request says of who pays."""
        return {"RequestPayer": "requester"} if self.config.requester_pays else {}

    def wait(self, stop: threading.Event | None) -> None:
        """Wait until the cap on requests per second allows one more, or `stop` is set."""
        seconds = self.pace.reserve() if self.pace else 0.0
        if seconds:
            (stop or threading.Event()).wait(seconds)


_current = Stores(StorageConfig(), 1.0)


def configure(config: StorageConfig, *, share: float = 1.0) -> None:
    """Say how this process reaches its stores.

    Args:
        config: The stores; each task of a run is told them first. The same again changes nothing.
        share: This process's part of the caps on requests per second: 1 over the processes that ask at the same time.
    """
    global _current
    if (config, share) != (_current.config, _current.share):
        _current = Stores(config, share)


def current() -> Stores:
    """The stores as this process was told to reach them."""
    return _current


def configured() -> tuple[StorageConfig, float]:
    """What `configure` was told last, for a child process."""
    return _current.config, _current.share


def forget_clients() -> None:
    """Make the next request read credentials, region and endpoint anew."""
    global _current
    _current = Stores(_current.config, _current.share)
