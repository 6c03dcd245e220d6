"""The arithmetic of grey.py against pydicom, highdicom and numpy, step by step."""

import highdicom
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from cxr_ray.errors import DecodeError, Fault
from cxr_ray.images import grey, transfer
from cxr_ray.images.phantom import make_phantom

words_16 = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7))


def lut_dataset(sequence: str, *, first: int, entries: np.ndarray, bits: int, signed: bool = False) -> Dataset:
    """A dataset with one LUT item, as pydicom's own functions take it."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    dataset = Dataset()
    dataset.PixelRepresentation, dataset.BitsStored = int(signed), 12
    setattr(dataset, sequence, Sequence([item]))
    dataset.set_original_encoding(False, True)
    return dataset


@given(words=words_16, bits_stored=st.integers(1, 16), signed=st.booleans(), data=st.data())
def test_stored_values_dirty_bits_give_value_in_place(words, bits_stored, signed, data):
    high_bit = data.draw(st.integers(bits_stored - 1, 15))
    values = grey.stored_values(words, bits_stored=bits_stored, high_bit=high_bit, signed=signed)
    for word, value in zip(words.ravel(), values.ravel(), strict=True):
        digits = f"{word:016b}"[15 - high_bit : 16 - high_bit + bits_stored - 1]
        assert value == int(digits, 2) - (2**bits_stored if signed and digits[0] == "1" else 0)


def test_stored_values_overlay_in_high_bits_cleared():
    words = np.array([[0x8FFF, 0x1001]], np.uint16)
    assert_array_equal(grey.stored_values(words, bits_stored=12, high_bit=11, signed=False), [[4095, 1]])


def test_stored_values_big_endian_samples_same_values():
    words = np.array([[1, 300], [4095, 70]], np.uint16)
    swapped = grey.stored_values(words.astype(">u2"), bits_stored=12, high_bit=11, signed=False)
    assert_array_equal(swapped, words)


def test_rescale_negative_slope_equals_pydicom():
    dataset = Dataset()
    dataset.RescaleSlope, dataset.RescaleIntercept = -0.684, 200
    stored = np.arange(0, 4096, 5, dtype=np.uint16)
    assert_allclose(transfer.Rescale(-0.684, 200.0)(stored.astype(np.float64)), apply_modality_lut(stored, dataset))


@pytest.mark.parametrize(("first", "signed"), [(0, False), (100, False), (-60, True)])
def test_lut_modality_equals_pydicom(first, signed):
    entries = (np.arange(300) ** 2 % 4001).astype(np.uint16)
    dataset = lut_dataset("ModalityLUTSequence", first=first, entries=entries, bits=16, signed=signed)
    stored = np.arange(-100 if signed else 0, 500, dtype=np.int16)
    table = transfer.lut(300, first, 16, entries.astype("<u2").tobytes(), little_endian=True, signed=signed)
    assert_array_equal(table(stored.astype(np.float64)), apply_modality_lut(stored, dataset))


def test_lut_voi_equals_pydicom_over_full_scale():
    entries = (np.arange(512) * 7 % 1024).astype(np.uint16)
    dataset = lut_dataset("VOILUTSequence", first=40, entries=entries, bits=10)
    values = np.arange(0, 700, dtype=np.uint16)
    table = transfer.lut(512, 40, 10, entries.astype("<u2").tobytes(), little_endian=True, signed=False)
    assert_allclose(table.show(values.astype(np.float64)), apply_voi_lut(values, dataset) / 1023.0)


def test_lut_first_input_written_as_unsigned_is_negative_for_signed_pixels():
    table = transfer.lut(2, 2**16 - 5, 8, np.array([10, 20]), little_endian=True, signed=True)
    assert_array_equal(table(np.array([-6.0, -5.0, -4.0, 0.0])), [10, 10, 20, 20])


@pytest.mark.parametrize(
    ("data", "little_endian"),
    [(bytes([1, 2, 3, 4]), True), (bytes([1, 0, 2, 0, 3, 0, 4, 0]), True), (bytes([0, 1, 0, 2, 0, 3, 0, 4]), False)],
    ids=["packed", "words", "big endian words"],
)
def test_lut_8_bit_entries_either_packing_same_table(data, little_endian):
    table = transfer.lut(4, 0, 8, data, little_endian=little_endian, signed=False)
    assert_array_equal(table.entries, [1, 2, 3, 4])


def test_lut_no_entries_stated_means_65536():
    table = transfer.lut(0, 0, 16, np.arange(2**16), little_endian=True, signed=False)
    assert table.entries.size == 2**16
    assert table(np.array([65535.0]))[0] == 65535


def test_lut_entries_beyond_stated_bits_stay_within_one():
    table = transfer.Lut(first=0.0, entries=np.array([0.0, 1000.0, 4000.0]), bits=8)
    assert_allclose(table.show(np.array([0.0, 1.0, 2.0])), np.array([0, 1000, 4000]) / 4095)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (600.5, 1600), (-200, 1.5), (0, 2), (100, 333.3)])
def test_window_each_function_equals_highdicom(function, center, width):
    values = np.concatenate([np.arange(-3000.0, 5000.0, 7.3), [center, center - 0.5, center - width / 2]])
    with np.errstate(over="ignore"):  # in its sigmoid, far from the centre
        expected = highdicom.pixels.apply_voi_window(values, center, width, function, output_range=(0.0, 1.0))
    shown = transfer.window(float(center), float(width), function=function).show(values)
    assert_allclose(shown, expected, atol=1e-12)


def test_window_linear_of_width_one_is_a_step():
    """PS3.3 C.11.2.1.2.1: x <= c - 0.5 is black, and with w = 1 everything above is white."""
    shown = transfer.window(10.0, 1.0, function="LINEAR").show(np.array([9.0, 9.5, 9.6, 10.0]))
    assert_array_equal(shown, [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("width", "function"),
    [(0.5, "LINEAR"), (0.0, "LINEAR_EXACT"), (-4.0, "SIGMOID"), (0.0, "SIGMOID"), (100.0, "CUBIC")],
)
def test_window_not_allowed_by_the_standard_is_none(width, function):
    assert transfer.window(100.0, width, function=function) is None


def test_window_narrower_than_one_allowed_where_exact():
    shown = transfer.window(0.5, 0.5, function="LINEAR_EXACT").show(np.array([0.2, 0.25, 0.5, 0.75, 0.8]))
    assert_allclose(shown, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("value", "limit", "bits", "signed", "expected"),
    [
        (0, 0, 16, False, (0, 0)),
        (4095, 4000, 16, False, (4000, 4095)),
        (63536, 63536, 16, True, (-2000, -2000)),
        (-2000, 65535, 16, True, (-2000, -1)),
        (-1, -1, 16, False, (65535, 65535)),
        (-1.5, 2.5, None, False, (-1.5, 2.5)),
    ],
)
def test_padding_range_reads_the_bits_in_the_sign_of_the_pixels(value, limit, bits, signed, expected):
    assert grey.padding_range(value, limit, bits_allocated=bits, signed=signed) == expected


@given(
    values=hnp.arrays(np.int16, st.integers(2, 300), elements=st.integers(-500, 500)),
    low=st.integers(0, 45),
    high=st.integers(55, 100),
)
def test_percentile_range_equals_numpy_from_either_end(values, low, high):
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size < 2:
        with pytest.raises(DecodeError) as raised:
            grey.percentile_range(distinct.astype(float), counts, (low, high))
        assert raised.value.fault is Fault.BLANK
        return
    expected_low = np.percentile(values, low, method="inverted_cdf")
    expected_high = -np.percentile(-values, 100 - high, method="inverted_cdf")
    span = grey.percentile_range(distinct.astype(float), counts, (low, high))
    if expected_low < expected_high:
        assert (span.low, span.high) == (expected_low, expected_high)
    else:
        assert (span.low, span.high) == (values.min(), values.max())


def film_steps(**steps) -> grey.GreySteps:
    """Plain 12-bit unsigned steps."""
    return grey.GreySteps(**{"bits_stored": 12, "high_bit": 11, "signed": False, **steps})


@pytest.mark.parametrize(
    ("center", "width", "expected"),
    [
        (2048, 4096, "window"),  # the whole range
        (1200, 700, "window"),  # narrow, but among the pixels
        (9000, 100, "percentiles"),  # above all pixels
        (-5000, 300, "percentiles"),  # below all pixels
        (128, 200, "percentiles"),  # left over from an 8-bit image: clips 95 % of the film
        (2**20, 2**21, "percentiles"),  # so wide that the film is one shade
    ],
)
def test_render_window_that_misses_the_film_replaced_by_percentiles(film, center, width, expected):
    steps = film_steps(voi=(("window", transfer.linear_span(center, width)),))
    pixels, source = grey.render(film, steps, percentiles=(0.5, 99.5))
    assert source == expected
    assert pixels.max() - pixels.min() > 0.9


def test_render_first_usable_candidate_wins(film):
    flat = transfer.Lut(first=0.0, entries=np.full(10, 7.0), bits=12)
    window = transfer.linear_span(2048, 4096)
    _, source = grey.render(film, film_steps(voi=(("lut", flat), ("window", window))), percentiles=(0.5, 99.5))
    assert source == "window"


def test_render_inversion_is_last(film):
    """Inverting before the window would show another range."""
    steps = {"voi": (("window", transfer.linear_span(900, 1200)),)}
    upright, _ = grey.render(film, film_steps(**steps), percentiles=(0.5, 99.5))
    negative, _ = grey.render(film, film_steps(**steps, inverted=True), percentiles=(0.5, 99.5))
    assert_allclose(negative, 1.0 - upright, atol=1e-7)


def test_render_padding_is_black_in_both_photometrics_and_out_of_the_percentiles(film):
    padded = np.pad(film.clip(1000, 3000), 9, constant_values=4095)
    for inverted in (False, True):
        pixels, _ = grey.render(padded, film_steps(padding=(4095, 4095), inverted=inverted), percentiles=(0, 100))
        bare, _ = grey.render(film.clip(1000, 3000), film_steps(inverted=inverted), percentiles=(0, 100))
        assert_array_equal(pixels[9:-9, 9:-9], bare)
        assert not pixels[:9].any()
        assert not pixels[:, -9:].any()


def test_render_percentiles_of_a_negative_count_from_its_dark_end(film):
    upright, _ = grey.render(film, film_steps(), percentiles=(1.0, 90.0))
    negative, _ = grey.render(4095 - film, film_steps(inverted=True), percentiles=(1.0, 90.0))
    assert_array_equal(negative, upright)
    assert np.mean(upright == 1.0) == pytest.approx(0.10, abs=0.01)


def bordered(film: np.ndarray, share: float, value: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The film in a border that makes up about `share` of the whole, and where the film is in it."""
    rows, columns = film.shape
    width = next(k for k in range(1, 99) if 1 - rows * columns / (rows + 2 * k) / (columns + 2 * k) >= share)
    return np.pad(film, width, constant_values=value), (slice(width, -width),) * 2


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("value", [0, 4095])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", [3, 5, 7])
def test_render_uniform_border_inside_as_uncollimated(seed, share, value, inverted):
    """The phantoms of these seeds have no collimated border of their own."""
    film = np.rint(make_phantom(seed, side=200).pixels * 3500 + 200).astype(np.uint16)
    whole, inside = bordered(film, share, value)
    bare, _ = grey.render(film, film_steps(inverted=inverted), percentiles=(0.5, 99.5))
    pixels, source = grey.render(whole, film_steps(inverted=inverted), percentiles=(0.5, 99.5))
    assert source == "percentiles"
    assert_array_equal(pixels[inside], bare)
    assert pixels[0, 0] == float((value == 4095) != inverted)


