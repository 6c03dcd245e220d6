"""One grayscale presentation state per image: box, peak and text of what was found, over the film as it was scored.

Source: PS3.3 A.33.1, C.10.5 (graphics), C.11.6 (presentation LUT).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import VOILUT, PresentationLUTTransformation, pr
from pydicom.dataset import Dataset

from cxr_ray.evaluation.dicom_out import codes
from cxr_ray.evaluation.dicom_out.naming import MAKER, NOTICE, equipment, stamp, unique
from cxr_ray.evaluation.dicom_out.report import outline
from cxr_ray.evaluation.dicom_out.scores import Answer
from cxr_ray.evaluation.dicom_out.source import Shown, Source
from cxr_ray.images.transfer import Lut
from cxr_ray.scoring.table import Contract

SERIES_NUMBER = 9103
KIND = "pr"
LABEL = "CXR_RAY"


def state_uid(contract: Contract, sop_instance_uid: str) -> str:
    """The presentation state's SOP Instance UID."""
    return unique(KIND, contract.ensemble_digest, sop_instance_uid)


def presentation_state(source: Source, shown: Shown, contract: Contract) -> Dataset:
    """The state of one grey film; its findings with a place each have a layer, which viewers switch on and off."""
    digest, sop = contract.ensemble_digest, source.image.sop_instance_uid
    placed = source.image.placed
    layers = [
        pr.GraphicLayer(f"FINDING_{order}", order=order, description=codes.spoken(answer.finding)[:64])
        for order, answer in enumerate(placed, start=1)
    ]
    shape = "INVERSE" if shown.inverted else "IDENTITY"
    made: Dataset = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[source.reference],
        series_instance_uid=unique("pr series", digest, sop),
        series_number=SERIES_NUMBER,
        sop_instance_uid=state_uid(contract, sop),
        instance_number=1,
        content_label=LABEL,
        content_description=NOTICE,
        graphic_layers=layers,
        graphic_annotations=[
            _annotation(source, answer, layer, contract) for answer, layer in zip(placed, layers, strict=True)
        ],
        voi_lut_transformations=_voi(source.reference, shown),
        presentation_lut_transformation=PresentationLUTTransformation(presentation_lut_shape=shape),
        series_description=f"{MAKER} boxes (research, not for diagnosis)",
        **equipment(digest),
    )
    made.Laterality = source.laterality
    stamp(made, source.identification, scored_at=source.image.scored_at)
    return made


def _annotation(source: Source, answer: Answer, layer: pr.GraphicLayer, contract: Contract) -> pr.GraphicAnnotation:
    """Box, peak and text of one finding."""
    assert answer.box is not None
    top, left, _, _ = answer.box
    graphics = [_graphic("POLYLINE", outline(answer.box))]
    if answer.peak is not None:
        graphics.append(_graphic("POINT", np.array([[answer.peak[1], answer.peak[0]]])))
    text = pr.TextObject(
        text_value=f"{caption(answer, contract)}. {NOTICE}.",
        units=pr.AnnotationUnitsValues.PIXEL,
        anchor_point=(left, top),
        anchor_point_visible=False,
    )
    return pr.GraphicAnnotation(
        referenced_images=[source.reference], graphic_layer=layer, graphic_objects=graphics, text_objects=[text]
    )


def _graphic(kind: str, points: np.ndarray) -> pr.GraphicObject:
    """Points (N, 2) of (column, row)."""
    return pr.GraphicObject(graphic_type=kind, graphic_data=points, units=pr.AnnotationUnitsValues.PIXEL)


def caption(answer: Answer, contract: Contract) -> str:
    """What is written beside a finding."""
    votes = f"{answer.votes} of {len(contract.members)} members"
    return f"{codes.spoken(answer.finding)}: probability {answer.probability:.2f}, {votes}"


def _voi(reference: Dataset, shown: Shown) -> Sequence[pr.SoftcopyVOILUTTransformation]:
    """The grey range that was scored: the source's first table or window, or the one that percentiles gave."""
    options: dict[str, Any]
    if shown.table is not None:
        options = {"voi_luts": [_table(shown.table)]}
    elif shown.window is not None:
        options = {"window_center": _number(shown.window[0]), "window_width": _number(shown.window[1])}
    else:
        center, width = (_first(reference[keyword].value) for keyword in ("WindowCenter", "WindowWidth"))
        function = reference.get("VOILUTFunction") or None
        options = {"window_center": center, "window_width": width, "voi_lut_function": function}
    return [pr.SoftcopyVOILUTTransformation(**options)]


def _table(table: Lut) -> VOILUT:
    """A VOI LUT with entries of 16 bits, for a presentation state takes 8 and 16 only. Source: PS3.3 C.11.8.1."""
    grey = table.show(table.first + np.arange(table.entries.size, dtype=np.float64))
    return VOILUT(first_mapped_value=int(table.first), lut_data=np.rint(grey * 65535.0).astype(np.uint16))


def _first(value: Any) -> float:
    """The first of several windows' numbers, or the only one."""
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)


def _number(value: float) -> float:
    """A number that fits into the 16 characters of a DS."""
    return float(f"{value:.9g}")
