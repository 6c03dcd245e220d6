"""From what vendors and technicians write to fixed codes of body part, view and species.

Pure functions over the tables of terms.py: of a text nothing but codes of these tables comes back, so a name or a
comment cannot pass. Knows no header, no parser and no setting.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from cxr_ray.images.dicom import terms
from cxr_ray.images.dicom.terms import FRONTAL_VIEWS, LATERAL_VIEWS

OTHER = "OTHER"
"""Stands for a value that is present and in no vocabulary."""

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+")  # kana and han, written without blanks
_WORD = re.compile(r"[^\W\d_]+|\d+")
_UNDECOMPOSED = {0x141: "L", 0xD8: "O", 0x110: "D", 0x131: "I"}  # letters with strokes, and the dotless i
_LONGEST_TEXT = 2048  # characters of one text that are looked at
_LEAST_LETTERS = 4  # of a word that is understood with an ending or inside of a longer one
_PREFIXES = ("RX", "XR")
_CHEST_PARTS = ("CHEST", "LUNG", "HEART", "MEDIASTINUM")
_UNIONS = {
    frozenset(("CHEST", "ABDOMEN")): "CHESTABDOMEN",
    frozenset(("CHEST", "ABDOMEN", "PELVIS")): "CHESTABDPELVIS",
    frozenset(("CHEST", "NECK")): "NECKCHEST",
}

Meaning = tuple[str, str]
"""Category (`body`, `foot`, `view`, `animal`, `silent` or `unknown`) and code; `foot` may also mean standing."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a text says, in codes of terms.py.

    `body_part` is None where the text names none, `view` also where it names several that do not make one. `silent`
    says that there was nothing to understand: no word, or only words such as UNKNOWN and ERECT. `animal` is a code of
    terms.ANIMALS, the first of SPECIES, CREATURE and BREED.
    """

    body_part: str | None = None
    view: str | None = None
    animal: str | None = None
    silent: bool = True


def read(text: str) -> Said:
    """What a vendor's or a technician's text says: whole words, free of case, accents and punctuation."""
    return _said(_words(text[:_LONGEST_TEXT]))


def read_view_position(text: str) -> Said:
    """What a text says that is to name a view: as `read`, and words cut off or misspelt (LATERL, LORD), or L alone.

    Such beginnings would mean too much elsewhere; here hardly anything but views and poses is written.
    """
    words = _words(text[:_LONGEST_TEXT])
    if words in _VIEW_POSITIONS:
        return Said(view=_VIEW_POSITIONS[words], silent=False)
    spelt_out = (word if (word,) in _MEANINGS else _stem_of(word, _VIEW_STEMS) or word for word in words)
    return _said(tuple(spelt_out))


def code_among(text: str, terms: frozenset[str]) -> str | None:
    """The defined term `text` is, whatever its case; None when empty, OTHER when it is none of `terms`."""
    code = text.strip().upper()
    return (code if code in terms else OTHER) if code else None


def names_human(text: str) -> bool:
    """Whether a species or breed is that of man."""
    return not terms.HUMAN_WORDS.isdisjoint(_words(text))


def _said(words: tuple[str, ...]) -> Said:
    """What the words of a text say together."""
    found = tuple(_found(words))
    body_parts, views, animals = (_of(found, category) for category in ("body", "view", "animal"))
    if not set(body_parts) & set(_CHEST_PARTS):
        body_parts += _of(found, "foot")
    ending = next((_ENDINGS[words[-size:]] for size in (2, 1) if words[-size:] in _ENDINGS), None)
    return Said(
        body_part=_one_body_part(body_parts),
        view=_one_view([*views, ending] if ending else views),
        animal=next((code for code in terms.ANIMALS if code in animals), None),
        silent=all(category == "silent" for category, _ in found),
    )


def _words(text: str) -> tuple[str, ...]:
    """Capital words without accents and punctuation; letters and digits are words apart (W033TORAX)."""
    spread = _UNSPACED.sub(_around_terms, text)
    plain = "".join(mark for mark in unicodedata.normalize("NFKD", spread) if not unicodedata.combining(mark))
    return tuple(_WORD.findall(plain.upper().translate(_UNDECOMPOSED)))


def _around_terms(run: re.Match[str]) -> str:
    """A run of Chinese or Japanese with blanks around the terms that are known."""
    return _UNSPACED_TERMS.sub(lambda term: f" {term.group()} ", run.group())


def _entries(table: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every phrase of a table as written there, with its code."""
    for code, phrases in table.items():
        for phrase in phrases.split(","):
            yield phrase.strip(), code


