"""A bucket of invented objects that answers ListObjectsV2 over HTTP, for keys in any number and of any kind.

moto sorts all keys for each page and cannot be asked for what follows a control character.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote_plus, urlsplit

LAST = "\U0010ffff"


class ListingServer(ThreadingHTTPServer):
    """Lists `keys`, which are sorted, as the objects of any bucket. `requests` counts what was asked."""

    daemon_threads = True

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys, self.requests = keys, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self, prefix: str, delimiter: str, after: str, place: int, most: int) -> tuple[list[str], list[str], int]:
        """Keys, folders, and where the next page begins; -1 when there is none."""
        contents, folders = list[str](), list[str]()
        place = max(place, bisect_left(self.keys, prefix), bisect_right(self.keys, after) if after else 0)
        while place < len(self.keys) and self.keys[place].startswith(prefix):
            if len(contents) + len(folders) == most:
                return contents, folders, place
            key = self.keys[place]
            cut = key.find(delimiter, len(prefix)) + len(delimiter) if delimiter else 0
            if delimiter and cut >= len(delimiter):
                folder = key[:cut]
                folders.append(folder)
                place = bisect_right(self.keys, folder, lo=place, key=lambda other: other[:cut])
            else:
                contents.append(key)
                place += 1
        return contents, folders, -1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart they would wait for the client's delayed acknowledgement
    server: ListingServer

    def do_GET(self) -> None:
        self.server.requests += 1
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        contents, folders, following = self.server.page(
            query.get("prefix", ""),
            query.get("delimiter", ""),
            query.get("start-after", ""),
            int(query.get("continuation-token", 0)),
            int(query.get("max-keys", 1000)),
        )
        parts = ['<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url</EncodingType>']
        parts += [content(key) for key in contents]
        parts += [f"<CommonPrefixes><Prefix>{_quoted(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        if following >= 0:
            parts.append(f"<NextContinuationToken>{following}</NextContinuationToken>")
        parts.append(f"<IsTruncated>{str(following >= 0).lower()}</IsTruncated></ListBucketResult>")
        body = "".join(parts).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def etag(key: str) -> str:
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def content(key: str) -> str:
    return (
        f"<Contents><Key>{_quoted(key)}</Key><LastModified>2026-11-22T03:04:05.000Z</LastModified>"
        f"<ETag>&quot;{etag(key)}&quot;</ETag><Size>{8_000_000 + len(key)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def _quoted(key: str) -> str:
    return quote_plus(key, safe="/")
