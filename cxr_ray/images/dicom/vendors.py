"""Manufacturer, which is free text, as one of a fixed list of vendors. Knows nothing of files and of DICOM."""

import re

NOT_STATED, OTHER = "not stated", "other"

_MARKS: dict[str, tuple[str, ...]] = {
    "GE": ("ge", "gems", "gehc", "gehealthcare", "gemedical", "generalelectric"),
    "Siemens": ("siemens",),
    "Philips": ("philips", "pms"),
    "Fujifilm": ("fujifilm", "fuji"),
    "Agfa": ("agfa",),
    "Carestream": ("carestream", "kodak"),
    "Canon": ("canon", "toshiba"),
    "Konica Minolta": ("konica", "minolta"),
    "Samsung": ("samsung",),
    "Shimadzu": ("shimadzu",),
    "Hologic": ("hologic", "lorad"),
    "Varian": ("varian", "varex"),
    "Swissray": ("swissray",),
    "Del Medical": ("delmedical",),
    "Sectra": ("sectra",),
    "Lodox": ("lodox",),
    "Imaging Dynamics": ("imagingdynamics", "idc"),
    "Vieworks": ("vieworks",),
    "DRTECH": ("drtech",),
    "DRGEM": ("drgem",),
    "Rayence": ("rayence",),
    "Mindray": ("mindray",),
    "United Imaging": ("unitedimaging", "uih"),
    "Neusoft": ("neusoft",),
    "Wandong": ("wandong",),
    "iRay": ("iray",),
    "CareRay": ("careray",),
    "Hitachi": ("hitachi",),
    "Trixell": ("trixell",),
    "Oehm und Rehbein": ("oehm", "ortechnology"),
    "Stephanix": ("stephanix",),
    "Italray": ("italray",),
    "Villa": ("villasistemi",),
    "Sedecal": ("sedecal",),
    "Allengers": ("allengers",),
    "Arcoma": ("arcoma",),
    "EOS imaging": ("eosimaging",),
    "Listem": ("listem",),
    "Vidar": ("vidar",),
    "Lumisys": ("lumisys",),
}
_SHORT = 4  # letters up to which a mark must be a whole word: "ge" is in "imaging"


def vendor_of(manufacturer: str | None) -> str:
    """The vendor that the text names, whatever stands around it; `other` for any other text, which never gets out."""
    words = re.findall(r"[a-z0-9]+", (manufacturer or "").casefold())
    if not words:
        return NOT_STATED
    joined = "".join(words)
    for vendor, marks in _MARKS.items():
        if any(mark in words if len(mark) <= _SHORT else mark in joined for mark in marks):
            return vendor
    return OTHER
