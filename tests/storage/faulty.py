"""An S3 server with bad nights: a threaded HTTP proxy before a real one that refuses, delays, resets and damages.

What happens to a request depends on its key and on how often it was asked for, never on time or threads: the same
requests meet the same faults. Other processes use it by its URL. Knows HTTP and the S3 API's errors, and nothing of
cxr_ray.

    with FaultyProxy(endpoint, plan={"bucket/a": ["slow_down", "reset"]}) as proxy: ...proxy.url...
    with FaultyProxy(endpoint, share_of_faults=0.05, seed=1) as proxy: ...
"""

import hashlib
import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

# Answers that never reach the server behind: status, code, and what else the body says.
ANSWERS: dict[str, tuple[int, str, str]] = {
    "slow_down": (503, "SlowDown", ""),
    "internal_error": (500, "InternalError", ""),
    "bad_gateway": (502, "BadGateway", ""),
    "too_many": (429, "TooManyRequests", ""),
    "limit_exceeded": (400, "RequestLimitExceeded", ""),
    "conflict": (409, "ConditionalRequestConflict", ""),
    "forbidden": (403, "AccessDenied", ""),
    "bad_request": (400, "InvalidArgument", ""),
    "wrong_region": (400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>"),
    "moved": (301, "PermanentRedirect", "<Endpoint>bucket.s3.eu-central-1.amazonaws.com</Endpoint>"),
    "archived": (403, "InvalidObjectState", "<StorageClass>DEEP_ARCHIVE</StorageClass>"),
}
# Faults that pass: what `share_of_faults` draws from. The others are for plans only.
PASSING = ("slow_down", "internal_error", "delay", "reset", "truncated", "corrupted")
KINDS = (*ANSWERS, "delay", "reset", "truncated", "corrupted", "lost_answer", "silence")
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"))


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived: its method, `bucket/key`, headers by lower-case name, and the fault it met."""

    method: str
    key: str
    headers: Mapping[str, str]
    fault: str | None


class FaultyProxy:
    """A proxy before `upstream` (http://host:port), serving from entering the context until leaving it."""

    def __init__(
        self,
        upstream: str,
        *,
        plan: Mapping[str, Sequence[str | None]] | None = None,
        share_of_faults: float = 0.0,
        seed: int = 0,
        latency: float = 0.0,
        delay: float = 0.5,
        ignored_headers: Sequence[str] = (),
    ) -> None:
        """Not serving yet.

        Args:
            upstream: The server behind.
            plan: For each `bucket/key`, or `PUT bucket/key`, the faults of its first, second, ... request of a method;
                None lets one through.
            share_of_faults: Share of all other requests that meet one of PASSING, 0..1; one in a row at most.
            seed: Which requests these are.
            latency: Seconds that every request takes longer.
            delay: Seconds that a `delay` takes.
            ignored_headers: Lower-case headers that are not handed on, as by servers that do not know them.
        """
        unknown = {kind for kinds in (plan or {}).values() for kind in kinds if kind is not None} - set(KINDS)
        if unknown:
            raise ValueError(f"faults are {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
        self.plan, self.share_of_faults, self.seed = dict(plan or {}), share_of_faults, seed
        self.latency, self.delay, self.ignored_headers = latency, delay, frozenset(ignored_headers)
        self.requests: list[Request] = []
        self.faults: Counter[str] = Counter()
        self.most_in_flight = 0
        self.stopping = threading.Event()
        self._address = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._in_flight = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def attempts(self, key: str, method: str = "GET") -> int:
        """How often a `bucket/key` was asked for."""
        with self._lock:
            return sum(request.key == key and request.method == method for request in self.requests)

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the server behind."""
        return http.client.HTTPConnection(self._address, timeout=60)

    def arrived(self, method: str, key: str, headers: Mapping[str, str]) -> str | None:
        """Note a request; the fault that it meets, if any."""
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            number = self._asked[method, key]
            self._asked[method, key] += 1
            planned = self.plan.get(f"{method} {key}", self.plan.get(key))
            if planned is not None:
                fault = planned[number] if number < len(planned) else None
            else:
                fault = self._drawn(method, key, number)
            self.requests.append(Request(method, key, headers, fault))
            if fault:
                self.faults[fault] += 1
            return fault

    def left(self) -> None:
        """Note that a request is done."""
        with self._lock:
            self._in_flight -= 1

    def _drawn(self, method: str, key: str, number: int) -> str | None:
        """The fault of the request of this number of a key, never two in a row."""

        def draw(which: int) -> tuple[float, str]:
            digest = hashlib.sha256(f"{self.seed} {method} {key} {which}".encode()).digest()
            return int.from_bytes(digest[:4], "big") / 2**32, PASSING[digest[4] % len(PASSING)]

        chance, kind = draw(number)
        before = number > 0 and draw(number - 1)[0] < self.share_of_faults
        return kind if chance < self.share_of_faults and not before else None


class _Server(ThreadingHTTPServer):
    """Threads that do not outlive the tests, and a queue that takes a burst of connections."""

    daemon_threads = True
    request_queue_size = 128
    proxy: FaultyProxy

    def shutdown_request(self, request: Any) -> None:
        """Close at once: after SO_LINGER of zero that is a reset."""
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of ours."""


class _Handler(BaseHTTPRequestHandler):
    """Hands a request on, or does what its fault says."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        """All requests of one connection, over one connection to the server behind."""
        self.upstream = self.server.proxy.connect()
        try:
            super().handle()
        finally:
            self.upstream.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = proxy.arrived(self.command, unquote(self.path.partition("?")[0])[1:], headers)
        try:
            proxy.stopping.wait(proxy.latency)
            if fault == "silence":
                proxy.stopping.wait()
            if fault == "delay":
                proxy.stopping.wait(proxy.delay)
            if fault == "reset" or proxy.stopping.is_set():
                self._reset()
            elif fault in ANSWERS:
                self._answer(*ANSWERS[fault])
            else:
                self._hand_on(body, {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}, fault)
        finally:
            proxy.left()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _hand_on(self, body: bytes, headers: dict[str, str], fault: str | None) -> None:
        """Ask the server behind and answer as it does, or almost."""
        kept = {name: value for name, value in headers.items() if name not in self.server.proxy.ignored_headers}
        self.upstream.request(self.command, self.path, body=body or None, headers=kept)
        answer = self.upstream.getresponse()
        found = answer.read()
        if fault == "lost_answer":
            self._reset()
            return
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and answer.status != 204:
            self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        # Elsewhere nobody could tell: a part of an object and a listing have no checksum that boto3 looks at.
        if fault == "corrupted" and found and answer.status == 200 and answer.getheader("x-amz-checksum-crc32"):
            found = found[:-1] + bytes([found[-1] ^ 0xFF])
        if fault == "truncated" and found:
            self.wfile.write(found[: len(found) // 2])
            self.close_connection = True
            return
        self.wfile.write(found)

    def _answer(self, status: int, code: str, more: str) -> None:
        """An error as the S3 API words it."""
        text = (
            f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>planned</Message>{more}</Error>"
        )
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        if code == "PermanentRedirect":
            self.send_header("x-amz-bucket-region", "eu-central-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
