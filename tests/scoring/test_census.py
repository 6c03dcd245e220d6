"""Counting surveys: what is said to be left unchecked behind the headers."""

import pytest
from pydicom import uid

from cxr_ray.images.dicom.survey import Survey
from cxr_ray.scoring.census import Census
from cxr_ray.scoring.headers import Scanned


@pytest.mark.parametrize(
    ("syntax", "damage_is_unseen"),
    [
        (uid.ImplicitVRLittleEndian, False),
        (uid.ExplicitVRLittleEndian, False),
        (uid.ExplicitVRBigEndian, False),
        (uid.DeflatedExplicitVRLittleEndian, True),
        (uid.RLELossless, True),
        (uid.JPEG2000, True),
    ],
    ids=lambda value: uid.UID(value).name if isinstance(value, str) else "",
)
def test_census_damage_behind_a_header_seen_only_where_nothing_is_compressed(syntax, damage_is_unseen):
    census = Census()
    found = Survey("dicom", transfer_syntax_uid=syntax, photometric_interpretation="MONOCHROME2")
    census.add(Scanned("a.dcm", "", 10, found))
    sentence = "1 compressed images may be damaged behind their headers."
    assert (sentence in census.not_checked()) == damage_is_unseen