def _phrases() -> Iterator[tuple[str, Meaning]]:
    """Every phrase that is understood wherever it stands, with its meaning."""
    tables = {
        "body": terms.BODY_PARTS,
        "foot": terms.STANDING_OR_FOOT,
        "view": terms.VIEWS,
        "animal": terms.ANIMALS,
        "silent": terms.SILENT,
    }
    for category, table in tables.items():
        for phrase, code in _entries(table):
            yield phrase, (category, code)


def _stems(table: dict[str, str]) -> dict[str, str]:
    """Stem to code, the longest first, so that a Kniescheibe is no knee."""
    stems = {_words(stem)[0]: code for stem, code in _entries(table)}
    return dict(sorted(stems.items(), key=lambda item: len(item[0]), reverse=True))


def _stem_of(word: str, stems: dict[str, str]) -> str | None:
    """The code of the longest stem that `word` begins with."""
    return next((code for stem, code in stems.items() if word.startswith(stem)), None)


_UNSPACED_TERMS = re.compile(
    "|".join(sorted((phrase for phrase, _ in _phrases() if _UNSPACED.fullmatch(phrase)), key=len, reverse=True))
)
_MEANINGS = {_words(phrase): meaning for phrase, meaning in _phrases()}
_MOST_WORDS = max(map(len, _MEANINGS))
_ENDINGS = {_words(phrase): code for phrase, code in _entries(terms.VIEW_ENDINGS)}
_VIEW_POSITIONS = {_words(phrase): code for phrase, code in _entries(terms.VIEW_POSITIONS)}
_BODY_STEMS, _VIEW_STEMS = _stems(terms.BODY_PART_STEMS), _stems(terms.VIEW_POSITION_STEMS)


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
            yield from _unlisted(words[start])
        start += length


def _unlisted(word: str) -> list[Meaning]:
    """The meanings of a word that is in no table: composed of two, a plural, or the beginning of a longer word.

    Numbers and single letters mean nothing here; any other word is unknown.
    """
    if word.isdigit() or len(word) == 1:
        return []
    stem = _stem_of(word, _BODY_STEMS)
    return _compound(word) or _plural(word) or [("body", stem) if stem else ("unknown", OTHER)]


def _compound(word: str) -> list[Meaning]:
    """A body part and a view, or a word that says nothing, written as one (CHESTPA, LATTHORAX, RXTORAX).

    16 characters leave little room for blanks.
    """
    for cut in range(2, len(word) - 1):
        halves = (word[:cut], word[cut:])
        parts = [(half, meaning) for half in halves if (meaning := _MEANINGS.get((half,)))]
        kinds = {category for half, (category, _) in parts if category != "silent" or _stands_out(half)}
        if kinds in ({"body", "view"}, {"body", "silent"}):
            return [meaning for _, meaning in parts]
    return []


def _stands_out(silent: str) -> bool:
    """Whether a silent word may be part of another without being there by chance, as NA and ANY are."""
    return len(silent) >= _LEAST_LETTERS or silent in _PREFIXES


def _plural(word: str) -> list[Meaning]:
    """The body part of a plural in S, ES or X: RODILLAS, GENOUX."""
    for ending in ("S", "X", "ES"):
        singular = word.removesuffix(ending)
        meaning = _MEANINGS.get((singular,))
        if len(singular) >= _LEAST_LETTERS and meaning and meaning[0] == "body":
            return [meaning]
    return []


def _of(found: tuple[Meaning, ...], category: str) -> list[str]:
    """The codes of one category, each once, in their order."""
    return list(dict.fromkeys(code for kind, code in found if kind == category))


def _one_body_part(codes: list[str]) -> str | None:
    """The one body part that `codes` make together: of the chest and another, the other, which is no plain chest film.

    Source: PS3.16 Annex L for the unions.
    """
    if len(codes) < 2:
        return next(iter(codes), None)
    others = [code for code in codes if code not in _CHEST_PARTS]
    chest = ["CHEST"] if len(others) < len(codes) else []
    return _UNIONS.get(frozenset((*chest, *others))) or next(iter([*others, *chest]))


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
