"""What the driver says of an epoch, with the time that is left. Pure; knows no clock."""

from collections.abc import Mapping


class Pace:
    """How fast each member comes along in this run of the driver, which may have begun in its middle."""

    def __init__(self) -> None:
        """No member has begun."""
        self._began: dict[str, float] = {}
        self._heard: dict[str, int] = {}

    def begin(self, name: str, *, now: float) -> None:
        """A member begins, or goes on, at the time `now` in seconds."""
        self._began[name], self._heard[name] = now, 0

    def left(self, name: str, *, done: int, total: int, now: float) -> float:
        """Seconds until a member has done its `total` epochs, as one more of them is heard of: the `done`-th."""
        self._heard[name] += 1
        return (now - self._began[name]) / self._heard[name] * (total - done)


def epoch_line(name: str, epoch: Mapping[str, float], *, total: int, left: float) -> str:
    """One epoch of a member in one line; `left` in seconds."""
    return (
        f"{name} epoch {int(epoch['number']) + 1}/{total}: loss {epoch['train_loss']:.3f},"
        f" validation {epoch['validation_loss']:.3f}, macro AUROC {epoch['macro_auroc']:.3f}"
        f"{' (best)' if epoch['best'] else ''}, {epoch['images_per_second']:.0f} images/s, about {left:.0f} s left"
    )
