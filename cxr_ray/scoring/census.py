"""Counting what the headers of an archive tell. Memory does not grow with the number of objects.

Knows no files; what one header tells is said in images/dicom/survey.py.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from cxr_ray.errors import FAULT_MEANINGS, Fault
from cxr_ray.images.dicom.attributes import name_of_uid
from cxr_ray.images.dicom.codecs import UNCOMPRESSED
from cxr_ray.images.dicom.survey import PACKAGES, Survey
from cxr_ray.scoring.headers import Scanned
from cxr_ray.storage import is_remote

NOT_STATED = "not stated"
_ATTRIBUTES: dict[str, Callable[[Survey], object]] = {
    "format": lambda found: found.format or "none of DICOM, PNG, JPEG, TIFF",
    "transfer_syntax": lambda found: found.transfer_syntax_uid,
    "modality": lambda found: found.modality,
    "view": lambda found: found.view_position,
    "body_part": lambda found: found.body_part_examined,
    "manufacturer": lambda found: found.vendor,
    "photometric_interpretation": lambda found: found.photometric_interpretation,
    "bits_stored": lambda found: found.bits_stored,
}
_PERCENTILES = (5, 50, 95)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SIZE_STEP = 1_000  # pixels: sizes are counted in thousandths of a megapixel


@dataclass(slots=True)
class Census:
    """Counts over all objects added. `counts` has one counter for each attribute, of DICOM alone but for `format`."""

    objects: int = 0
    bytes: int = 0
    bytes_read: int = 0
    requests: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _ATTRIBUTES})
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    undecodable: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    largest: int = 0
    scored_megapixels: dict[str, float] = field(default_factory=dict)
    bytes_by_place: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    @property
    def scored(self) -> int:
        """Objects of which no fault is expected."""
        return self.objects - self.faults.total()

    def add(self, row: Scanned) -> None:
        """Count one object."""
        found = row.survey
        self.objects += 1
        self.bytes += row.size
        self.bytes_read += row.bytes_read
        self.requests += row.requests
        self.bytes_by_place["s3" if is_remote(row.uri) else "local"] += row.size
        for name, value_of in _ATTRIBUTES.items():
            if name == "format" or found.format == "dicom":
                value = value_of(found)
                self.counts[name][NOT_STATED if value is None else str(value)] += 1
        self._add_size(found)
        if found.expected_fault:
            self._add_fault(found, row.uri)
        else:
            self._add_scored(found)

    def _add_size(self, found: Survey) -> None:
        """Count the pixels, of what has any."""
        pixels = (found.rows or 0) * (found.columns or 0)
        if pixels > 0:
            self.sizes[pixels // _SIZE_STEP] += 1
            self.largest = max(self.largest, pixels)

    def _add_fault(self, found: Survey, uri: str) -> None:
        """Count an expected fault, and keep the first object that has it."""
        fault = str(found.expected_fault)
        self.faults[fault] += 1
        self.examples.setdefault(fault, uri)
        if found.expected_fault is Fault.UNSUPPORTED_ENCODING and found.transfer_syntax_uid:
            self.undecodable[found.transfer_syntax_uid] += 1

    def _add_scored(self, found: Survey) -> None:
        """Count what will be decoded, and what of it no header tells."""
        kind = found.transfer_syntax_uid or found.format or NOT_STATED
        megapixels = (found.rows or 0) * (found.columns or 0) / 1e6
        self.scored_megapixels[kind] = self.scored_megapixels.get(kind, 0.0) + megapixels
        if (found.samples_per_pixel or 1) > 1 or found.photometric_interpretation not in (None, *_GREY):
            self.unread["colour"] += 1
        if found.format != "dicom" or found.transfer_syntax_uid not in UNCOMPRESSED:
            self.unread["codestream"] += 1

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain values, the most frequent first."""
        return {
            "objects": self.objects,
            "bytes": self.bytes,
            "headers": {"bytes": self.bytes_read, "requests": self.requests},
            **{name: dict(counts.most_common()) for name, counts in self.counts.items()},
            "transfer_syntax_names": {
                uid: name_of_uid(uid) for uid in self.counts["transfer_syntax"] if uid[0].isdigit()
            },
            "megapixels": self.megapixels(),
            "expected": {"scored": self.scored, "faulted": self.faults.total()},
            "expected_faults": {
                fault: {"count": count, "meaning": FAULT_MEANINGS[Fault(fault)], "example": self.examples[fault]}
                for fault, count in self.faults.most_common()
            },
            "undecodable": {
                uid: {"name": name_of_uid(uid), "count": count, "package": PACKAGES.get(uid)}
                for uid, count in self.undecodable.most_common()
            },
            "not_checked": self.not_checked(),
        }

    def megapixels(self) -> dict[str, float]:
        """Percentiles of the sizes, to a thousandth, and the largest; empty where nothing has a size."""
        if not self.sizes:
            return {}
        found = {f"p{percent}": self._percentile(percent) for percent in _PERCENTILES}
        return found | {"largest": round(self.largest / 1e6, 3)}

    def _percentile(self, percent: int) -> float:
        """The size that `percent` of the images do not exceed."""
        steps = sorted(self.sizes)
        seen = accumulate(self.sizes[step] for step in steps)
        rank = percent / 100 * self.sizes.total()
        found = next(step for step, count in zip(steps, seen, strict=True) if count >= rank)
        return round(found * _SIZE_STEP / 1e6, 3)

    def not_checked(self) -> list[str]:
        """What only reading and decoding the whole objects will tell, one sentence each."""
        sentences = ["Whether an image is blank, flat or a page of text is seen in its pixels only."]
        if self.unread["codestream"]:
            sentences.append(f"{self.unread['codestream']:,} compressed images may be damaged behind their headers.")
        if self.unread["colour"]:
            sentences.append(f"{self.unread['colour']:,} images in colour encodings score only if they show grey.")
        return sentences

    def lines(self) -> list[str]:
        """The counts for a person."""
        lines = []
        for name, counts in self.counts.items():
            if counts:
                lines += [
                    name.replace("_", " "),
                    *(f"{count:>12,}  {_shown(value)}" for value, count in counts.most_common()),
                ]
        sizes = self.megapixels()
        if sizes:
            lines.append("megapixels")
            lines.append("              " + ", ".join(f"{name} {size:g}" for name, size in sizes.items()))
        lines.append(f"expected to be scored: {self.scored:,} of {self.objects:,}; expected faults")
        lines += [f"{n:>12,}  {fault}, e.g. {self.examples[fault]}" for fault, n in self.faults.most_common()]
        lines += [] if self.faults else ["           0"]
        lines.append("cannot be decoded here")
        lines += [f"{n:>12,}  {_shown(uid)}: {_remedy(uid)}" for uid, n in self.undecodable.most_common()]
        lines += [] if self.undecodable else ["           0"]
        return [*lines, "not checked in headers", *(f"              {line}" for line in self.not_checked())]


def _shown(value: str) -> str:
    """A value for a person: a UID with its name."""
    return f"{name_of_uid(value)} ({value})" if value.startswith(("1.", "2.")) else value


def _remedy(uid: str) -> str:
    """What makes a transfer syntax readable."""
    package = PACKAGES.get(uid)
    return f"pip install {package}" if package else "no package with a permissive licence reads it; convert the files"
