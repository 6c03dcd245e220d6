"""DICOM files of every encoding, odd files and real ones: bytes to pixels, header and faults."""

import hmac
import io
import logging
import struct
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from cxr_ray.config import GateConfig, LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.gate import check_gate
from cxr_ray.images.header import Header, Hint
from cxr_ray.images.radiograph import decode, read_header

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]
GATE = GateConfig()
FULL_12_BIT = {"WindowCenter": 2048, "WindowWidth": 4096}
SECRET = "Zoe^Secret of 1961-02-03, ward 7"


def fault_of(data: bytes) -> DecodeError:
    """The error that reading and decoding `data` ends with."""
    with pytest.raises(DecodeError) as raised:
        decode(read_header(data, limits=LimitsConfig()), preprocess=PreprocessConfig())
    return raised.value


def in_sign(film: np.ndarray, kind: str) -> tuple[np.ndarray, dict]:
    """The film as unsigned or signed samples of 8, 12 or 16 bits, and the window that shows all of it."""
    if kind == "unsigned 8":
        return (film // 16).astype(np.uint8), {"WindowCenter": 128, "WindowWidth": 256}
    if kind == "unsigned 16":
        return film * 16, {"WindowCenter": 32768, "WindowWidth": 65536}
    if kind == "signed 12":
        return film.astype(np.int16) - 2048, {"bits_stored": 12, "WindowCenter": 0, "WindowWidth": 4096}
    if kind == "signed 16":
        return ((film.astype(np.int32) - 2048) * 16).astype(np.int16), {"WindowCenter": 0, "WindowWidth": 65536}
    return film, {"bits_stored": 12, **FULL_12_BIT}


@pytest.mark.parametrize("kind", ["unsigned 8", "unsigned 12", "unsigned 16", "signed 12", "signed 16"])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_decode_lossless_syntax_same_pixels_as_native(build_dicom, show, film, syntax, kind):
    pixels, attributes = in_sign(film, kind)
    native = show(build_dicom(pixels, **attributes))
    assert native.voi_source == "window"
    encoded = show(build_dicom(pixels, syntax=syntax, **attributes))
    assert encoded.header.transfer_syntax_uid == syntax
    assert_array_equal(encoded.pixels, native.pixels)


@pytest.mark.parametrize(
    ("syntax", "kind", "tolerance"),
    [
        (uid.JPEGBaseline8Bit, "unsigned 8", 0.06),
        (uid.JPEG2000, "unsigned 12", 0.03),
        (uid.JPEG2000, "signed 12", 0.03),
        (uid.JPEGLSNearLossless, "unsigned 12", 2.01 / 4095),
        (uid.JPEGLSNearLossless, "unsigned 8", 2.01 / 255),
    ],
)
def test_decode_lossy_syntax_close_to_native(build_dicom, show, film, syntax, kind, tolerance):
    pixels, attributes = in_sign(film, kind)
    native = show(build_dicom(pixels, **attributes))
    encoded = show(build_dicom(pixels, syntax=syntax, **attributes))
    assert_allclose(encoded.pixels, native.pixels, atol=tolerance)
    assert np.abs(encoded.pixels - native.pixels).mean() < 0.7 * tolerance


def test_decode_jpeg_extended_of_12_bits_exact_on_flat_blocks(build_dicom, show):
    blocks = np.random.default_rng(3).integers(0, 4096, (6, 7)).astype(np.uint16)
    blocks[0, :3] = 0, 4095, 0
    data = build_dicom(blocks, syntax=uid.JPEGExtended12Bit, bits_stored=12, Rows=48, Columns=56, **FULL_12_BIT)
    assert_allclose(show(data).pixels, np.kron(blocks / 4095.0, np.ones((8, 8))), atol=1e-6)


def test_decode_palette_of_greys_same_shades(build_dicom, show):
    indices = np.arange(256, dtype=np.uint8).reshape(8, 32)
    table = (np.arange(256)[::-1] * 257).astype("<u2").tobytes()
    palette = {}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = table
    radiograph = show(build_dicom(indices, photometric="PALETTE COLOR", **palette))
    assert_allclose(radiograph.pixels, (255 - indices) / 255.0, atol=1e-6)
    assert radiograph.voi_source == "full_range"


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_decode_colour_encoding_of_a_grey_film_reduced_to_grey(build_dicom, show, film, photometric):
    shades = (film // 16).astype(np.uint8)
    neutral = np.full_like(shades, 128)
    planes = [shades] * 3 if photometric == "RGB" else [shades, neutral, neutral]
    radiograph = show(build_dicom(np.dstack(planes), photometric=photometric))
    assert_allclose(radiograph.pixels, shades / 255.0, atol=1e-6)


def test_decode_colour_picture_colour(build_dicom, film):
    shades = (film // 16).astype(np.uint8)
    error = fault_of(build_dicom(np.dstack([shades, shades, 255 - shades]), photometric="RGB"))
    assert error.fault is Fault.COLOUR


def test_decode_float_pixels_shown_by_percentiles(build_dicom, show, film):
    values = film.astype(np.float32) / 100.0 - 7.0
    data = build_dicom(film, BitsStored=None, HighBit=None, PixelRepresentation=None, BitsAllocated=32)
    dataset = pydicom.dcmread(io.BytesIO(data))
    del dataset.PixelData
    dataset.FloatPixelData = values.tobytes()
    target = io.BytesIO()
    dataset.save_as(target)
    radiograph = show(target.getvalue(), percentiles=(0.0, 100.0))
    assert_allclose(radiograph.pixels, film / 4095.0, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": -0.5, "RescaleIntercept": 1000, "WindowCenter": [-20, 9], "WindowWidth": [1900, 9]},
        {
            "RescaleSlope": 2,
            "RescaleIntercept": -4000,
            "WindowCenter": 0,
            "WindowWidth": 3000,
            "VOILUTFunction": "SIGMOID",
        },
        {"WindowCenter": 1000, "WindowWidth": 2500, "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_decode_rescale_and_window_equal_pydicom_and_highdicom(build_dicom, show, film, attributes):
    data = build_dicom(film, bits_stored=12, **attributes)
    dataset = pydicom.dcmread(io.BytesIO(data))
    center, width = np.ravel(dataset.WindowCenter)[0], np.ravel(dataset.WindowWidth)[0]
    expected = highdicom.pixels.apply_voi_window(
        apply_modality_lut(dataset.pixel_array, dataset),
        float(center),
        float(width),
        dataset.get("VOILUTFunction", "LINEAR"),
        output_range=(0.0, 1.0),
    )
    radiograph = show(data)
    assert radiograph.voi_source == "window"
    assert_allclose(radiograph.pixels, expected, atol=1e-6)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_decode_both_luts_equal_pydicom(build_dicom, show, film, syntax):
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor, voi.LUTDescriptor = [4096, 0, 16], [3000, 500, 12]
    order = ">u2" if syntax == uid.ExplicitVRBigEndian else "<u2"
    modality["LUTData"] = pydicom.DataElement("LUTData", "OW", (np.arange(4096) ** 2 // 5000).astype(order).tobytes())
    voi["LUTData"] = pydicom.DataElement("LUTData", "OW", (np.arange(3000)[::-1] + 700).astype(order).tobytes())
    modality.ModalityLUTType = "US"
    luts = {"ModalityLUTSequence": Sequence([modality]), "VOILUTSequence": Sequence([voi])}
    data = build_dicom(film, bits_stored=12, syntax=syntax, **luts, **FULL_12_BIT)
    dataset = pydicom.dcmread(io.BytesIO(data))
    expected = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset) / 4095.0
    radiograph = show(data)
    assert radiograph.voi_source == "lut"
    assert_allclose(radiograph.pixels, expected, atol=1e-6)


def test_decode_voi_lut_above_32767_after_negative_slope_stays_unsigned(build_dicom, show):
    """The slope is negative and no value is, so the first input 40000 means what it says."""
    stored = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    item = Dataset()
    item.LUTDescriptor = [20000, 40000, 16]
    item["LUTData"] = pydicom.DataElement("LUTData", "OW", (np.arange(20000) * 3).astype("<u2").tobytes())
    attributes = {"RescaleSlope": -1, "RescaleIntercept": 65535, "VOILUTSequence": Sequence([item])}
    radiograph = show(build_dicom(stored, **attributes))
    assert radiograph.voi_source == "lut"
    expected = np.clip(65535.0 - stored - 40000, 0, 19999) * 3 / 65535
    assert_allclose(radiograph.pixels, expected, atol=1e-6)


def test_decode_broken_voi_lut_window_used_instead(build_dicom, show, film):
    broken = Dataset()
    broken.LUTDescriptor = [4096, 0, 12]
    data = build_dicom(film, bits_stored=12, VOILUTSequence=Sequence([broken]), **FULL_12_BIT)
    assert show(data).voi_source == "window"


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),
    ],
)
def test_decode_presentation_inverts_once(build_dicom, show, film, photometric, shape, inverted):
    attributes = {"PresentationLUTShape": shape} if shape else {}
    radiograph = show(build_dicom(film, bits_stored=12, photometric=photometric, **attributes, **FULL_12_BIT))
    shown = film / 4095.0
    assert_allclose(radiograph.pixels, 1.0 - shown if inverted else shown, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(center=st.integers(1000, 3000), width=st.integers(500, 5000), use_window=st.booleans())
def test_decode_monochrome1_of_the_inverted_equals_monochrome2(build_dicom, show, film, center, width, use_window):
    upright_window = {"WindowCenter": center, "WindowWidth": width} if use_window else {}
    inverted_window = {"WindowCenter": 4096 - center, "WindowWidth": width} if use_window else {}
    upright = show(build_dicom(film, bits_stored=12, **upright_window))
    negative = show(build_dicom(4095 - film, bits_stored=12, photometric="MONOCHROME1", **inverted_window))
    assert_array_equal(negative.pixels, upright.pixels)
    assert negative.voi_source == upright.voi_source


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_decode_padding_range_black_and_ignored(build_dicom, show, film, syntax, photometric):
    signed = film.astype(np.int16) - 2048
    padded = np.pad(signed.clip(-1500, 1500), 5, constant_values=-2000)
    padded[:, :2] = -1990
    data = build_dicom(
        padded,
        bits_stored=12,
        syntax=syntax,
        photometric=photometric,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    pixels = show(data, percentiles=(0.0, 100.0)).pixels
    assert not pixels[:5].any()
    assert not pixels[:, :5].any()
    inside = (signed.clip(-1500, 1500) + 1500) / 3000
    assert_allclose(pixels[5:-5, 5:-5], 1 - inside if photometric == "MONOCHROME1" else inside, atol=1e-6)


def test_decode_dirty_high_bits_cleared(build_dicom, show, film):
    dirty = film | np.uint16(0x5000)
    clean = show(build_dicom(film, bits_stored=12, **FULL_12_BIT))
    assert_array_equal(show(build_dicom(dirty, bits_stored=12, **FULL_12_BIT)).pixels, clean.pixels)


def test_decode_old_high_bit_at_the_top_same_pixels(build_dicom, show, film):
    clean = show(build_dicom(film, bits_stored=12, **FULL_12_BIT))
    shifted = build_dicom(film << 4, bits_stored=12, HighBit=15, **FULL_12_BIT)
    assert_array_equal(show(shifted).pixels, clean.pixels)


@pytest.mark.parametrize(
    "attributes", [{}, {"WindowCenter": 1000, "WindowWidth": 0}, {"WindowCenter": 90000, "WindowWidth": 9}]
)
def test_decode_no_usable_window_percentiles(build_dicom, show, film, attributes):
    radiograph = show(build_dicom(film, bits_stored=12, **attributes))
    assert radiograph.voi_source == "percentiles"
    low, high = np.percentile(film, [0.5, 99.5], method="inverted_cdf")
    assert_allclose(radiograph.pixels, np.clip((film - float(low)) / (high - low), 0, 1), atol=2e-3)


def strip_to_dataset(data: bytes) -> bytes:
    """What follows preamble, prefix and file meta information, whose group length stands at byte 140."""
    return data[144 + int.from_bytes(data[140:144], "little") :]


@pytest.mark.parametrize(
    ("syntax", "guessed"),
    [
        (uid.ImplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
        (uid.ExplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
        (uid.ExplicitVRBigEndian, uid.ExplicitVRBigEndian),
        (uid.RLELossless, uid.RLELossless),
        (uid.JPEGLosslessSV1, uid.JPEGLossless),
        (uid.JPEGLSLossless, uid.JPEGLSLossless),
        (uid.JPEG2000Lossless, uid.JPEG2000),
    ],
)
def test_read_dicom_without_preamble_and_meta_header_same_pixels(build_dicom, show, film, syntax, guessed):
    data = build_dicom(film, bits_stored=12, syntax=syntax, **FULL_12_BIT)
    bare = show(strip_to_dataset(data))
    assert bare.header.transfer_syntax_uid == guessed
    assert_array_equal(bare.pixels, show(data).pixels)


@pytest.mark.parametrize("skipped", [128, 132])
def test_read_dicom_without_preamble_same_header(build_dicom, film, skipped):
    data = build_dicom(film, bits_stored=12)
    whole = read_header(data, limits=LimitsConfig()).header
    assert read_header(data[skipped:], limits=LimitsConfig()).header == whole


def test_header_attributes_as_written(build_dicom, film):
    data = build_dicom(
        film,
        bits_stored=12,
        PatientID="  4711 ",
        Manufacturer="Agfa-Gevaert NV",
        PixelSpacing=[0.2, 0.1],
        ImagerPixelSpacing=[0.3, 0.3],
    )
    header = read_header(data, limits=LimitsConfig(), patient_key_secret=b"key").header
    assert header == Header(
        format="dicom",
        sop_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3.1",
        study_instance_uid="1.2.3",
        patient_key=hmac.new(b"key", b"4711", "sha256").hexdigest(),
        modality="DX",
        manufacturer="Agfa",
        body_part=Hint("CHEST", "BodyPartExamined"),
        view=Hint("PA", "ViewPosition"),
        photometric_interpretation="MONOCHROME2",
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        rows=62,
        columns=47,
        pixel_spacing_mm=(0.2, 0.1),
    )


@pytest.mark.parametrize(("text", "expected"), [("Zoe Secretova", "OTHER"), ("", None), ("SIEMENS AG", "Siemens")])
def test_header_manufacturer_is_a_vendor_or_other(build_dicom, film, text, expected):
    data = build_dicom(film, Manufacturer=text)
    assert read_header(data, limits=LimitsConfig()).header.manufacturer == expected


@pytest.mark.parametrize(("secret", "patient_id"), [(None, "4711"), (b"", "4711"), (b"key", ""), (b"key", None)])
def test_header_patient_key_without_key_or_id_none(build_dicom, film, secret, patient_id):
    data = build_dicom(film, **({} if patient_id is None else {"PatientID": patient_id}))
    assert read_header(data, limits=LimitsConfig(), patient_key_secret=secret).header.patient_key is None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [0.2]}, None),
        ({}, None),
    ],
)
def test_header_pixel_spacing_first_usable(build_dicom, film, attributes, expected):
    assert read_header(build_dicom(film, **attributes), limits=LimitsConfig()).header.pixel_spacing_mm == expected


# fmt: off
TEXTS = [
    "PatientName", "PatientID", "PatientComments", "PatientBirthDate", "InstitutionName", "StudyDescription",
    "SeriesDescription", "ImageComments", "AccessionNumber", "ReferringPhysicianName", "OperatorsName", "StationName",
    "ProtocolName", "AcquisitionDeviceProcessingDescription", "PatientSpeciesDescription", "PatientBreedDescription",
    "ImageType", "ConversionType", "PresentationIntentType", "PatientOrientation", "Modality",
    "BodyPartExamined", "ViewPosition", "PhotometricInterpretation",
    "PresentationLUTShape", "VOILUTFunction", "RescaleType", "WindowCenter", "WindowWidth", "RescaleSlope",
    "RescaleIntercept", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing", "WindowCenterWidthExplanation",
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID",
]
# fmt: on


@pytest.mark.parametrize("planted", [TEXTS, *([text] for text in TEXTS)], ids=lambda planted: planted[0][:30])
def test_secret_in_a_text_element_never_comes_out(build_dicom, film, caplog, planted):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film, bits_stored=12)))
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for keyword in planted:
            vr = "UI" if keyword.endswith("UID") else "LO"
            dataset[keyword] = pydicom.DataElement(keyword, vr, SECRET, already_converted=True)
        dataset.private_block(0x0011, "SECRETS", create=True).add_new(1, "LT", SECRET)
        target = io.BytesIO()
        dataset.save_as(target)
    assert target.getvalue().count(SECRET.encode()) == len(planted) + 1
    caplog.set_level(logging.DEBUG)
    told = []
    try:
        encoded = read_header(target.getvalue(), limits=LimitsConfig(), patient_key_secret=b"key")
        told += [repr(encoded), repr(encoded.header)]
        radiograph = decode(encoded, preprocess=PreprocessConfig())
        told += [repr(radiograph.header), radiograph.voi_source]
    except DecodeError as error:
        told += [str(error), "".join(traceback.format_exception(error))]
    for part in ("Zoe", "Secret", "1961", "ward", "ZOE", "SECRET"):
        assert part not in "".join(told) + caplog.text


