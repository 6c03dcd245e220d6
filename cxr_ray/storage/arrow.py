"""Objects as Arrow reads them: the pyarrow filesystem of a uri, with boto3's credentials, region and endpoint."""

from collections.abc import Sequence

from pyarrow import fs

from cxr_ray.storage import s3
from cxr_ray.storage.uris import SCHEME, is_remote


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The pyarrow filesystem of a uri and the path on it, for reading Parquet."""
    if not is_remote(uri):
        return fs.LocalFileSystem(), uri
    client = s3.client()
    credentials = s3.session().get_credentials()
    frozen = credentials.get_frozen_credentials() if credentials else None
    filesystem = fs.S3FileSystem(
        access_key=frozen.access_key if frozen else None,
        secret_key=frozen.secret_key if frozen else None,
        session_token=frozen.token if frozen else None,
        anonymous=frozen is None,
        region=client.meta.region_name,
        endpoint_override=client.meta.endpoint_url,
    )
    return filesystem, uri.removeprefix(SCHEME)


def paths_on(uris: Sequence[str]) -> tuple[fs.FileSystem, list[str]]:
    """The one filesystem of several uris of one storage, and their paths on it; there must be at least one."""
    arrow, _ = filesystem(uris[0])
    return arrow, [uri.removeprefix(SCHEME) for uri in uris]
