import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icestream.scan_codec import PixelWork
from services.scanner.worker.splitting import halves
from tests.unit.scanner.worker_cases import a_batch


def parts_of(work: PixelWork) -> list[PixelWork]:
    """All single rows that halving leads to."""
    if len(work.batch) == 1:
        return [work]
    return [part for half in halves(work) for part in parts_of(half)]


@given(st.integers(1, 40))
def test_halving_to_the_end_gives_every_row_once_under_a_name_of_its_own(n: int) -> None:
    work = PixelWork("s1", "dummy", "sha", a_batch(*range(100, 100 + n)), first_row=5)
    parts = parts_of(work)
    assert [part.batch.pixel.tolist() for part in parts] == [[pixel] for pixel in range(100, 100 + n)]
    assert [part.first_row for part in parts] == list(range(5, 5 + n))
    assert len({part.message_id for part in parts}) == n
    assert {len(part.batch.seeds) for part in parts} == {1}


def test_rows_keep_everything_that_belongs_to_them() -> None:
    batch = a_batch(1, 2, 3)
    first, second = halves(PixelWork("s1", "dummy", "sha", batch, part="0"))
    assert (first.part, second.part) == ("00", "01")
    np.testing.assert_array_equal(second.batch.variation, batch.variation[1:])
    np.testing.assert_array_equal(second.batch.direction, batch.direction[1:])
    np.testing.assert_array_equal(second.batch.seeds, batch.seeds[1:])
    assert (second.batch.number, second.batch.nside) == (batch.number, batch.nside)
