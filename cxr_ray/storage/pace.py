"""How fast requests may follow one another: a token bucket. Knows no store and never sleeps itself."""

import threading
import time
from collections.abc import Callable

_BURST = 0.1  # seconds' worth of tokens that may gather while nobody asks


class Pace:
    """At most `rate` requests per second, whoever of this process makes them."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """The bucket is full."""
        self.rate = rate
        self._clock, self._lock = clock, threading.Lock()
        self._free = -float("inf")  # when the next token will be there

    def reserve(self) -> float:
        """Take a token; the seconds to wait before it may be used."""
        with self._lock:
            now = self._clock()
            at = max(self._free, now - _BURST)
            self._free = at + 1 / self.rate
            return max(0.0, at - now)
