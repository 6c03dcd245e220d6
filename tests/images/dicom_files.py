"""DICOM files made on the spot in every transfer syntax, where possible by other encoders than the decoders under test.

Shared by tests and benchmarks.
"""

import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame

SHARED_DICOM = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom"
GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1)
PYDICOM_ENCODERS = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls", uid.JPEG2000Lossless: "pylibjpeg"}
HIGH_THROUGHPUT = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)


def build_dicom(
    pixels: NDArray[Any],
    *,
    syntax: str = uid.ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    bits_stored: int | None = None,
    **attributes: Any,
) -> bytes:
    """A DX file whose samples have the type of `pixels`; an attribute given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    bits = 8 * pixels.dtype.itemsize
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = photometric
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored = bits, bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    _encode(dataset, pixels, syntax)
    target = io.BytesIO()
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    pydicom.dcmwrite(target, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return target.getvalue()


def _encode(dataset: Dataset, pixels: NDArray[Any], syntax: str) -> None:
    """Bring the pixel data into `syntax`, with encoders other than the decoders under test where there is a choice."""
    if syntax in GDCM_SYNTAXES:
        dataset.PixelData = encapsulate([_gdcm_frame(dataset, syntax)])
    elif syntax == uid.JPEGBaseline8Bit:
        frame = io.BytesIO()
        Image.fromarray(pixels).save(frame, format="JPEG", quality=95)
        dataset.PixelData = encapsulate([frame.getvalue()])
    elif syntax in (uid.JPEG2000, uid.JPEGLSNearLossless):
        options: dict[str, Any] = {"j2k_cr": [3]} if syntax == uid.JPEG2000 else {"jls_error": 2}
        dataset.compress(syntax, generate_instance_uid=False, **options)
    elif syntax in HIGH_THROUGHPUT:
        import imagecodecs  # OpenJPH; its order of progression is RPCL, so that one codestream serves both syntaxes

        dataset.PixelData = encapsulate([imagecodecs.htj2k_encode(pixels, reversible=True)])
    elif syntax == uid.JPEGExtended12Bit:
        dataset.PixelData = encapsulate([jpeg_of_flat_blocks(pixels)])
    elif syntax in PYDICOM_ENCODERS:
        dataset.compress(syntax, encoding_plugin=PYDICOM_ENCODERS[syntax], generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    if uid.UID(syntax).is_encapsulated:
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True


def _gdcm_frame(dataset: Dataset, syntax: str) -> bytes:
    """The pixels of a native dataset as one frame encoded by GDCM, which works on files."""
    import gdcm  # never before zlib: GDCM exports its own zlib to the whole process, and mixing the two corrupts memory

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "native.dcm")
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(path)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(path)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


def jpeg_of_flat_blocks(blocks: NDArray[Any]) -> bytes:
    """A 12-bit extended sequential JPEG (process 4) of 8 x 8 pixels per value, for want of an encoder.

    Each block has a DC coefficient and nothing else; with a quantiser of 8 the value comes back exactly.
    Source: ITU-T T.81 B.2, F.1.2.1, K.3.
    """
    rows, columns = 8 * blocks.shape[0], 8 * blocks.shape[1]
    bits, previous = "", 0
    for coefficient in (int(value) - 2048 for value in blocks.ravel()):
        difference, previous = coefficient - previous, coefficient
        size = abs(difference).bit_length()
        code = difference if difference > 0 else difference + 2**size - 1
        bits += f"{size:04b}" + (f"{code:0{size}b}" if size else "") + "0"  # 4-bit code of the size, then end of block
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    dc_codes, ac_codes = bytes([0, 0, 0, 14, *[0] * 12, *range(14)]), bytes([1, *[0] * 15, 0])
    segments = [
        (0xDB, bytes([0, *[8] * 64])),
        (0xC1, struct.pack(">BHHB", 12, rows, columns, 1) + b"\1\x11\0"),
        (0xC4, b"\0" + dc_codes + b"\x10" + ac_codes),
        (0xDA, b"\1\1\0\0\x3f\0"),
    ]
    header = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return b"\xff\xd8" + header + scan + b"\xff\xd9"
