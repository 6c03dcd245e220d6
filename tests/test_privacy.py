"""No name, date or free text of a file reaches a row, a log, an error or the report.

Every text element that pydicom's dictionary knows gets a secret of its VR, at the top, inside a sequence and in a
private block, in a film that is scored and in files that fault in every stage. UIDs and numbers may come out.
"""

import base64
import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import ray
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig, ScoreConfig
from cxr_ray.errors import DecodeError
from cxr_ray.evaluation.report.html import write_report
from cxr_ray.images.gate import check_gate, check_picture
from cxr_ray.images.radiograph import decode, read_header
from cxr_ray.scoring.run import score
from cxr_ray.scoring.table import read_scores
from cxr_ray.scoring.verify import verify

SECRETS = {
    "PN": "Secretova^Zoe",
    **dict.fromkeys(("LO", "LT", "ST", "UT", "UC"), "Zoe Secretova, Geheimweg 7"),
    "SH": "SECRETOVA ZOE 7",
    "UR": "https://secretova.example/zoe",
    "AE": "SECRETOVA_AE",
    "CS": "DOE JOHN",
    "AS": "987Y",
    "DA": "19610203",
    "TM": "040506.171717",
    "DT": "19610203040506.171717",
}
NEEDLES = re.compile("secretova|geheimweg|doe[ _^]john|987Y|19610203|1961-02-03|040506|04:05:06|171717", re.IGNORECASE)
STRUCTURAL = ("SpecificCharacterSet", "PhotometricInterpretation")
WANTED = {"Modality": "DX", "BodyPartExamined": "CHEST"}
SPECIES = ("PatientSpeciesDescription", "PatientBreedDescription")


def film() -> np.ndarray:
    """A picture of all shades and no sharp edges, 12 bits."""
    ramp = np.linspace(0, 3000, 96)[:, None] + np.zeros((1, 80))
    return (ramp + np.random.default_rng(0).integers(0, 1000, ramp.shape)).astype(np.uint16)


def text_elements() -> Iterator[tuple[int, str]]:
    """Tag and VR of every text element of the dictionary outside command, meta and image structure."""
    for number, (value_representation, _, _, _, keyword) in DicomDictionary.items():
        if value_representation in SECRETS and number >= 0x00080000 and keyword not in STRUCTURAL:
            yield number, value_representation


def planted(**attributes: object) -> Dataset:
    """A film with a secret in every text element, those of `attributes` changed; None leaves one out."""
    dataset = Dataset()
    dataset.file_meta = meta_header()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    plant(dataset)
    inner = Dataset()
    plant(inner)
    dataset.RequestAttributesSequence = Sequence([inner])
    for keyword in ("AnatomicRegionSequence", "ViewCodeSequence", "PerformedProtocolCodeSequence"):
        item = Dataset()
        item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = SECRETS["SH"], SECRETS["LO"], SECRETS["SH"]
        setattr(dataset, keyword, Sequence([item]))
    block = dataset.private_block(0x0011, SECRETS["LO"], create=True)
    for offset, (value_representation, secret) in enumerate(SECRETS.items()):
        block.add_new(offset, value_representation, secret)
    pixels = film()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    changes: dict[str, object] = {**WANTED, **dict.fromkeys(SPECIES), **attributes}
    for keyword, value in changes.items():
        if value is None:
            dataset.pop(Tag(keyword), None)
        else:
            dataset[keyword] = DataElement(keyword, text_vr(keyword), value)
    return dataset


def text_vr(keyword: str) -> str:
    """The VR a value is written under; numbers as text, so that words can stand in them."""
    value_representation = dictionary_VR(keyword)
    return "LO" if value_representation in ("IS", "DS") else value_representation


def plant(dataset: Dataset) -> None:
    """A secret in every text element."""
    for number, value_representation in text_elements():
        dataset.add_new(number, value_representation, SECRETS[value_representation])


def meta_header() -> FileMetaDataset:
    """A meta header with secrets in its text elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = "1.2.3.4", uid.ExplicitVRLittleEndian
    meta.ImplementationVersionName = SECRETS["SH"]
    for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle"):
        setattr(meta, keyword, SECRETS["AE"])
    return meta


def encoded(dataset: Dataset) -> bytes:
    """The dataset as a file, whatever it holds."""
    target = io.BytesIO()
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(target, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return target.getvalue()


def made(**attributes: object) -> bytes:
    """A planted film as a file."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        return encoded(planted(**attributes))


