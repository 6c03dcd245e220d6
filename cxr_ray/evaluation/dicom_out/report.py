"""One structured report per study: TID 1500, a measurement group for each finding of each image.

Source: PS3.16 TID 1500, 1410 (with a region), 1501 (without), 4019 (algorithm); PS3.3 A.35.3 Comprehensive SR.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset

from cxr_ray import __version__
from cxr_ray.evaluation.dicom_out import codes
from cxr_ray.evaluation.dicom_out.naming import MAKER, NOTICE, equipment, stamp, unique
from cxr_ray.evaluation.dicom_out.scores import Answer
from cxr_ray.evaluation.dicom_out.source import Source
from cxr_ray.scoring.table import Contract

SERIES_NUMBER = 9101
KIND = "sr"


def report_uid(contract: Contract, study_instance_uid: str, sop_instance_uids: Sequence[str]) -> str:
    """The report's SOP Instance UID: another one as soon as the study has another image."""
    return unique(KIND, contract.ensemble_digest, study_instance_uid, *sorted(sop_instance_uids))


def structured_report(sources: Sequence[Source], contract: Contract) -> Dataset:
    """The report of the images of one study, of which there must be at least one."""
    digest, study = contract.ensemble_digest, sources[0].image.study_instance_uid
    made: Dataset = sr.ComprehensiveSR(
        evidence=[source.reference for source in sources],
        content=_content(sources, contract),
        series_instance_uid=unique("sr series", digest, study),
        series_number=SERIES_NUMBER,
        sop_instance_uid=report_uid(contract, study, [source.image.sop_instance_uid for source in sources]),
        instance_number=1,
        is_complete=True,
        series_description=f"{MAKER} findings (research, not for diagnosis)",
        coding_schemes=codes.schemes(),
        **equipment(digest),
    )
    stamp(made, sources[0].identification, scored_at=max(source.image.scored_at for source in sources))
    return made


def _content(sources: Sequence[Source], contract: Contract) -> sr.MeasurementReport:
    """The content tree."""
    observer = sr.ObserverContext(
        observer_type=sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=unique("device", contract.ensemble_digest),
            name=MAKER,
            manufacturer_name=MAKER,
            model_name=f"{MAKER} {__version__}",
            serial_number=contract.ensemble_digest,
        ),
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PLAIN_RADIOGRAPHY,
        imaging_measurements=[
            _group(source, answer, contract) for source in sources for answer in source.image.answers
        ],
    )


def _group(
    source: Source, answer: Answer, contract: Contract
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    """What is said of one finding in one image, with its region where there is one."""
    image = source.image
    identifier = unique("tracking", contract.ensemble_digest, image.sop_instance_uid, answer.finding)
    measured = (
        (codes.PROBABILITY, answer.probability, codes.NO_UNIT),
        (codes.THRESHOLD, answer.threshold, codes.NO_UNIT),
        (codes.VOTES, answer.votes, codes.MEMBERS),
        (codes.SPREAD, answer.spread, codes.NO_UNIT),
    )
    decision = codes.AT_OR_ABOVE if answer.present else codes.BELOW
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=identifier, identifier=codes.spoken(answer.finding)),
        "finding_type": codes.finding_code(answer.finding),
        "algorithm_id": _algorithm(contract),
        "measurements": [sr.Measurement(name=name, value=value, unit=unit) for name, value, unit in measured],
        "qualitative_evaluations": [sr.QualitativeEvaluation(name=codes.DECISION, value=decision)],
    }
    reference = (str(source.reference.SOPClassUID), image.sop_instance_uid)
    if answer.box is None:
        return sr.MeasurementsAndQualitativeEvaluations(
            source_images=[sr.SourceImageForMeasurementGroup(*reference)], **common
        )
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=outline(answer.box),
        source_image=sr.SourceImageForRegion(*reference),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **common)


def _algorithm(contract: Contract) -> sr.AlgorithmIdentification:
    """Which algorithm, down to the ensemble and its members."""
    parameters = [
        NOTICE,
        f"ensemble_digest={contract.ensemble_digest}",
        f"preprocess_digest={contract.preprocess_digest}",
        *(f"member={name}" for name in contract.members),
    ]
    return sr.AlgorithmIdentification(name=MAKER, version=__version__, parameters=parameters, manufacturer=MAKER)


def outline(box: tuple[float, float, float, float]) -> np.ndarray:
    """A box (top, left, bottom, right) as a closed line of (column, row) points.

    The score table's coordinates are DICOM's: (0, 0) is the outer corner of the first pixel.
    Source: PS3.3 C.18.6.1.2 for reports, C.10.5.1.2 for graphics.
    """
    top, left, bottom, right = box
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])
