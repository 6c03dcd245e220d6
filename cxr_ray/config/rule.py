"""The rule by which a threshold is chosen, as it is written in a setting or on the command line."""

import re
from dataclasses import dataclass
from typing import Literal

from cxr_ray.errors import ConfigError

_TEXT = re.compile(r"(?P<name>f1|youden|sensitivity>=|specificity>=|alerts<=|)(?P<bound>\d*\.?\d+)?")
_HIGHEST = {"fixed": 1.0, "sensitivity": 1.0, "specificity": 1.0, "alerts": 100.0}


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How the threshold of a finding is chosen. Of thresholds that serve a rule equally well, the lowest is taken.

    - `f1`: the highest F1.
    - `youden`: the highest sensitivity + specificity - 1 (Youden 1950, Index for rating diagnostic tests).
    - `sensitivity>=X`: the highest threshold with at least this sensitivity, 0..1.
    - `specificity>=X`: the lowest threshold with at least this specificity, 0..1.
    - `alerts<=Y`: the lowest threshold at which at most Y of a hundred images have the finding; needs no labels.
    - a number between 0 and 1: this probability; needs no labels.
    """

    name: Literal["f1", "youden", "sensitivity", "specificity", "alerts", "fixed"] = "f1"
    bound: float | None = None

    @classmethod
    def parse(cls, text: str) -> "ThresholdRule":
        """The rule that a text such as `sensitivity>=0.95` names. Raises ConfigError."""
        found = _TEXT.fullmatch(text.replace(" ", ""))
        name = found["name"].rstrip("<>=") or "fixed" if found else ""
        bound = float(found["bound"]) if found and found["bound"] else None
        highest = _HIGHEST.get(name)
        inside = bound is None if highest is None else bound is not None and 0 < bound <= highest
        if not found or not inside or (name == "fixed" and bound == 1.0):
            raise ConfigError(
                f"{text!r} is no threshold rule; use f1, youden, sensitivity>=0.95, specificity>=0.9, alerts<=5 (of a"
                " hundred images) or a probability such as 0.5."
            )
        return cls(name, bound)  # type: ignore[arg-type]  # the pattern knows these names only

    @property
    def needs_labels(self) -> bool:
        """Whether the truth decides, and not the probabilities alone."""
        return self.name not in ("alerts", "fixed")

    def __str__(self) -> str:
        """The rule as it is written."""
        sign = {"fixed": "", "alerts": "alerts<=", "sensitivity": "sensitivity>=", "specificity": "specificity>="}
        return self.name if self.bound is None else f"{sign[self.name]}{self.bound:g}"
