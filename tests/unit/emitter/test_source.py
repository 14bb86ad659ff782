from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from icestream.physics.detector import Detector, icecube86
from icestream.physics.events import Event, EventId
from icestream.readers.datasets import open_dataset
from icestream.readers.kaggle import KaggleDataset, KaggleWriter
from icestream.readers.unreadable import UnreadableEvent
from services.emitter import source as source_module
from services.emitter.source import Source, dataset_source, in_thread, simulated_source
from tests.unit.emitter.emitter_cases import make_event
from tests.unit.readers.realtime.realtime_messages import Message

N_EVENTS = 7


def write_dataset(folder: Path, event_ids: Iterable[int]) -> Path:
    with KaggleWriter(folder, events_per_batch=3) as writer:
        for event_id in event_ids:
            writer.write(make_event(event_id))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "muons", range(1, N_EVENTS + 1))


def source_of(
    folder: Path, *, limit: int | None = None, name: str | None = None, **choice: list[int]
) -> Source:
    return dataset_source(
        KaggleDataset.open(folder, batch_ids=choice.get("batch_ids"), event_ids=choice.get("event_ids")),
        name,
        limit,
    )


def simulated(*, seed: int = 1, limit: int | None = 3) -> Source:
    return simulated_source(icecube86(), seed=seed, name=None, limit=limit)


def numbered_events(detector: Detector, *, seed: int, first: int, n_events: int | None) -> Iterator[Event]:
    """What the simulator promises, without its seconds of compilation."""
    assert n_events is not None
    return (make_event(i, run_id=seed) for i in range(first, first + n_events))


def ids(events: Iterable[Event | UnreadableEvent]) -> list[EventId]:
    return [event.id for event in events]


def test_a_data_set_is_named_after_its_folder(folder: Path) -> None:
    assert source_of(folder).name == "muons"
    assert source_of(folder, name="other").name == "other"
    assert simulated().name == "simulation"


def test_it_says_how_many_events_there_are(folder: Path) -> None:
    assert source_of(folder).n_events == N_EVENTS
    assert source_of(folder, limit=4).n_events == 4
    assert source_of(folder, limit=400).n_events == N_EVENTS
    assert simulated(limit=None).n_events is None


@pytest.mark.parametrize("limit", [None, 5])
def test_events_go_on_exactly_where_they_were_left(folder: Path, limit: int | None) -> None:
    source = source_of(folder, limit=limit)
    everything = ids(source.events_from(0))
    assert len(everything) == limit or N_EVENTS
    for position in range(len(everything) + 1):
        assert ids(source.events_from(position)) == everything[position:]


def test_chosen_events_go_on_exactly_where_they_were_left(folder: Path) -> None:
    source = source_of(folder, event_ids=[2, 5, 6])
    everything = ids(source.events_from(0))
    assert [event_id.event_id for event_id in everything] == [2, 5, 6]
    assert ids(source.events_from(2)) == everything[2:]


def test_simulated_events_go_on_exactly_where_they_were_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "simulate", numbered_events)
    source = simulated(limit=3)
    everything = ids(source.events_from(0))
    assert len(everything) == 3
    assert ids(source.events_from(1)) == everything[1:]
    assert ids(source.events_from(3)) == []


def test_another_choice_has_another_fingerprint(folder: Path) -> None:
    fingerprints = [
        source_of(folder).fingerprint,
        source_of(folder, batch_ids=[1]).fingerprint,
        source_of(folder, event_ids=[1, 2]).fingerprint,
        source_of(folder, event_ids=[1, 3]).fingerprint,
        simulated(seed=1).fingerprint,
        simulated(seed=2).fingerprint,
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_same_choice_has_the_same_fingerprint_whatever_its_order_and_length(folder: Path) -> None:
    assert source_of(folder, event_ids=[2, 1]).fingerprint == source_of(folder, event_ids=[1, 2]).fingerprint
    assert source_of(folder, limit=3).fingerprint == source_of(folder).fingerprint
    assert simulated(limit=None).fingerprint == simulated(limit=3).fingerprint


def test_other_events_under_the_same_name_have_another_fingerprint(tmp_path: Path, folder: Path) -> None:
    other = write_dataset(tmp_path / "muons", range(101, 101 + N_EVENTS))
    assert source_of(other).fingerprint != source_of(folder).fingerprint


@pytest.fixture
def alerts(tmp_path: Path) -> Path:
    folder = tmp_path / "alerts.of.2022"
    folder.mkdir()
    (folder / "a.1.json").write_bytes(Message().as_json())
    (folder / "b.pkl").write_bytes(Message().as_pickle())
    (folder / "c.json").write_bytes(b"{")
    return folder


def messages(path: Path, event_ids: list[int] | None = None) -> Source:
    return dataset_source(open_dataset(path, event_ids=event_ids), None, None)


def test_realtime_messages_are_named_after_their_folder_or_file(alerts: Path) -> None:
    assert messages(alerts).name == "alerts.of.2022"
    assert messages(alerts / "a.1.json").name == "a.1"


def test_realtime_messages_go_on_exactly_where_they_were_left(alerts: Path) -> None:
    source = messages(alerts)
    assert source.n_events == 3
    everything = ids(source.events_from(0))
    assert everything[:2] == [EventId(123456, 789)] * 2
    assert ids(source.events_from(1)) == everything[1:]
    assert isinstance(next(source.events_from(2)), UnreadableEvent)


def test_other_realtime_messages_have_another_fingerprint(alerts: Path) -> None:
    fingerprints = {messages(alerts).fingerprint, messages(alerts, event_ids=[789]).fingerprint}
    assert messages(alerts).fingerprint in fingerprints
    (alerts / "b.pkl").write_bytes(Message(figures={"nch": 3}).as_pickle())
    fingerprints.add(messages(alerts).fingerprint)
    (alerts / "c.json").rename(alerts / "d.json")
    fingerprints.add(messages(alerts).fingerprint)
    assert len(fingerprints) == 4


def test_a_limit_that_was_passed_before_leaves_nothing_to_do(folder: Path) -> None:
    assert ids(source_of(folder, limit=2).events_from(5)) == []


async def test_a_thread_hands_over_every_item_in_order() -> None:
    assert [item async for item in in_thread(iter(range(200)))] == list(range(200))


async def test_a_thread_hands_over_failures_as_well() -> None:
    def failing() -> Iterator[int]:
        yield from range(100)
        raise ValueError("the file ends here")

    taken: list[int] = []

    async def take() -> None:
        async for item in in_thread(failing()):
            taken.append(item)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(ValueError, match="the file ends here"):
        await take()
    assert taken == list(range(64))
