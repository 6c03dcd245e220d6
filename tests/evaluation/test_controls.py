import numpy as np

from cxr_ray.evaluation.localisation.controls import LesionPrior, centre_map, film_share, random_map
from cxr_ray.evaluation.localisation.subjects import Film, choose
from cxr_ray.images.preprocess import Placement

PLACE = Placement(2.0, 0.0, 2.0, -8.0)  # 32 x 16 pixels in the middle of 16 x 16


def film(patient, uri="x"):
    return Film(uri, "", patient, PLACE, 32, 16, np.ones(2))


def test_film_share_is_one_on_the_film_and_zero_beside_it():
    share = film_share(PLACE, 32, 16, size=16, grid=8)
    np.testing.assert_allclose(share, np.tile([0, 0, 1, 1, 1, 1, 0, 0], (8, 1)), atol=1e-12)


def test_centre_map_has_its_peak_in_the_middle_of_the_film():
    share = np.zeros((9, 9))
    share[2:9, 1:6] = 1.0
    found = centre_map(film=share)
    assert np.unravel_index(found.argmax(), found.shape) == (5, 3)
    assert found.max() == 1.0


def test_random_map_is_the_same_for_the_same_image_and_only_for_it():
    share = film_share(PLACE, 32, 16, size=16, grid=8)
    first = random_map("a", "Mass", film=share, seed=0)
    np.testing.assert_array_equal(first, random_map("a", "Mass", film=share, seed=0))
    for other in (("b", "Mass", 0), ("a", "Nodule", 0), ("a", "Mass", 1)):
        assert np.abs(first - random_map(*other[:2], film=share, seed=other[2])).max() > 0.1
    assert first.max() == 1.0
    assert not first[:, :2].any()


def test_lesion_prior_knows_only_the_other_patients():
    def lesion(row, column):
        mask = np.zeros((32, 16), bool)
        mask[row : row + 4, column : column + 4] = True
        return mask

    marks = [
        (film("p"), {0: lesion(0, 0)}),
        (film("q"), {0: lesion(8, 4)}),
        (film("q"), {0: lesion(8, 4), 1: lesion(0, 0)}),
    ]
    prior = LesionPrior(marks, size=16, grid=8)
    from_q = prior.others(0, "p")
    assert np.argwhere(from_q > 0).tolist() == [[2, 3]]  # film (8..12, 4..8) is input (4..6, 6..8)
    assert np.argwhere(prior.others(0, "q") > 0).tolist() == [[0, 2]]
    assert prior.others(0, "r").max() == 1.0
    assert prior.others(1, "q") is None


def test_choose_takes_whole_patients_until_the_limit():
    films = [film(f"p{number // 3}", f"{number}") for number in range(30)]
    chosen = choose(films, limit=9, seed=0)
    assert len(chosen) == 9
    assert len({found.patient for found in chosen}) == 3
    assert chosen == choose(films, limit=9, seed=0)
    assert {found.patient for found in chosen} != {found.patient for found in choose(films, limit=9, seed=1)}
    assert sorted(found.uri for found in choose(films, limit=99, seed=0)) == sorted(found.uri for found in films)
