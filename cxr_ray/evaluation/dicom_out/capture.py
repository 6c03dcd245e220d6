"""The heat map of one finding as a Secondary Capture: the film in colour above a strip of words and the scale.

Source: PS3.3 A.8.1. Nothing is written over the film itself.
"""

import io

import numpy as np
from highdicom import sc
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from cxr_ray.evaluation.dicom_out.codes import spoken
from cxr_ray.evaluation.dicom_out.naming import MAKER, NOTICE, equipment, stamp, unique
from cxr_ray.evaluation.dicom_out.scores import Answer
from cxr_ray.evaluation.dicom_out.source import Shown, Source
from cxr_ray.evaluation.report.overlay import heat_on_film, heat_png, picture_size, scale_png
from cxr_ray.scoring.table import Contract

SERIES_NUMBER = 9102
KIND = "sc"
SIDE = 1024  # pixels of the film's longer side: 3 MB uncompressed, which every viewer shows
_LEAST_WIDTH = 680  # pixels that the words need
_MARGIN, _GAP, _ARM = 12, 6, 8
_HEADING, _LINE = 26, 17  # pixels
_WHITE, _GREY = (255, 255, 255), (190, 190, 190)
_SCALE_WIDTH, _SCALE_HEIGHT = 200, 14
_OPACITY = 0.5  # a reader has to see the film under the hottest spot, too, and a capture has no slider


def capture_uid(contract: Contract, sop_instance_uid: str, finding: str) -> str:
    """The capture's SOP Instance UID."""
    return unique(KIND, contract.ensemble_digest, sop_instance_uid, finding)


def secondary_capture(source: Source, shown: Shown, answer: Answer, contract: Contract) -> Dataset:
    """The capture of one finding that has a heat map."""
    digest, sop = contract.ensemble_digest, source.image.sop_instance_uid
    made: Dataset = sc.SCImage(
        pixel_array=picture(source, shown, answer, contract),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.image.study_instance_uid,
        series_instance_uid=unique("sc series", digest, sop),
        series_number=SERIES_NUMBER,
        sop_instance_uid=capture_uid(contract, sop, answer.finding),
        instance_number=1 + contract.findings.index(answer.finding),
        series_description=f"{MAKER} heat maps (research, not for diagnosis)",
        **equipment(digest),
    )
    made.PatientOrientation = source.reference.get("PatientOrientation") or None
    made.Laterality = source.laterality
    made.DerivationDescription = f"{NOTICE}: heat map of {spoken(answer.finding)} over the film"
    made.ImageComments = NOTICE
    made.BurnedInAnnotation = "YES" if source.reference.get("BurnedInAnnotation") == "YES" else "NO"
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in source.reference:
            made[keyword] = source.reference[keyword]
    made.SourceImageSequence = [_refers_to(source)]
    stamp(made, source.identification, scored_at=source.image.scored_at)
    return made


def _refers_to(source: Source) -> Dataset:
    """The item that names the film. Source: PS3.3 10.3, PS3.16 CID 7202."""
    purpose, item = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.ReferencedSOPClassUID = source.reference.SOPClassUID
    item.ReferencedSOPInstanceUID = source.image.sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def picture(source: Source, shown: Shown, answer: Answer, contract: Contract) -> NDArray[np.uint8]:
    """RGB (h, w, 3): the film with its heat map, and below it the strip."""
    assert answer.heatmap is not None
    film = _film(source, shown, answer.heatmap, contract)
    if answer.peak is not None:
        _cross(film, answer.peak, film.height / source.image.rows)
    strip = _strip(max(film.width, _LEAST_WIDTH), answer, contract)
    whole = Image.new("RGB", (strip.width, film.height + strip.height))
    whole.paste(film, ((strip.width - film.width) // 2, 0))
    whole.paste(strip, (0, film.height))
    return np.asarray(whole)


def _film(source: Source, shown: Shown, heatmap: bytes, contract: Contract) -> Image.Image:
    """The film under its heat map."""
    size = (source.image.rows, source.image.columns)
    height, width = picture_size(*size, side=SIDE)
    grey = Image.fromarray((np.clip(shown.pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    film = grey.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    cells = np.frombuffer(heatmap, np.uint8).reshape(contract.grid, contract.grid)
    heat = heat_on_film(cells, source.image.placement, model_side=contract.size, film=size, side=SIDE)
    layer = _opened(heat_png(heat))
    layer.putalpha(layer.getchannel("A").point(lambda alpha: round(alpha * _OPACITY)))
    return Image.alpha_composite(film, layer).convert("RGB")


def _cross(film: Image.Image, peak: tuple[float, float], scale: float) -> None:
    """A small cross at the peak (row, column of the original): its colour alone is pale on a bright film."""
    draw, row, column = ImageDraw.Draw(film), peak[0] * scale, peak[1] * scale
    for colour, width in (((0, 0, 0), 3), (_WHITE, 1)):
        draw.line((column - _ARM, row, column + _ARM, row), fill=colour, width=width)
        draw.line((column, row - _ARM, column, row + _ARM), fill=colour, width=width)


def _strip(width: int, answer: Answer, contract: Contract) -> Image.Image:
    """Finding, numbers, notice and scale, white on black."""
    heading, small = ImageFont.load_default(_HEADING), ImageFont.load_default(_LINE)
    rows = [_MARGIN, _MARGIN + _HEADING + _GAP, _MARGIN + _HEADING + _LINE + 2 * _GAP]
    rows.append(rows[-1] + _LINE + _GAP)
    strip = Image.new("RGB", (width, rows[-1] + _LINE + _MARGIN))
    draw = ImageDraw.Draw(strip)
    room = width - _SCALE_WIDTH - 3 * _MARGIN
    draw.text((_MARGIN, rows[0]), _fitting(spoken(answer.finding), heading, room), fill=_WHITE, font=heading)
    numbers = f"Probability {answer.probability:.2f} (threshold {answer.threshold:.2f})"
    draw.text((_MARGIN, rows[1]), numbers, fill=_WHITE, font=small)
    votes = f"{answer.votes} of {len(contract.members)} members at or above their threshold, spread {answer.spread:.2f}"
    draw.text((_MARGIN, rows[2]), votes, fill=_WHITE, font=small)
    maker = f"{NOTICE}. {MAKER}, ensemble {contract.ensemble_digest}"
    draw.text((_MARGIN, rows[3]), _fitting(maker, small, width - 2 * _MARGIN), fill=_GREY, font=small)
    left = width - _SCALE_WIDTH - _MARGIN
    scale = _opened(scale_png()).resize((_SCALE_WIDTH, _SCALE_HEIGHT), Image.Resampling.NEAREST)
    strip.paste(Image.alpha_composite(Image.new("RGBA", scale.size, (0, 0, 0, 255)), scale), (left, rows[0] + _GAP))
    below = rows[0] + _GAP + _SCALE_HEIGHT + _GAP
    draw.rectangle((left - 1, rows[0] + _GAP - 1, left + _SCALE_WIDTH, below - _GAP), outline=_GREY)
    draw.text((left, below), "0", fill=_GREY, font=small)
    draw.text((left + _SCALE_WIDTH / 2, below), "relative heat", fill=_GREY, font=small, anchor="ma")
    draw.text((left + _SCALE_WIDTH, below), "1", fill=_GREY, font=small, anchor="ra")
    return strip


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """The text, cut where it would run out of its room."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text}..."


def _opened(png: bytes) -> Image.Image:
    """A PNG with its opacity."""
    return Image.open(io.BytesIO(png)).convert("RGBA")