def test_render_window_that_only_the_border_falls_into_misses_the_data(film):
    whole, inside = bordered(film.clip(1000, 3000), 0.3, 0)
    steps = film_steps(voi=(("window", transfer.linear_span(50, 100)),))
    pixels, source = grey.render(whole, steps, percentiles=(0.5, 99.5))
    assert source == "percentiles"
    assert pixels[inside].std() > 0.1


def test_without_borders_only_ends_above_one_percent_go():
    values, counts = np.arange(5.0), np.array([2, 20, 940, 27, 11])
    assert_array_equal(grey.without_borders(values, counts, percentiles=(0.5, 99.5)), [2, 20, 940, 27, 0])
    assert_array_equal(counts, [2, 20, 940, 27, 11])


def test_without_borders_end_asked_for_stays():
    values, counts = np.arange(4.0), np.array([50, 400, 500, 50])
    assert_array_equal(grey.without_borders(values, counts, percentiles=(0.0, 99.5)), [50, 400, 500, 0])
    assert_array_equal(grey.without_borders(values, counts, percentiles=(0.5, 100.0)), [0, 400, 500, 50])


@pytest.mark.parametrize("counts", [[50, 900, 50], [500, 0, 500], [0, 7, 0], [0, 0, 0]])
def test_without_borders_nothing_to_see_left_all_stay(counts):
    kept = grey.without_borders(np.arange(3.0), np.array(counts), percentiles=(0.5, 99.5))
    assert_array_equal(kept, counts)


