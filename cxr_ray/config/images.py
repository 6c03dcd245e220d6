"""Settings between bytes and model input: preprocessing, limits, and the gate."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cxr_ray.config.section import Section


class PreprocessConfig(Section):
    """How a radiograph becomes a model input. Part of the preprocess digest."""

    size: int = Field(224, ge=16, le=2048, description="Side S of the square model input, in pixels.")
    fit: Literal["pad", "stretch"] = Field(
        "pad",
        description="`pad` keeps the aspect ratio and centres the film on black; `stretch` scales both axes to S.",
    )
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5),
        description="Grey range, in percent of pixels, for images whose header gives no usable window.",
    )
    reduced_decode: Literal["never", "lossy", "always"] = Field(
        "lossy",
        description="JPEG 2000 decoded at 1/2, 1/4 or 1/8 of its size, down to 1.4 S: never, for the lossy transfer"
        " syntaxes, or always; a model input then differs by half a grey level of 255 on average.",
    )

    @model_validator(mode="after")
    def _percentiles_ascend(self) -> Self:
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, not {self.percentiles}")
        return self


class LimitsConfig(Section):
    """What one object may cost; checked before memory is taken."""

    object_bytes: int = Field(256 * 2**20, ge=1, description="Largest object that is read, in bytes.")
    pixels: int = Field(60_000_000, ge=1, description="Most pixels (rows x columns) of one image.")
    archive_members: int = Field(100_000, ge=1, description="Most members of one .zip or .tar.")
    expansion_ratio: float = Field(
        250.0,
        ge=1.0,
        description="Largest size of deflated data (an archive's member, a dataset) over its stored size.",
    )
    decode_seconds: float = Field(
        60.0, gt=0.0, description="Longest time one image may take from bytes to model input, in seconds."
    )


ImageKind = Literal["animal", "mammogram", "digitised_film", "screenshot", "localizer", "for_processing"]
"""What a DICOM image may be beside, or instead of, a radiograph of a patient that is meant to be looked at."""


class GateConfig(Section):
    """Which images are scored as frontal chest radiographs.

    What a header says is reduced to fixed codes first (images/dicom/terms.py), from several languages; the lists name
    such codes or any spelling of them (`thorax` stands for CHEST) and ignore case. In all of them '' stands for a
    header that does not say, and OTHER for a value that is in no vocabulary.
    """

    kinds: tuple[ImageKind, ...] = Field(
        ("digitised_film",),
        description="Kinds of images that are scored all the same: scanned films (secondary captures with Conversion"
        " Type DF and a Modality such as CR or DX), by default; screenshots, localizers and the others, if named.",
    )
    modalities: tuple[str, ...] = Field(
        ("CR", "DX", "RG", "DR", "XR"),
        description="Modality values that are scored; add '' to accept DICOM without one.",
    )
    body_parts: tuple[str, ...] = Field(
        ("", "CHEST", "LUNG", "HEART", "MEDIASTINUM"),
        description="Body parts that are scored: codes as in DICOM PS3.16 Annex L, for example RIB or CHESTABDOMEN.",
    )
    views: tuple[str, ...] = Field(
        ("", "PA", "AP", "FRONTAL", "OTHER"),
        description="Views that are scored. The others are LL, RL, LATERAL, LLD, RLD, DECUBITUS, LLO, RLO, LAO, RAO,"
        " LPO, RPO, OBLIQUE, LORDOTIC and AXIAL.",
    )
    min_side: int = Field(64, ge=1, description="Shorter side, in pixels, below which an image is not scored.")
    max_aspect: float = Field(
        2.5, ge=1.0, description="Longer over shorter side, in pixels, above which an image is not scored."
    )
    image_check: Literal["silent", "always", "never"] = Field(
        "silent",
        description="When the pixels are checked for flat pictures, text and forms: where no header names the body"
        " part (PNG, JPEG and TIFF among them), for every image, or never.",
    )


class DecodeConfig(Section):
    """Everything between bytes and model input in training, where the table says what is a chest film."""

    preprocess: PreprocessConfig = PreprocessConfig()
    limits: LimitsConfig = LimitsConfig()
