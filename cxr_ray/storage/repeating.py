"""Asking again: exponential backoff with full jitter while a refusal may pass, and the sentence when it does not.

Source of the pauses: Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cxr_ray.config import StorageConfig
from cxr_ray.errors import Fault, StorageError

_LONGEST = 20.0  # seconds of the longest pause

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a storage did not do as asked: fault, its code, what to do about it, and whether to ask again."""

    fault: Fault
    code: str
    remedy: str = ""
    passing: bool = False

    def error(self, uri: str, verb: str, attempts: int | None = None) -> StorageError:
        """The one sentence."""
        tried = "" if attempts is None else f", after {attempts} attempt{'s' if attempts > 1 else ''}"
        remedy = f"; {self.remedy}" if self.remedy else ""
        return StorageError(self.fault, f"{uri} cannot be {verb} ({self.code}{tried}){remedy}.")


def repeated(
    ask: Callable[[], Answer],
    uri: str,
    verb: str,
    *,
    config: StorageConfig,
    errors: tuple[type[Exception], ...],
    refusal: Callable[[Exception], Refusal],
    stop: threading.Event | None = None,
) -> Answer:
    """What `ask` returns, asked again after passing refusals as often as `config.retries` says.

    Nothing is asked again once `stop` is set. Raises StorageError, with code and attempts, for what `refusal` makes of
    `errors`.
    """
    patience = stop or threading.Event()
    attempts = 0
    while True:
        attempts += 1
        try:
            return ask()
        except errors as error:
            why = refusal(error)
            pause = random.uniform(0.0, min(_LONGEST, config.pause_seconds * 2 ** (attempts - 1)))
            if not why.passing or attempts > config.retries or patience.wait(pause):
                raise why.error(uri, verb, attempts) from error