def without_pixels(sop_class: str) -> bytes:
    """A planted object without pixel data."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = planted(SOPClassUID=sop_class)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    del dataset.PixelData
    return encoded(dataset)


def compressed(syntax: str, *, cut: int) -> bytes:
    """A planted film in JPEG 2000, JPEG-LS or RLE whose frame lacks its last `cut` bytes."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = planted()
        dataset.compress(syntax, generate_instance_uid=False)
        frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate([frame[: len(frame) - cut]])
    return encoded(dataset)


def raster(file_format: str, **options: object) -> bytes:
    """The film as PNG, JPEG or TIFF."""
    target = io.BytesIO()
    Image.fromarray((film() // 16).astype(np.uint8)).save(target, format=file_format, **options)
    return target.getvalue()


def text_chunks() -> PngImagePlugin.PngInfo:
    """Secrets in the text of a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRETS["LO"])
    info.add_itxt("Comment", SECRETS["LO"], zip=True)
    return info


def exif() -> Image.Exif:
    """Secrets in the EXIF of a JPEG or TIFF."""
    tags = Image.Exif()
    tags[0x010E] = tags[0x013B] = SECRETS["LO"]
    tags[0x0132] = "1961:02:03 04:05:06"
    return tags


FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "film.dcm": (made, None),
    "film_j2k.dcm": (lambda: compressed(uid.JPEG2000Lossless, cut=0), None),
    "part.dcm": (lambda: made(BodyPartExamined=SECRETS["CS"]), "wrong_body_part"),
    "hand.dcm": (lambda: made(BodyPartExamined=None, SeriesDescription="HAND " + SECRETS["LO"]), "wrong_body_part"),
    "lateral.dcm": (lambda: made(ViewPosition=None, SeriesDescription="LATERAL " + SECRETS["LO"]), "wrong_view"),
    "modality.dcm": (lambda: made(Modality=SECRETS["CS"]), "wrong_modality"),
    "species.dcm": (lambda: made(PatientSpeciesDescription=f"DOG {SECRETS['LO']}"), "not_human"),
    "breed.dcm": (lambda: made(PatientBreedDescription=f"BEAGLE DOG {SECRETS['LO']}"), "not_human"),
    "mammogram.dcm": (lambda: made(Modality="MG"), "mammogram"),
    "capture.dcm": (lambda: made(SOPClassUID=uid.SecondaryCaptureImageStorage), "screenshot"),
    "scout.dcm": (lambda: made(ImageType=["ORIGINAL", SECRETS["CS"], "LOCALIZER", SECRETS["CS"]]), "localizer"),
    "raw.dcm": (lambda: made(PresentationIntentType="FOR PROCESSING"), "for_processing"),
    "report.dcm": (lambda: without_pixels(uid.BasicTextSRStorage), "structured_report"),
    "state.dcm": (lambda: without_pixels(uid.GrayscaleSoftcopyPresentationStateStorage), "no_pixels"),
    "DICOMDIR.dcm": (lambda: without_pixels(uid.MediaStorageDirectoryStorage), "dicomdir"),
    "unregistered.dcm": (lambda: without_pixels("1.2.840.99999.1.19"), "no_pixels"),
    "photometric.dcm": (lambda: made(PhotometricInterpretation=SECRETS["CS"]), "?"),
    "frames.dcm": (lambda: made(NumberOfFrames=SECRETS["LO"]), "?"),
    "rescale.dcm": (lambda: made(RescaleSlope=SECRETS["LO"]), "?"),
    "window.dcm": (lambda: made(WindowCenter=SECRETS["LO"], WindowWidth=SECRETS["LO"]), None),
    "spacing.dcm": (lambda: made(PixelSpacing=SECRETS["LO"], PatientID="19610203"), None),
    "charset.dcm": (lambda: made(SpecificCharacterSet=SECRETS["CS"]), "?"),
    "uid.dcm": (lambda: made(SOPInstanceUID=SECRETS["LO"], StudyInstanceUID=SECRETS["LO"]), None),
    "short.dcm": (lambda: made(PixelData=film().tobytes()[:-900]), "corrupt"),
    "cut.dcm": (lambda: made()[:9000], "corrupt"),
    "cut_j2k.dcm": (lambda: compressed(uid.JPEG2000Lossless, cut=3000), "corrupt"),
    "cut_jls.dcm": (lambda: compressed(uid.JPEGLSLossless, cut=3000), "corrupt"),
    "cut_rle.dcm": (lambda: compressed(uid.RLELossless, cut=3000), "corrupt"),
    "film.png": (lambda: raster("PNG", pnginfo=text_chunks(), exif=exif()), None),
    "film.jpg": (lambda: raster("JPEG", comment=SECRETS["LO"], exif=exif()), None),
    "film.tif": (lambda: raster("TIFF", description=SECRETS["LO"], exif=exif()), None),
    "cut.png": (lambda: raster("PNG", pnginfo=text_chunks())[:-2000], "corrupt"),
    "cut.jpg": (lambda: raster("JPEG", comment=SECRETS["LO"])[:-1500], "corrupt"),
    "cut.tif": (lambda: raster("TIFF", description=SECRETS["LO"])[:-1500], "?"),
    "text.doc": (lambda: SECRETS["LO"].encode(), "not_an_image"),
}
"""Each file and the fault it ends with: None is scored, `?` is whatever the decoders make of it."""


def test_text_elements_are_all_of_the_dictionary():
    assert len(list(text_elements())) > 1500
    assert {value_representation for _, value_representation in text_elements()} == set(SECRETS)
    data = made()
    for value_representation, secret in SECRETS.items():
        assert data.count(secret.encode()) > 2, value_representation


@pytest.mark.parametrize("name", FILES)
def test_secrets_never_leave_the_decoder(name, caplog, capfd):
    make, fault = FILES[name]
    data = make()
    assert NEEDLES.search(data.decode("latin-1"))
    capfd.readouterr()
    caplog.set_level(logging.DEBUG)
    told = []
    try:
        image = read_header(data, limits=LimitsConfig(), patient_key_secret=b"key")
        told += [repr(image), repr(image.header)]
        check_gate(image.header, GateConfig())
        radiograph = decode(image, preprocess=PreprocessConfig())
        told += [radiograph.voi_source, check_picture(image.header, radiograph.pixels, GateConfig())]
        ended_with = None
    except DecodeError as error:
        told += [str(error), "".join(traceback.format_exception(error))]
        ended_with = error.fault.value
    assert fault in (ended_with, "?")
    assert not NEEDLES.search("".join([*told, caplog.text, *capfd.readouterr()]))


def readable(path: Path) -> Iterator[str]:
    """What a file says: its bytes, and what is packed inside them."""
    data = path.read_bytes()
    text = data.decode("latin-1")
    if path.suffix == ".html":
        pictures = re.compile(r"base64,([A-Za-z0-9+/=]+)")
        yield from (base64.b64decode(picture).decode("latin-1") for picture in pictures.findall(text))
        text = pictures.sub("", text)
    yield text
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield from (str(table.schema), str(table.schema.metadata))
        for row in table.to_pylist():
            row.pop("findings", None)  # heat maps are bytes of maps, and a chance hit in them no leak
            yield repr(row)


def leaks(folder: Path) -> list[str]:
    """The files below a folder that hold a secret, with it."""
    return [
        f"{path.name}: {found.group()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
        for text in readable(path)
        if (found := NEEDLES.search(text))
    ]


@pytest.mark.usefixtures("ray_local")
def test_secrets_reach_no_row_manifest_log_or_report(bundle, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("CXR_RAY_PATIENT_KEY", "key")
    films, output = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    for name, (make, _) in FILES.items():
        (films / name).write_bytes(make())
    caplog.set_level(logging.INFO)
    capfd.readouterr()
    lines: list[str] = []
    config = ScoreConfig(actors=1, images_per_task=8, heatmaps="all")
    result = score([str(films)], bundle=bundle, output=str(output), config=config, log=lines.append)
    summary = write_report(str(output), output / "report.html")
    told = [*lines, *result.lines(), *summary.lines(), *verify(str(output)).problems, caplog.text, *capfd.readouterr()]
    assert not NEEDLES.search("\n".join(told))
    assert leaks(output) == []
    assert len(list(output.rglob("*.parquet"))) >= 2
    assert len(list((output / "runs").iterdir())) == 1
    rows = {Path(row["uri"]).name: row for row in read_scores(str(output))[0].to_pylist()}
    assert set(rows) == set(FILES)
    assert {name: rows[name]["fault"] for name, (_, fault) in FILES.items() if fault != "?"} == {
        name: fault for name, (_, fault) in FILES.items() if fault != "?"
    }
    assert rows["film.dcm"]["gate"] == "header"
    assert rows["film.png"]["gate"] == "image"
    assert rows["part.dcm"]["body_part_examined"] == rows["modality.dcm"]["modality"] == "OTHER"
    manifest = json.loads(next((output / "runs").iterdir()).read_text())
    assert manifest["counts"]["listed"] == len(FILES)
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    assert logs.is_dir()
    assert leaks(logs) == []