def without_pixels(data: bytes) -> bytes:
    """The same object without its pixel data."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    del dataset.PixelData
    target = io.BytesIO()
    dataset.save_as(target)
    return target.getvalue()


@pytest.mark.parametrize(
    ("sop_class", "fault"),
    [
        (uid.BasicTextSRStorage, Fault.STRUCTURED_REPORT),
        (uid.XRayRadiationDoseSRStorage, Fault.STRUCTURED_REPORT),
        (uid.EncapsulatedPDFStorage, Fault.STRUCTURED_REPORT),
        (uid.EncapsulatedCDAStorage, Fault.STRUCTURED_REPORT),
        (uid.KeyObjectSelectionDocumentStorage, Fault.NO_PIXELS),
        (uid.GrayscaleSoftcopyPresentationStateStorage, Fault.NO_PIXELS),
        (uid.DigitalXRayImageStorageForPresentation, Fault.NO_PIXELS),
    ],
)
def test_read_dicom_without_pixel_data_says_what_it_is(build_dicom, film, sop_class, fault):
    error = fault_of(without_pixels(build_dicom(film, SOPClassUID=sop_class)))
    assert error.fault is fault
    assert sop_class.name in error.detail


def test_read_dicom_report_without_sop_class_told_by_modality(build_dicom, film):
    data = without_pixels(build_dicom(film, SOPClassUID=None, Modality="SR"))
    data = data.replace(b"1.2.840.10008.5.1.4.1.1.1.1", b"1.2.840.10008.5.1.4.1.1.9.9")  # in the meta header
    assert fault_of(data).fault is Fault.STRUCTURED_REPORT


def test_read_dicom_empty_pixel_data_no_pixels(build_dicom, film):
    assert fault_of(build_dicom(film, PixelData=b"")).fault is Fault.NO_PIXELS


def test_read_dicom_directory_dicomdir(build_dicom, film):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film)))
    record = Dataset()
    record.DirectoryRecordType, record.PatientName = "PATIENT", SECRET
    directory = Dataset()
    directory.file_meta = dataset.file_meta
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.FileSetID, directory.DirectoryRecordSequence = "SET", Sequence([record])
    target = io.BytesIO()
    pydicom.dcmwrite(target, directory, implicit_vr=False, little_endian=True)
    assert fault_of(target.getvalue()).fault is Fault.DICOMDIR


def test_decode_several_frames_multiple_frames(build_dicom, film):
    error = fault_of(build_dicom(np.vstack([film, film]), Rows=62, NumberOfFrames=2))
    assert error.fault is Fault.MULTIPLE_FRAMES
    assert "NumberOfFrames is 2" in error.detail


def test_decode_constant_film_blank(build_dicom, film):
    assert fault_of(build_dicom(np.full_like(film, 77), WindowCenter=70, WindowWidth=100)).fault is Fault.BLANK


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, "1.2.840.113619.5.2"])
def test_decode_syntax_without_decoder_unsupported_and_named(build_dicom, film, syntax):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([dataset.PixelData])
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset, implicit_vr=False, little_endian=True)
    error = fault_of(target.getvalue())
    assert error.fault is Fault.UNSUPPORTED_ENCODING
    assert syntax in error.detail


def test_decode_more_pixels_than_the_limit_refused_before_decoding(build_dicom, film):
    data = build_dicom(film, Rows=60000, Columns=60000)
    with pytest.raises(DecodeError) as raised:
        read_header(data, limits=LimitsConfig())
    assert raised.value.fault is Fault.TOO_LARGE


@pytest.mark.parametrize(
    ("syntax", "changed"),
    [
        (uid.ExplicitVRLittleEndian, {"Rows": 33}),
        (uid.ExplicitVRLittleEndian, {"Rows": 99}),
        (uid.ExplicitVRLittleEndian, {"BitsStored": 17}),
        (uid.ExplicitVRLittleEndian, {"RescaleSlope": 0}),
        (uid.ExplicitVRLittleEndian, {"SamplesPerPixel": None}),
        (uid.ExplicitVRLittleEndian, {"PixelRepresentation": None}),
        (uid.ExplicitVRLittleEndian, {"Rows": None}),
        (uid.RLELossless, {"Rows": 99}),
        (uid.JPEG2000Lossless, {"Rows": 33}),
        (uid.JPEG2000Lossless, {"BitsAllocated": 8, "BitsStored": 8}),
        (uid.JPEGLSLossless, {"Columns": 99}),
        (uid.JPEGLosslessSV1, {"Columns": 33}),
        (uid.JPEGLosslessSV1, {"BitsAllocated": 8, "BitsStored": 8}),
        (uid.JPEGLosslessSV1, {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}),
    ],
)
def test_decode_header_that_contradicts_the_pixels_corrupt(build_dicom, film, syntax, changed):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film, bits_stored=12, syntax=syntax)))
    for keyword, value in changed.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target)
    assert fault_of(target.getvalue()).fault is Fault.CORRUPT


ENCAPSULATED = [syntax for syntax in LOSSLESS if syntax.is_encapsulated]


@pytest.mark.parametrize("share", [0.99, 0.7, 0.3, 0.02])
@pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: syntax.keyword)
def test_decode_frame_cut_short_corrupt(build_dicom, film, syntax, share):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film, bits_stored=12, syntax=syntax)))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: int(share * len(frame))]])
    target = io.BytesIO()
    dataset.save_as(target)
    assert fault_of(target.getvalue()).fault is Fault.CORRUPT


@pytest.mark.parametrize(
    "syntax",
    [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, *ENCAPSULATED],
    ids=lambda uid: uid.keyword,
)
def test_read_dicom_cut_anywhere_fault(build_dicom, film, syntax):
    """Cuts between two elements look like an object without pixels, cuts in the prefix like anything."""
    data = build_dicom(film, bits_stored=12, syntax=syntax)
    faults = [fault_of(data[:length]).fault for length in range(140, len(data) - 8, 97)]
    assert set(faults) <= {Fault.CORRUPT, Fault.NO_PIXELS}
    assert faults.count(Fault.CORRUPT) > 0.8 * len(faults)


def test_read_dicom_cut_inside_an_element_that_is_skipped_corrupt(build_dicom, film):
    data = build_dicom(film, ImageComments="no pixel data yet " * 50)
    start = data.index(b"no pixel data yet")
    assert {fault_of(data[: start + length]).fault for length in range(1, 900, 50)} == {Fault.CORRUPT}


def test_decode_rle_run_beyond_the_last_pixel_corrupt(build_dicom):
    """pylibjpeg-rle panics here, with an exception that is no Exception."""
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(np.zeros((6, 7), np.uint16), syntax=uid.RLELossless)))
    segment = bytes([257 - 30, 5, 257 - 30, 9])  # 30 and 30 pixels where there are 42
    dataset.PixelData = encapsulate([struct.pack("<16I", 2, 64, 68, *[0] * 13) + 2 * segment])
    target = io.BytesIO()
    dataset.save_as(target)
    error = fault_of(target.getvalue())
    assert error.fault is Fault.CORRUPT
    assert "PanicException" in error.detail


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[:2] + b"junk" + frame[2:],  # bytes before a marker
        lambda frame: frame[:2] + b"\xff\xe0\x00\x10JFIF\0\x09" + bytes(8) + frame[2:],  # JFIF 9
        lambda frame: frame[:2] + b"\xff\xee\x00\x0eAdobe" + bytes(6) + b"\x07" + frame[2:],  # unknown colour transform
        lambda frame: frame[:2] + b"\xff\x01" + frame[2:],  # a marker without length
    ],
)
def test_decode_jpeg_header_that_ends_the_process_in_gdcm_fault_instead(build_dicom, film, damage):
    dataset = pydicom.dcmread(io.BytesIO(build_dicom(film, bits_stored=12, syntax=uid.JPEGLosslessSV1)))
    dataset.PixelData = encapsulate([damage(get_frame(dataset.PixelData, 0, number_of_frames=1))])
    target = io.BytesIO()
    dataset.save_as(target)
    assert fault_of(target.getvalue()).fault is Fault.CORRUPT


@settings(max_examples=150, deadline=None)
@given(syntax=st.sampled_from([uid.ExplicitVRLittleEndian, *ENCAPSULATED]), data=st.data())
def test_decode_damaged_bytes_pixels_or_fault_and_nothing_else(build_dicom, show, film, syntax, data):
    damaged = bytearray(build_dicom(film, bits_stored=12, syntax=syntax))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(128, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = show(bytes(damaged)).pixels
    except DecodeError:
        return
    assert 0.0 <= pixels.min() < pixels.max() <= 1.0


def test_decode_in_threads_same_pixels_and_no_warning_escapes(build_dicom, show, film):
    """pydicom warns of the excess byte and of the invalid date; -W error would turn that into faults."""
    odd = [build_dicom(film, bits_stored=12, syntax=syntax) for syntax in ENCAPSULATED] * 4
    with ThreadPoolExecutor(4) as pool:
        films = [radiograph.pixels for radiograph in pool.map(show, odd)]
    for pixels in films:
        assert_array_equal(pixels, films[0])


# Real files. What they hold and what to expect of them is told by index.csv beside them.


def test_real_chest_film_passes_the_gate_and_decodes(shared_dicom):
    (path,) = (shared_dicom / "chest").glob("*.dcm")
    encoded = read_header(path.read_bytes(), limits=LimitsConfig())
    check_gate(encoded.header, GATE)
    radiograph = decode(encoded, preprocess=PreprocessConfig(reduced_decode="never"))
    dataset = pydicom.dcmread(path)
    expected = 1.0 - (dataset.pixel_array - (15000 - 0.5)) / (30000 - 1) - 0.5
    assert radiograph.pixels.shape == (1955, 1841)
    assert_allclose(radiograph.pixels, expected.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["pydicom-data__RG3_J2KI.dcm", "pylibjpeg-data__JPEGExtended__RG2_JPLY_fixed.dcm"])
def test_real_leg_and_hip_refused_by_the_gate(shared_dicom, name):
    encoded = read_header((shared_dicom / "not_chest" / name).read_bytes(), limits=LimitsConfig())
    with pytest.raises(DecodeError) as raised:
        check_gate(encoded.header, GATE)
    assert raised.value.fault is Fault.WRONG_BODY_PART


def test_real_12_bit_jpeg_extended_values_of_another_decoder(shared_dicom):
    """index.csv gives 0 and 960 as its least and greatest value, found with libjpeg."""
    path = shared_dicom / "not_chest" / "pylibjpeg-data__JPEGExtended__RG2_JPLY_fixed.dcm"
    radiograph = decode(read_header(path.read_bytes(), limits=LimitsConfig()), preprocess=PreprocessConfig())
    assert radiograph.voi_source == "window"
    assert_allclose([radiograph.pixels.min(), radiograph.pixels.max()], [1 / 1023, 961 / 1023], atol=1e-6)


def test_real_odd_file_decodes_or_faults(decoder_file, show):
    dataset = pydicom.dcmread(decoder_file)
    data = decoder_file.read_bytes()
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        assert fault_of(data).fault is Fault.MULTIPLE_FRAMES
    elif dataset.SamplesPerPixel == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        assert fault_of(data).fault is Fault.COLOUR
    else:
        assert show(data).pixels.shape == (dataset.Rows, dataset.Columns)
