"""What the members' workers tell the driver of a training run.

A module without torch: Ray has the board's process import it, and that holds a quarter of the memory then.
"""

from cxr_ray.errors import CxrRayError


class Board:
    """Where the members' workers pin their epochs, their remarks and their last words, and the driver reads them."""

    def __init__(self) -> None:
        """Nothing is pinned yet."""
        self._epochs: list[tuple[str, dict[str, float]]] = []
        self._sentences: list[str] = []
        self._ends: dict[str, CxrRayError] = {}

    def post(self, name: str, epoch: dict[str, float]) -> None:
        """Pin one epoch of one member."""
        self._epochs.append((name, epoch))

    def say(self, name: str, sentence: str) -> None:
        """Pin one remark of one member."""
        self._sentences.append(f"{name}: {sentence}")

    def give_up(self, name: str, error: CxrRayError) -> None:
        """Pin why a member cannot be trained."""
        self._ends[name] = error

    def end_of(self, name: str) -> CxrRayError | None:
        """Why a member cannot be trained, or None; taken down."""
        return self._ends.pop(name, None)

    def drain(self) -> tuple[list[tuple[str, dict[str, float]]], list[str]]:
        """Take down all epochs and remarks that were pinned since the last call."""
        drained = self._epochs, self._sentences
        self._epochs, self._sentences = [], []
        return drained
