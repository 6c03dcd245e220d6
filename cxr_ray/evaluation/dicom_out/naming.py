"""What all objects for the PACS share: UIDs that follow from what an object says, its maker, its dates, its bytes.

The same scores give the same UIDs and the same bytes, so that sending an export twice leaves one copy in the PACS.
"""

import io
import uuid
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from cxr_ray import __version__

LAYOUT = 1
"""Raise by one with any change of what the objects hold: it is part of every UID, for a UID is one content for good."""

MAKER = "cxr-ray"
NOTICE = "Research software, not for diagnostic use"
UTF_8 = "ISO_IR 192"

_DATES = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("PresentationCreationDate", "PresentationCreationTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)


def unique(kind: str, ensemble_digest: str, *about: str) -> str:
    """The UID of what `kind` of object says of `about`, by one ensemble. Source: PS3.5 B.2, RFC 4122 4.3."""
    name = "/".join((MAKER, str(LAYOUT), kind, ensemble_digest, *about))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def equipment(ensemble_digest: str) -> dict[str, Any]:
    """Who made it, as highdicom's keyword arguments: the ensemble takes the place of a serial number."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": ensemble_digest,
    }


def stamp(made: Dataset, identification: Dataset, *, scored_at: datetime) -> None:
    """Put patient and study of the source, and the time of scoring (UTC), into an object made without.

    highdicom never sees the identification: it logs a name it does not like and refuses a date that is none.
    """
    made.SpecificCharacterSet = UTF_8
    made.update(identification)
    moment = scored_at.astimezone(UTC)
    for date, time in _DATES:
        if date in made:
            setattr(made, date, moment.strftime("%Y%m%d"))
            setattr(made, time, moment.strftime("%H%M%S"))
    for item in made.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S+0000")


def file_bytes(made: Dataset) -> bytes:
    """The object as a DICOM file."""
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
