"""Settings of the way to object stores: where they are, as whom to ask, how often and how much at a time.

Credentials are no settings: they come from the environment or from boto3's own chain, by the name of a profile at
most, so that no run manifest, log or worklist can hold them.
"""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cxr_ray.config.section import Section


class StoreConfig(Section):
    """How the objects below one prefix are reached. What is left out comes from boto3's own chain."""

    prefix: str = Field(
        "s3://", description="The uris this is for: s3:// for all, s3://bucket, or s3://bucket/folder; longest wins."
    )
    endpoint: str | None = Field(None, description="URL of the store, for example https://s3.example.org; None: AWS.")
    region: str | None = Field(None, min_length=1, description="Region, for example eu-central-1.")
    profile: str | None = Field(
        None, min_length=1, description="Profile of the AWS configuration files that has the credentials."
    )
    anonymous: bool = Field(False, description="Ask without credentials, as public buckets allow.")
    requester_pays: bool = Field(False, description="Agree to pay for requests and transfer.")
    path_style: bool = Field(False, description="Name the bucket in the path of a URL instead of in its host.")
    requests_per_second: float | None = Field(
        None,
        gt=0.0,
        description="Most requests per second to this endpoint, of the whole run; of several stores at one endpoint"
        " the lowest counts for all.",
    )

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        # Here and not on the fields, whose errors repeat the value: it may hold a password.
        bucket = self.prefix.removeprefix("s3://").partition("/")[0]
        if not self.prefix.startswith("s3://") or (not bucket and self.prefix != "s3://"):
            raise ValueError("prefix must be s3://, s3://bucket or s3://bucket/folder")
        if self.endpoint is not None:
            _check_endpoint(self.endpoint)
        if self.anonymous and (self.profile or self.requester_pays):
            raise ValueError("anonymous goes with neither profile nor requester_pays")
        return self

    def holds(self, uri: str) -> bool:
        """Whether the uri is the prefix or lies below it."""
        return uri == self.prefix or uri.startswith(self.prefix if self.prefix[-1] == "/" else f"{self.prefix}/")


class StorageConfig(Section):
    """The object stores of one run, and how patiently and how greedily they are read."""

    stores: tuple[StoreConfig, ...] = Field(
        (), description="One entry per endpoint, region or account; uris of none are reached as boto3 would."
    )
    retries: int = Field(4, ge=0, le=20, description="Repeated requests after throttling, timeouts and broken bodies.")
    pause_seconds: float = Field(
        0.5,
        gt=0.0,
        description="Longest pause before the first repetition, in seconds, doubled each time up to 20 s; the real"
        " one is drawn between 0 and that.",
    )
    connect_seconds: float = Field(5.0, gt=0.0, description="Longest wait for a connection, in seconds.")
    read_seconds: float = Field(30.0, gt=0.0, description="Longest silence of a store while it answers, in seconds.")
    requests_in_flight: int = Field(16, ge=1, le=256, description="Objects that one task fetches at the same time.")
    bytes_in_flight: int = Field(
        256 * 2**20,
        ge=1,
        description="Most bytes of one task that are fetched and not yet decoded; a larger object goes alone.",
    )

    @model_validator(mode="after")
    def _prefixes_differ(self) -> Self:
        prefixes = [store.prefix for store in self.stores]
        repeated = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
        if repeated:
            raise ValueError(f"storage.stores names a prefix twice: {', '.join(repeated)}")
        return self


def _check_endpoint(endpoint: str) -> None:
    """Raise ValueError, without repeating it, for what is no http(s) URL or holds more than host and path."""
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError("endpoint must be a URL such as https://s3.example.org") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("endpoint must hold no user, password or query; credentials come from the environment")
    if not good:
        raise ValueError("endpoint must be a URL such as https://s3.example.org")
