"""PNG, JPEG and TIFF files of every kind, and what all formats share."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps

from cxr_ray.config import LimitsConfig, PreprocessConfig
from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images.header import Header
from cxr_ray.images.radiograph import decode, read_header

SHADES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)).filter(
    lambda shades: shades.min() < shades.max()
)


def encode(image: Image.Image | np.ndarray, file_format: str, **options) -> bytes:
    """The image as a file of that format."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    target = io.BytesIO()
    image.save(target, format=file_format, **options)
    return target.getvalue()


def fault_of(data: bytes, **limits) -> DecodeError:
    """The error that reading and decoding `data` ends with."""
    with pytest.raises(DecodeError) as raised:
        decode(read_header(data, limits=LimitsConfig(**limits)), preprocess=PreprocessConfig())
    return raised.value


@pytest.fixture(scope="module")
def shades(film) -> np.ndarray:
    """The film in 8 bits."""
    return (film // 16).astype(np.uint8)


@pytest.fixture(scope="module")
def wide(film) -> np.ndarray:
    """The film over all 16 bits."""
    return (film.astype(np.uint32) * 65535 // 4095).astype(np.uint16)


@settings(deadline=None)
@given(pixels=SHADES, file_format=st.sampled_from(["PNG", "TIFF"]))
def test_decode_8_bit_grey_is_value_over_255(show, pixels, file_format):
    radiograph = show(encode(pixels, file_format))
    assert_array_equal(np.rint(radiograph.pixels * 255.0), pixels)
    assert radiograph.pixels.dtype == np.float32
    assert 0.0 <= radiograph.pixels.min() < radiograph.pixels.max() <= 1.0
    assert radiograph.voi_source == "full_range"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_read_header_raster_has_size_and_nothing_of_dicom(shades, file_format):
    header = read_header(encode(shades, file_format), limits=LimitsConfig(), patient_key_secret=b"key").header
    assert header == Header(format=file_format.lower(), rows=62, columns=47)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_16_bit_grey_over_the_full_range(show, wide, file_format):
    radiograph = show(encode(wide, file_format))
    assert_allclose(radiograph.pixels, wide / 65535.0, atol=1e-6)
    assert radiograph.voi_source == "full_range"


def bare_tiff(samples: np.ndarray, *, order: str, photometric: int) -> bytes:
    """An uncompressed TIFF written by hand, for what Pillow's writer turns around. Source: TIFF 6.0, section 2."""
    rows, columns = samples.shape
    sample_format = 3 if samples.dtype.kind == "f" else 1
    bits = 8 * samples.dtype.itemsize
    shorts = {256: columns, 257: rows, 258: bits, 259: 1, 262: photometric, 277: 1, 278: rows, 339: sample_format}
    longs = {273: 8 + 2 + 12 * 10 + 4, 279: samples.nbytes}
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, shorts[tag], 0)
        if tag in shorts
        else struct.pack(f"{order}HHII", tag, 4, 1, longs[tag])
        for tag in sorted(shorts | longs)
    )
    magic = b"MM\0*" if order == ">" else b"II*\0"
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    return magic + struct.pack(f"{order}IH", 8, 10) + entries + bytes(4) + pixels


def test_decode_16_bit_big_endian_tiff_same_pixels(show, wide):
    assert_allclose(show(bare_tiff(wide, order=">", photometric=1)).pixels, wide / 65535.0, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 4, 8], ids=["12 bits", "14 bits", "15 bits"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_fewer_bits_in_16_stretched_by_percentiles(show, film, file_format, factor):
    radiograph = show(encode(film * np.uint16(factor), file_format), percentiles=(0.0, 100.0))
    assert_allclose(radiograph.pixels, film / 4095.0, atol=1e-6)
    assert radiograph.voi_source == "percentiles"


@pytest.mark.parametrize(
    ("scale", "shift", "source"), [(1.0, 0.0, "full_range"), (1.2, -0.3, "percentiles"), (900.0, -40.0, "percentiles")]
)
def test_decode_float_tiff_zero_to_one_or_percentiles(show, film, scale, shift, source):
    values = (film / 4095.0 * scale + shift).astype(np.float32)
    radiograph = show(encode(values, "TIFF"), percentiles=(0.0, 100.0))
    assert radiograph.voi_source == source
    assert_allclose(radiograph.pixels, film / 4095.0, atol=1e-5)


def test_decode_32_bit_tiff_beyond_16_bits_percentiles(show, film):
    radiograph = show(encode(film.astype(np.int32) * 1000 - 9, "TIFF"), percentiles=(0.0, 100.0))
    assert radiograph.voi_source == "percentiles"
    assert_allclose(radiograph.pixels, film / 4095.0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "white", "order"),
    [
        (np.uint8, 255, "<"),
        (np.uint8, 255, ">"),
        (np.uint16, 65535, "<"),
        (np.float32, 1.0, "<"),
        (np.float32, 1.0, ">"),
    ],
)
def test_decode_tiff_white_is_zero_inverted_at_every_depth(show, film, dtype, white, order):
    upright = (film / 4095.0 * white).astype(dtype)
    radiograph = show(bare_tiff((white - upright).astype(dtype), order=order, photometric=0))
    assert_allclose(radiograph.pixels, upright / white, atol=1e-6)
    assert radiograph.voi_source == "full_range"


