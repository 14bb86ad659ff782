"""The peer is faithful: the same events and the same model give the same directions as ours."""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import repeated, sample_events
from benchmarks.peer import pipeline
from benchmarks.peer.pipeline import Peer, find_redis, running_peer
from benchmarks.peer.wire import encode_events, pulses_of
from benchmarks.trivial_model import model_file, write_shipped_repository
from icestream.codec import decode_event, encode_event
from icestream.errors import Misconfigured
from icestream.physics.detector import icecube86
from icestream.physics.events import Event
from icestream.physics.features import pad_batch
from icestream.ports import CallOptions
from icestream.runtime.onnx_models import OnnxModels
from services.router.reconstruction import PreparedEvent

N_EVENTS = 50


@pytest.fixture(scope="module")
def emitters() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shipped_repository(tmp_path_factory.mktemp("models") / "repository", max_batch_size=64)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Peer]:
    try:
        find_redis()
    except Misconfigured as error:
        pytest.skip(str(error))
    with running_peer(tmp_path_factory.mktemp("peer"), model_file(repository)) as running:
        yield running


async def our_directions(repository: Path, events: list[Event]) -> dict[int, list[float]]:
    """Through our wire format, our checks and our features, event by event."""
    found = {}
    async with OnnxModels(repository, n_threads=1) as models:
        for event in events:
            decoded = decode_event(encode_event(event))
            assert isinstance(decoded, Event)
            prepared = PreparedEvent.prepare(decoded, {"icecube86": icecube86()})
            pulses, lengths = pad_batch([prepared.features], [len(decoded.pulses)], len(prepared.features))
            inputs = {"pulses": pulses, "lengths": lengths}
            answer = await models.infer_tensors("direction", inputs, CallOptions(timeout_s=60.0))
            found[event.id.event_id] = answer.tensors["direction"][0].tolist()
    return found


@pytest.mark.parametrize("batch", [1, 7])
async def test_the_peer_finds_the_directions_that_ours_finds(
    peer: Peer, emitters: Executor, repository: Path, batch: int
) -> None:
    sample = sample_events(N_EVENTS)
    drained = peer.drain(emitters, sample, batch, N_EVENTS, batch=batch)
    ours = await our_directions(repository, list(repeated(sample, batch, N_EVENTS)))
    theirs = {name.event_id: stored["direction"] for name, stored in peer.predictions().items()}
    assert theirs.keys() == ours.keys() == set(range(N_EVENTS))
    for number, direction in ours.items():
        assert theirs[number] == pytest.approx(direction, abs=1e-4)
    assert drained.n_events == N_EVENTS
    assert set(drained.cpu_s) == {"emitter", "broker", "consumer", "model server"}


def test_latencies_count_from_when_an_event_is_due(peer: Peer, emitters: Executor) -> None:
    found = peer.latencies(emitters, sample_events(20), 90, 100, batch=1, rate=100.0)
    assert 0 < found.p50_s <= found.p99_s


def test_a_killed_consumer_loses_at_most_the_batch_that_it_held(peer: Peer, emitters: Executor) -> None:
    found = peer.account_for_kills(emitters, sample_events(50), 91, 400, batch=4, n_kills=2)
    assert 0 <= found.n_lost <= 2 * 4
    assert found.n_lost % 4 == 0
    assert len(peer.predictions()) == 400 - found.n_lost


def test_pulses_survive_json_exactly() -> None:
    for event in sample_events(20):
        [written] = json.loads(encode_events([event]))
        assert written["event_id"] == str(event.id)
        read = pulses_of(written)
        for column in ("sensor_id", "time_ns", "charge_pe", "flags"):
            assert np.array_equal(getattr(read, column), getattr(event.pulses, column)), column


def test_a_missing_redis_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pipeline, "TOOL_CACHE", tmp_path)
    with pytest.raises(Misconfigured, match=r"apt-get install redis-server"):
        find_redis()
