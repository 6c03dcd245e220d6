"""The counts of a run, told by several threads."""

from threading import Thread

from cxr_ray.scoring.meter import Meter


def test_add_from_a_second_thread_in_the_middle_of_another_is_not_lost():
    meter = Meter()
    meter.add({"decode": 1}, {}, {})
    second = Thread(target=meter.add, args=({"decode": 10}, {}, {}))

    class Interrupted(int):
        """Is added to what was read before, while another thread adds as well."""

        def __add__(self, other: int) -> int:
            second.start()
            second.join(timeout=1.0)  # for ever, where it may not
            return int(self) + other

    meter.add({"decode": Interrupted(100)}, {}, {})
    second.join()
    assert meter.read()["images"] == {"decode": 111}