def test_without_borders_entries_of_one_value_count_together():
    """A modality LUT may send many stored values to the same end."""
    values, counts = np.array([9.0, 0.0, 5.0, 0.0, 7.0]), np.array([5, 6, 500, 6, 483])
    assert_array_equal(grey.without_borders(values, counts, percentiles=(0.5, 99.5)), [5, 0, 500, 0, 483])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_render_same_values_in_any_type_same_film(film, dtype):
    reduced = film // 32
    reference, _ = grey.render(reduced, grey.GreySteps(16, 15, False), percentiles=(0.5, 99.5))
    bits = 8 * np.dtype(dtype).itemsize
    steps = grey.GreySteps(bits, bits - 1, np.dtype(dtype).kind == "i")
    pixels, _ = grey.render(reduced.astype(dtype), steps, percentiles=(0.5, 99.5))
    assert_array_equal(pixels, reference)


def test_render_floats_that_are_not_finite_are_padding(film):
    values = film.astype(np.float32)
    values[3, 4], values[5, 6] = np.nan, np.inf
    pixels, _ = grey.render(values, film_steps(), percentiles=(0, 100))
    assert pixels[3, 4] == pixels[5, 6] == 0.0
    assert np.isfinite(pixels).all()
    assert pixels.max() == 1.0


