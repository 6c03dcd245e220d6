"""What a section of the report consists of: words, tables and figures. Knows no HTML but the charts it is handed.

An interval is the mapping {"value", "low", "high"}; undefined numbers are None and shown as a dash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

Cell = str | int | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph; `...` in backticks is set as code."""

    text: str
    kind: Literal["plain", "quiet", "verdict", "warning"] = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under their heads; the first cell of a row names it. `foot` are rows of summaries."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its caption and the names of its lines, in the order of their styles."""

    caption: str
    picture: Markup
    legend: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """Charts side by side."""

    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the report; `title` is its heading, `key` its place in the page."""

    key: str
    title: str
    blocks: Sequence[Words | Table | Figures]


def spoken(name: str) -> str:
    """A finding or a column as words."""
    return name.replace("_", " ")


def notes(document: Mapping[str, Any]) -> list[Words]:
    """What a study says about itself, as quiet paragraphs."""
    return [Words(text, "quiet") for text in document["notes"]]


def absent(key: str, title: str, command: str) -> Section:
    """The section of a study that was not made: which command makes it."""
    return Section(key, title, [Words(f"Not part of this report; {command}.", "quiet")])
