from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from icestream.codec import event_from_message, reconstruction_to_message
from icestream.physics.directions import unit_vectors
from icestream.physics.events import Estimate, Event, ModelVersion, Reconstruction, Timings
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.unit.cli.conftest import Command
from tests.unit.cli.event_cases import alert, write_alerts

OFF_RAD = 0.1


class FakeRouter(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """Answers with a direction 0.1 rad above the online track of our alerts."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def Reconstruct(self, request: Any, _: Any) -> reconstruction_pb2.ReconstructResponse:  # noqa: N802
        event = event_from_message(request.event)
        assert isinstance(event, Event)
        self.events.append(event)
        x, y, z = unit_vectors(1.0, 2.0 - OFF_RAD).tolist()
        answer = Reconstruction(
            event_id=event.id,
            detector=event.detector,
            start_unix_ns=event.start_unix_ns,
            n_pulses=len(event.pulses),
            truth=event.truth,
            estimate=Estimate((x, y, z), 10.0, 0.1, 0.2, len(event.pulses)),
            model=ModelVersion("fake", "1"),
            timings=Timings(0, 0, 0),
        )
        return reconstruction_pb2.ReconstructResponse(reconstruction=reconstruction_to_message(answer))


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def address(router: FakeRouter) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(router, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_message_is_compared_with_its_online_track_which_is_no_truth(
    icestream: Command, router: FakeRouter, address: str, tmp_path: Path
) -> None:
    path = tmp_path / "alert.json"
    path.write_bytes(alert().as_json())
    status, out, _ = icestream("reconstruct", path, "--router", address)
    assert status == 0
    assert "opening angle to the online track (OnlineL2_SplineMPE): median 5.7°" in out
    assert "off online" in out
    assert "opening angle to the true direction" not in out
    [event] = router.events
    assert event.truth is None
    assert (event.alert_type, event.is_real) == ("neutrino", True)


def test_messages_that_cannot_be_read_are_said_and_give_status_1(
    icestream: Command, router: FakeRouter, address: str, tmp_path: Path
) -> None:
    folder = write_alerts(tmp_path / "alerts", n_damaged=1)
    submission = tmp_path / "submission.csv"
    status, out, err = icestream("reconstruct", folder, "--router", address, "--submission", submission)
    assert status == 1
    assert "b0.json" in err
    assert err.splitlines()[-1] == "1 of 3 events have no reconstruction; see above"
    assert sorted(event.id.event_id for event in router.events) == [7, 9]
    assert "136000.9.0" in out
    assert [line.split(",")[0] for line in submission.read_text().splitlines()] == ["event_id", "7", "9"]


def test_events_of_a_kaggle_data_set_have_no_such_column(
    icestream: Command, address: str, dataset: Path
) -> None:
    status, out, _ = icestream("reconstruct", dataset, "--router", address)
    assert status == 0
    assert "off truth" in out
    assert "online" not in out


def test_chosen_messages_alone_are_reconstructed(
    icestream: Command, router: FakeRouter, address: str, tmp_path: Path
) -> None:
    folder = write_alerts(tmp_path / "alerts")
    assert icestream("reconstruct", folder, "--router", address, "--event-id", "9")[0] == 0
    assert icestream("reconstruct", folder, "--router", address, "--events", "1")[0] == 0
    assert [event.id.event_id for event in router.events] == [9, 7]
