"""Codes of findings and measurements: the standard's and SNOMED CT's where they exist, else the scheme 99CXRRAY."""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

from cxr_ray.labels.findings import column_suffix

PRIVATE = "99CXRRAY"

# SCT and DCM codes that PS3.16 uses (CID 6102 and its parts, 645, 3700) are given in its words; the others are
# disorders of SNOMED CT. A finding that is not meant so (a sign of several diseases, say) stays private.
_FINDINGS = {
    "atelectasis": ("46621007", "SCT", "Atelectasis"),
    "cardiomegaly": ("8186001", "SCT", "Cardiomegaly"),
    "consolidation": ("95436008", "SCT", "Lung consolidation"),
    "edema": ("19242006", "SCT", "Pulmonary edema"),
    "effusion": ("60046008", "SCT", "Pleural effusion"),
    "emphysema": ("87433001", "SCT", "Pulmonary emphysema"),
    "fibrosis": ("51615001", "SCT", "Fibrosis of lung"),
    "infiltration": ("112121", "DCM", "Infiltrate"),
    "lung_opacity": ("112001", "DCM", "Opacity"),
    "mass": ("4147007", "SCT", "Mass"),
    "nodule": ("27925004", "SCT", "Nodule"),
    "pacemaker": ("14106009", "SCT", "Cardiac pacemaker"),
    "pleural_effusion": ("60046008", "SCT", "Pleural effusion"),
    "pneumonia": ("233604007", "SCT", "Pneumonia"),
    "pneumothorax": ("36118008", "SCT", "Pneumothorax"),
}

PROBABILITY = CodedConcept("122157", "DCM", "Probability")
THRESHOLD = CodedConcept("122411", "DCM", "Threshold Value")
VOTES = CodedConcept("VOTES", PRIVATE, "Ensemble members at or above their threshold")
SPREAD = CodedConcept("SPREAD", PRIVATE, "Standard deviation of the members' probabilities")
DECISION = CodedConcept("DECISION", PRIVATE, "Probability against threshold")
AT_OR_ABOVE = CodedConcept("ATORABOVE", PRIVATE, "At or above threshold")
BELOW = CodedConcept("BELOW", PRIVATE, "Below threshold")

NO_UNIT = CodedConcept("1", "UCUM", "no units")
MEMBERS = CodedConcept("{members}", "UCUM", "members")
PLAIN_RADIOGRAPHY = CodedConcept("168537006", "SCT", "Plain radiography")


def finding_code(finding: str) -> CodedConcept:
    """The code of a finding by its name; a private one carries the name as its value as far as 16 characters reach."""
    known = _FINDINGS.get(column_suffix(finding).lower())
    return CodedConcept(*known) if known else CodedConcept(*_private(finding))


def _private(finding: str) -> tuple[str, str, str]:
    """Value, scheme and meaning of a finding without a public code; long values are legal (PS3.3 8.8, Long Code)."""
    return column_suffix(finding), PRIVATE, spoken(finding)[:64]


def spoken(finding: str) -> str:
    """The finding as people read it."""
    return finding.replace("_", " ")


def schemes() -> list[CodingSchemeIdentificationItem]:
    """The declaration of the private scheme."""
    return [
        CodingSchemeIdentificationItem(
            PRIVATE, name="cxr-ray findings and measures", responsible_organization="cxr-ray"
        )
    ]
