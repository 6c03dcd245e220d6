"""From what vendors and technicians write to fixed codes of body part, view and species.

Pure functions over the tables of terms.py: of a text nothing but codes of these tables comes back, so a name or a
comment cannot pass. Knows no header, no parser and no setting.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cxr_ray.images.dicom.terms import ANIMALS, BODY_PARTS, FRONTAL_VIEWS, HUMAN_WORDS, LATERAL_VIEWS, SILENT, VIEWS

OTHER = "OTHER"
"""Stands for a value that is present and in no vocabulary."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+")  # kana and han, written without blanks
_WORD = re.compile(r"[^\W\d_]+|\d+")
_UNDECOMPOSED = {0x141: "L", 0xD8: "O", 0x110: "D", 0x131: "I"}  # letters with strokes, and the dotless i
_LONGEST_TEXT = 2048  # characters of one text that are looked at

Meaning = tuple[str, str]
"""Category (`body`, `view`, `animal`, `silent` or `unknown`) and code."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a text says, in codes of terms.py.

    `body_part` and `view` are None where the text names none, or several that do not make one. `silent` says that
    there was nothing to understand: no word, or only words such as UNKNOWN and ERECT. `animal` is SPECIES for words
    such as CANINE, CREATURE for those such as HORSE, which may also have kicked the patient.
    """

    body_part: str | None = None
    view: str | None = None
    animal: str | None = None
    silent: bool = True


def read(text: str) -> Said:
    """What a vendor's or a technician's text says: whole words, free of case, accents and punctuation."""
    found = tuple(_found(_words(text[:_LONGEST_TEXT])))
    animals = _of(found, "animal")
    return Said(
        body_part=_one_body_part(_of(found, "body")),
        view=_one_view(_of(found, "view")),
        animal="SPECIES" if "SPECIES" in animals else next(iter(animals), None),
        silent=all(category == "silent" for category, _ in found),
    )


def code_among(text: str, terms: frozenset[str]) -> str | None:
    """The defined term `text` is, whatever its case; None when empty, OTHER when it is none of `terms`."""
    code = text.strip().upper()
    return (code if code in terms else OTHER) if code else None


def names_human(text: str) -> bool:
    """Whether a species or breed is that of man."""
    return not HUMAN_WORDS.isdisjoint(_words(text))


def _words(text: str) -> tuple[str, ...]:
    """Capital words without accents and punctuation; letters and digits are words apart (W033TORAX)."""
    spread = _UNSPACED.sub(_around_terms, text)
    plain = "".join(mark for mark in unicodedata.normalize("NFKD", spread) if not unicodedata.combining(mark))
    return tuple(_WORD.findall(plain.upper().translate(_UNDECOMPOSED)))


def _around_terms(run: re.Match[str]) -> str:
    """A run of Chinese or Japanese with blanks around the terms that are known."""
    return _UNSPACED_TERMS.sub(lambda term: f" {term.group()} ", run.group())


def _phrases() -> Iterator[tuple[str, Meaning]]:
    """Every phrase of the tables as written there, with its meaning."""
    for category, table in (("body", BODY_PARTS), ("view", VIEWS), ("animal", ANIMALS), ("silent", SILENT)):
        for code, phrases in table.items():
            for phrase in phrases.split(","):
                yield phrase.strip(), (category, code)


_UNSPACED_TERMS = re.compile(
    "|".join(sorted((phrase for phrase, _ in _phrases() if _UNSPACED.fullmatch(phrase)), key=len, reverse=True))
)
_MEANINGS = {_words(phrase): meaning for phrase, meaning in _phrases()}
_MOST_WORDS = max(map(len, _MEANINGS))


def _found(words: tuple[str, ...]) -> Iterator[Meaning]:
    """The meaning of each phrase in `words`, the longest first, so that THORACIC SPINE is no thorax."""
    start = 0
    while start < len(words):
        for length in range(min(_MOST_WORDS, len(words) - start), 0, -1):
            meaning = _MEANINGS.get(words[start : start + length])
            if meaning:
                yield meaning
                break
        else:
            yield from _compound(words[start])
        start += length


def _compound(word: str) -> Iterable[Meaning]:
    """A body part and a view written as one word (CHESTPA, LATTHORAX): 16 characters leave little room for blanks.

    Numbers and single letters mean nothing here; any other word is unknown.
    """
    for cut in range(2, len(word) - 1):
        parts = [_MEANINGS.get((part,)) for part in (word[:cut], word[cut:])]
        if {part[0] for part in parts if part} == {"body", "view"}:
            return [part for part in parts if part]
    return () if word.isdigit() or len(word) == 1 else [("unknown", OTHER)]


def _of(found: tuple[Meaning, ...], category: str) -> list[str]:
    """The codes of one category, each once, in their order."""
    return list(dict.fromkeys(code for kind, code in found if kind == category))


def _one_body_part(codes: list[str]) -> str | None:
    """The one body part that `codes` make together, None if they do not. Source: PS3.16 Annex L for the unions."""
    parts = set(codes)
    if parts > {"CHEST"} or {"LUNG", "HEART"} <= parts:
        parts = parts - {"LUNG", "HEART", "MEDIASTINUM"} | {"CHEST"}
    unions = {
        frozenset(("CHEST", "ABDOMEN")): "CHESTABDOMEN",
        frozenset(("CHEST", "ABDOMEN", "PELVIS")): "CHESTABDPELVIS",
        frozenset(("CHEST", "NECK")): "NECKCHEST",
    }
    return next(iter(parts)) if len(parts) == 1 else unions.get(frozenset(parts))


def _one_view(codes: list[str]) -> str | None:
    """The one view that `codes` make together, None if they do not: PA AND LATERAL are two films.

    Whatever is neither frontal nor lateral wins: LATERAL OBLIQUE is an oblique, AP DECUBITUS a decubitus.
    """
    laterals = [code for code in codes if code in LATERAL_VIEWS]
    frontals = [code for code in codes if code in FRONTAL_VIEWS]
    special = [code for code in codes if code not in (*LATERAL_VIEWS, *FRONTAL_VIEWS)]
    if laterals and frontals and not special:
        return None
    if {"PA", "AP"} <= set(codes) and not special:
        return "FRONTAL"
    return next(iter([*special, *laterals, *frontals]), None)
