"""Objects as Arrow reads them: the pyarrow filesystem of a uri, with its store's credentials, region and endpoint."""

from collections.abc import Sequence

from pyarrow import fs

from cxr_ray.errors import ConfigError
from cxr_ray.storage import stores
from cxr_ray.storage.answers import kinds_of_error, refusal_of
from cxr_ray.storage.uris import SCHEME, is_remote


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a uri and the path on it, for reading Parquet.

    Raises:
        StorageError: boto3's configuration, such as a profile that does not exist, leads to no store.
        ConfigError: The store wants its requester to pay, which pyarrow cannot say.
    """
    if not is_remote(uri):
        return fs.LocalFileSystem(), uri
    store = stores.current().of(uri)
    if store.config.requester_pays:
        raise ConfigError(f"{uri} cannot be read as a table where the requester pays; copy it to another bucket.")
    try:
        client, credentials = store.client, store.stores.credentials(store.config)
    except kinds_of_error() as error:
        raise refusal_of(error, store.endpoint).error(uri, "read") from error
    config = store.stores.config
    filesystem = fs.S3FileSystem(
        access_key=credentials.access_key if credentials else None,
        secret_key=credentials.secret_key if credentials else None,
        session_token=credentials.token if credentials else None,
        anonymous=credentials is None,
        region=client.meta.region_name,
        endpoint_override=client.meta.endpoint_url,
        connect_timeout=config.connect_seconds,
        request_timeout=config.read_seconds,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=config.retries + 1),
    )
    return filesystem, uri.removeprefix(SCHEME)


def paths_on(uris: Sequence[str]) -> tuple[fs.FileSystem, list[str]]:
    """The one filesystem of several uris of one storage, and their paths on it; there must be at least one."""
    arrow, _ = filesystem(uris[0])
    return arrow, [uri.removeprefix(SCHEME) for uri in uris]
