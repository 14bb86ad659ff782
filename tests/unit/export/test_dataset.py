import itertools
from contextlib import closing

import numpy as np

from export.dataset import BUCKET, ChunkShape, SimulatedChunks, batches, simulated_chunk
from tests.unit.export.export_cases import random_events

SHAPE = ChunkShape(n_events=12, max_batch=5, cuts=(24, 128))


def test_every_event_is_in_exactly_one_batch_of_its_length() -> None:
    events = random_events(1, 50)
    made = list(batches(events, 8))
    assert sorted(row for batch in made for row in batch.rows) == list(range(50))
    for batch in made:
        length = batch.pulses.shape[1]
        assert len(batch.rows) <= 8
        assert length % BUCKET == 0
        for i, row in enumerate(batch.rows):
            table = events.tables[row]
            assert length - BUCKET < len(table) <= length
            np.testing.assert_array_equal(batch.pulses[i, : len(table)], table)
            assert not batch.pulses[i, len(table) :].any()
        np.testing.assert_array_equal(batch.lengths[:, 0], events.n_pulses[batch.rows])
        np.testing.assert_array_equal(batch.directions, events.directions[batch.rows])


def test_no_events_make_no_batches() -> None:
    assert list(batches(random_events(1, 0), 8)) == []


def test_chunks_take_the_cuts_in_turn_and_share_no_event() -> None:
    chunks = [simulated_chunk(3, SHAPE, index) for index in range(2)]
    assert [max(batch.pulses.shape[1] for batch in chunk) <= 32 for chunk in chunks] == [True, False]
    directions = np.concatenate([batch.directions for chunk in chunks for batch in chunk])
    assert len(np.unique(directions, axis=0)) == 24


def test_a_stream_starts_anywhere_and_workers_change_nothing() -> None:
    with closing(SimulatedChunks(SHAPE, seed=3, n_workers=1).chunks(first=1)) as stream:
        for index, chunk in zip(itertools.count(1), itertools.islice(stream, 2), strict=False):
            for actual, expected in zip(chunk, simulated_chunk(3, SHAPE, index), strict=True):
                np.testing.assert_array_equal(actual.pulses, expected.pulses)
                np.testing.assert_array_equal(actual.directions, expected.directions)