def test_render_one_differing_pixel_outside_the_subsample_is_not_blank():
    words = np.zeros((1200, 1300), np.uint16)
    words[7, 5] = 9
    pixels, _ = grey.render(words, film_steps(), percentiles=(0.5, 99.5))
    assert pixels[7, 5] == 1.0
    assert pixels.sum() == 1.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_render_constant_film_blank(dtype):
    with pytest.raises(DecodeError) as raised:
        grey.render(np.full((6, 7), 5, dtype), grey.GreySteps(8, 7, False), percentiles=(0.5, 99.5))
    assert raised.value.fault is Fault.BLANK


@given(
    words=words_16.filter(lambda words: np.unique(words & 0xFFF).size > 1),
    inverted=st.booleans(),
    signed=st.booleans(),
    center=st.floats(-3000, 5000),
    width=st.floats(1, 5000),
)
def test_render_any_film_within_range_and_argument_untouched(words, inverted, signed, center, width):
    before = words.copy()
    steps = film_steps(signed=signed, inverted=inverted, voi=(("window", transfer.linear_span(center, width)),))
    pixels, _ = grey.render(words, steps, percentiles=(0.5, 99.5))
    assert pixels.dtype == np.float32
    assert pixels.shape == words.shape
    assert pixels.min() >= 0.0
    assert pixels.max() <= 1.0
    assert_array_equal(words, before)


@given(words_16.filter(lambda words: np.unique(words & 0xFFF).size > 1))
def test_render_monochrome1_of_the_inverted_equals_monochrome2(words):
    stored = words & 0xFFF
    upright, _ = grey.render(stored, film_steps(), percentiles=(0.5, 99.5))
    negative, _ = grey.render(4095 - stored, film_steps(inverted=True), percentiles=(0.5, 99.5))
    assert_array_equal(negative, upright)


def test_grey_from_rgb_equal_channels_exact():
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert_array_equal(grey.grey_from_rgb(np.dstack([shades] * 3), full_scale=255.0) * 255.0, shades)


@pytest.mark.parametrize(("chroma", "share", "colour"), [(16, 1.0, False), (17, 1.0, True), (200, 0.009, False)])
def test_grey_from_rgb_chroma_beyond_tolerance_colour(chroma, share, colour):
    rgb = np.full((40, 50, 3), 20, np.uint8)
    rgb.reshape(-1, 3)[: int(share * 2000), 0] += chroma
    if not colour:
        assert grey.grey_from_rgb(rgb, full_scale=255.0).shape == (40, 50)
        return
    with pytest.raises(DecodeError) as raised:
        grey.grey_from_rgb(rgb, full_scale=255.0)
    assert raised.value.fault is Fault.COLOUR