def test_decode_tiff_layout_pillow_does_not_know_unsupported(wide):
    assert fault_of(bare_tiff(wide, order=">", photometric=0)).fault is Fault.UNSUPPORTED_ENCODING


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"])
def test_decode_grey_in_a_colour_mode_same_shades(show, shades, mode):
    image = Image.fromarray(shades)
    if mode == "CMYK":
        black = 255 - shades
        image = Image.merge("CMYK", [Image.fromarray(np.zeros_like(shades))] * 3 + [Image.fromarray(black)])
    else:
        image = image.convert("RGB").convert(mode) if mode == "YCbCr" else image.convert(mode)
    data = encode(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert Image.open(io.BytesIO(data)).mode == mode
    radiograph = show(data)
    assert_allclose(radiograph.pixels, shades / 255.0, atol=1.01 / 255)
    assert radiograph.voi_source == "full_range"


def test_decode_one_bit_image_black_and_white(show, film):
    bits = film > 2000
    assert_array_equal(show(encode(bits, "PNG")).pixels, bits.astype(np.float32))


def test_decode_see_through_pixels_black(show, shades):
    alpha = np.full_like(shades, 255)
    alpha[10:20, 5:30] = 0
    alpha[30:40] = 128
    image = Image.merge("LA", [Image.fromarray(shades), Image.fromarray(alpha)])
    expected = shades / 255.0 * (alpha / 255.0)
    assert_allclose(show(encode(image, "PNG")).pixels, expected, atol=1.01 / 255)


def test_decode_palette_with_transparent_entry_black_there(show, shades):
    image = Image.fromarray(shades).convert("P")
    data = encode(image, "PNG", transparency=int(np.asarray(image)[3, 4]))
    pixels = show(data).pixels
    assert pixels[3, 4] == 0.0
    assert pixels[-1, -1] == 1.0


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_decode_jpeg_of_a_grey_film_saved_in_colour_passes(show, shades, quality):
    smooth = np.asarray(Image.fromarray(shades).resize((188, 248), Image.Resampling.BICUBIC))
    data = encode(np.dstack([smooth] * 3), "JPEG", quality=quality, subsampling="4:2:0")
    assert_allclose(show(data).pixels, smooth / 255.0, atol=0.12)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_decode_photograph_colour(shades, file_format):
    photograph = np.dstack([shades, shades[::-1], 255 - shades])
    assert fault_of(encode(photograph, file_format)).fault is Fault.COLOUR


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_decode_exif_orientation_applied_as_pillow_does(show, shades, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if file_format == "JPEG" else {}
    data = encode(shades, file_format, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    radiograph = show(data)
    assert_array_equal(np.rint(radiograph.pixels * 255), expected)
    assert (radiograph.header.rows, radiograph.header.columns) == expected.shape
    assert expected.shape == ((62, 47) if orientation < 5 else (47, 62))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"x"])
def test_decode_broken_exif_upright(show, shades, exif):
    assert_array_equal(np.rint(show(encode(shades, "PNG", exif=exif)).pixels * 255), shades)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_decode_several_frames_or_pages_multiple_frames(shades, file_format):
    pages = [Image.fromarray(shades), Image.fromarray(shades[::-1].copy())]
    data = encode(pages[0], file_format, save_all=True, append_images=pages[1:])
    error = fault_of(data)
    assert error.fault is Fault.MULTIPLE_FRAMES
    assert "2 frames" in error.detail


@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_decode_constant_image_blank(value, dtype):
    assert fault_of(encode(np.full((6, 7), value, dtype), "PNG")).fault is Fault.BLANK


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("share", [0.25, 0.6, 0.95])
def test_decode_truncated_file_corrupt(shades, file_format, share):
    data = encode(shades, file_format)
    assert fault_of(data[: int(share * len(data))]).fault is Fault.CORRUPT


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_decode_compressed_tiff_same_pixels(show, wide, compression):
    assert_allclose(show(encode(wide, "TIFF", compression=compression)).pixels, wide / 65535.0, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(file_format=st.sampled_from(["PNG", "JPEG", "TIFF"]), data=st.data())
def test_decode_damaged_bytes_pixels_or_fault_and_nothing_else(show, shades, file_format, data):
    damaged = bytearray(encode(shades, file_format))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = show(bytes(damaged)).pixels
    except DecodeError:
        return
    assert 0.0 <= pixels.min() < pixels.max() <= 1.0


def test_read_header_no_bytes_empty_file():
    assert fault_of(b"").fault is Fault.EMPTY_FILE


@pytest.mark.parametrize("data", [b"%PDF-1.7 ...", b"GIF89a" + bytes(40), b"uri,label\na.png,1\n", bytes(200), b"\x89"])
def test_read_header_other_bytes_not_an_image(data):
    assert fault_of(data).fault is Fault.NOT_AN_IMAGE


def test_read_header_more_bytes_than_the_limit_too_large(shades):
    error = fault_of(encode(shades, "PNG"), object_bytes=100)
    assert error.fault is Fault.TOO_LARGE
    assert "limits.object_bytes = 100" in error.detail


def png_header(rows: int, columns: int) -> bytes:
    """A PNG that promises a size and holds one byte of pixels. Source: PNG 3rd edition, 5.3 and 11.2."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    start = chunk(b"IHDR", columns.to_bytes(4) + rows.to_bytes(4) + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_read_header_more_pixels_than_the_limit_too_large_without_decoding():
    error = fault_of(png_header(200_000, 200_000))
    assert error.fault is Fault.TOO_LARGE
    assert "200000 x 200000" in error.detail


def test_read_header_between_pillows_limit_and_ours_no_warning():
    """Pillow's Image.open warns from 89 and refuses from 179 million pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(png_header(14_000, 14_000), limits=LimitsConfig(pixels=200_000_000)).header
    assert header.rows == 14_000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(png_header(14_000, 14_000)))


def test_read_header_dicom_whose_preamble_imitates_tiff_dicom(build_dicom, film):
    data = build_dicom(film, bits_stored=12)
    assert read_header(b"II*\0" + data[4:], limits=LimitsConfig()).header.format == "dicom"
