"""Questions over gRPC, and their answers from both databases."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, text

from icestream.codec import reconstruction_from_message
from icestream.physics.directions import opening_angles_rad
from icestream.physics.events import EventKind, Reconstruction
from icestream.v1 import event_pb2, record_pb2, scan_pb2
from services.recorder.dead_letter_rows import dead_letter_row
from services.recorder.reconstruction_rows import columns_of
from services.recorder.scan_rows import scan_row
from services.recorder.schema import DEAD_LETTERS, SCANS
from services.recorder.selection import Selection
from services.recorder.sky import sky_vectors
from tests.support.eventually import eventually
from tests.support.refusal import Refusal
from tests.unit.recorder.recorder_cases import (
    RECORDED_UNIX_NS,
    START_UNIX_NS,
    asked,
    event_ids,
    make_ended,
    make_reconstruction,
    make_truth,
    open_questions,
    open_store,
    record,
    served_records,
)


@pytest.fixture
async def service(database: str) -> AsyncIterator[Any]:
    """The client of a service without any records, beside the URL of its database."""
    async with open_store(database), served_records(database) as address, asked(address) as stub:
        yield stub


async def fill(database: str, *reconstructions: Reconstruction) -> None:
    async with open_store(database) as store:
        await record(store, reconstructions)


async def list_of(service: Any, **of_filter: Any) -> list[int]:
    request = record_pb2.ListReconstructionsRequest(filter=record_pb2.ReconstructionFilter(**of_filter))
    return event_ids((await service.ListReconstructions(request, timeout=10)).reconstructions)


async def refusal(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return Refusal(refused.value)


async def test_an_event_is_found_by_its_name_in_every_version(service: Any, database: str) -> None:
    old, new = make_reconstruction(1, version="1"), make_reconstruction(1, version="2")
    async with open_store(database) as store:
        await record(store, [old, make_reconstruction(2)], RECORDED_UNIX_NS)
        await record(store, [new], RECORDED_UNIX_NS + 1)
    request = record_pb2.GetReconstructionRequest(detector="toy", run_id=1, event_id=1)
    reply = await service.GetReconstruction(request, timeout=10)
    found = [reconstruction_from_message(each.reconstruction) for each in reply.reconstructions]
    assert found == [new, old]
    request.model_version = "1"
    reply = await service.GetReconstruction(request, timeout=10)
    assert [each.reconstruction.model_version for each in reply.reconstructions] == ["1"]


async def test_what_is_not_recorded_is_not_found(service: Any) -> None:
    request = record_pb2.GetReconstructionRequest(detector="toy", run_id=1, event_id=1)
    refused = await refusal(service.GetReconstruction(request, timeout=10))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert "no reconstruction of toy/1.1.0 is recorded" in refused.text
    assert refused.reason == "UNKNOWN_RECONSTRUCTION"


async def test_a_list_begins_with_the_latest_event(service: Any, database: str) -> None:
    timeless = make_reconstruction(9, start_unix_ns=0)
    await fill(database, timeless, *(make_reconstruction(number) for number in (2, 3, 1)))
    assert await list_of(service) == [3, 2, 1, 9]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"detector": "other"}, [5]),
        ({"run_id": 7}, [4]),
        ({"start_unix_ns": START_UNIX_NS + 4 * 10**9}, [5, 4]),
        ({"end_unix_ns": START_UNIX_NS + 2 * 10**9}, [1]),
        ({"start_unix_ns": START_UNIX_NS + 2 * 10**9, "end_unix_ns": START_UNIX_NS + 4 * 10**9}, [3, 2]),
        ({"model": "other"}, [3]),
        ({"model_version": "9"}, [2]),
        ({"max_radius90_rad": 0.25}, [5, 4, 3, 2]),
        ({"min_kappa": 5.0}, [5]),
        ({"kinds": [event_pb2.EVENT_KIND_STARTING_TRACK]}, [1]),
        ({"kinds": [event_pb2.EVENT_KIND_UNSPECIFIED, event_pb2.EVENT_KIND_STARTING_TRACK]}, [2, 1]),
        ({"min_kappa": 5.0, "model": "other"}, []),
    ],
)
async def test_a_filter_chooses(
    service: Any, database: str, wanted: dict[str, Any], found: list[int]
) -> None:
    await fill(
        database,
        make_reconstruction(1, radius90_rad=0.5, truth=make_truth(kind=EventKind.STARTING_TRACK)),
        make_reconstruction(2, version="9", truth=None),
        make_reconstruction(3, model="other"),
        make_reconstruction(4, run_id=7),
        make_reconstruction(5, detector="other", kappa=5.0),
    )
    assert await list_of(service, **wanted) == found


@pytest.mark.parametrize("radius_rad", [1e-6, 0.02, 0.3, 1.5, math.pi])
async def test_a_cone_holds_what_is_within_its_radius(service: Any, database: str, radius_rad: float) -> None:
    rng = np.random.default_rng(3)
    reconstructions = [
        make_reconstruction(
            number,
            azimuth_rad=rng.uniform(0, 2 * math.pi),
            zenith_rad=math.acos(rng.uniform(-1, 1)),
            # Not all at once, or the sky would be the detector's, turned.
            start_unix_ns=START_UNIX_NS + number * 10**12,
        )
        for number in range(200)
    ]
    timeless = make_reconstruction(999, start_unix_ns=0)
    await fill(database, timeless, *reconstructions)
    sky = sky_vectors(
        np.array([row.estimate.direction for row in reconstructions]),
        np.array([row.start_unix_ns for row in reconstructions]),
    )
    for centre in (sky[17], np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])):
        cone = record_pb2.Cone(radius_rad=radius_rad)
        cone.centre.ra_rad = math.atan2(centre[1], centre[0])
        cone.centre.dec_rad = math.asin(centre[2])
        request = record_pb2.ListReconstructionsRequest(
            filter=record_pb2.ReconstructionFilter(cone=cone), page_size=500
        )
        reply = await service.ListReconstructions(request, timeout=10)
        expected = np.flatnonzero(opening_angles_rad(sky, centre) <= radius_rad)
        assert sorted(event_ids(reply.reconstructions)) == expected.tolist()


async def test_pages_hold_each_row_once_though_rows_come_in_between(service: Any, database: str) -> None:
    # Some at the same time, some without one: the name decides.
    await fill(
        database,
        *(make_reconstruction(n, start_unix_ns=START_UNIX_NS) for n in range(7)),
        *(make_reconstruction(n, start_unix_ns=0) for n in range(10, 15)),
        *(make_reconstruction(n, run_id=n) for n in range(20, 25)),
    )
    request, seen = record_pb2.ListReconstructionsRequest(page_size=3), list[int]()
    for number in range(100):
        reply = await service.ListReconstructions(request, timeout=10)
        seen += event_ids(reply.reconstructions)
        # Later than everything that was seen.
        await fill(database, make_reconstruction(1000 + number))
        request.page_token = reply.next_page_token
        if not request.page_token:
            break
    assert seen == [24, 23, 22, 21, 20, 6, 5, 4, 3, 2, 1, 0, 14, 13, 12, 11, 10]


async def test_a_page_that_is_just_full_is_the_last_one(service: Any, database: str) -> None:
    await fill(database, *(make_reconstruction(n) for n in range(3)))
    request = record_pb2.ListReconstructionsRequest(page_size=3)
    assert (await service.ListReconstructions(request, timeout=10)).next_page_token == ""


async def test_a_wrong_question_is_refused_by_its_field(service: Any) -> None:
    request = record_pb2.ListReconstructionsRequest(page_token="x")
    refused = await refusal(service.ListReconstructions(request, timeout=10))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason == "INVALID_QUERY"
    assert refused.violations == {"page_token": "page_token: it is none of ours"}
    assert not refused.says_when_to_retry


async def test_the_statistics_of_nothing_are_zeros(service: Any) -> None:
    assert await service.Stats(record_pb2.StatsRequest(), timeout=10) == record_pb2.StatsResponse()


async def test_statistics_say_how_good_which_model_is_with_what(service: Any, database: str) -> None:
    def off(number: int, angle_rad: float, **others: Any) -> Reconstruction:
        truth = make_truth(2.0, 1.0 + angle_rad, kind=others.pop("kind", EventKind.CASCADE))
        return make_reconstruction(number, azimuth_rad=2.0, truth=truth, **others)

    await fill(
        database,
        *(off(number, angle) for number, angle in enumerate([0.5, 0.1, 0.3])),
        *(off(number, angle, version="3") for number, angle in enumerate([0.4, 0.1, 0.2, 0.9])),
        off(10, 0.7, kind=EventKind.STARTING_TRACK),
        make_reconstruction(11, truth=None),
    )
    reply = await service.Stats(record_pb2.StatsRequest(), timeout=10)
    assert reply.n_reconstructions == 9
    found = [
        (m.model_version, m.kind, m.n_reconstructions, m.n_with_truth,
         round(m.median_opening_angle_rad, 9) if m.HasField("median_opening_angle_rad") else None)
        for m in reply.models
    ]  # fmt: skip
    assert found == [
        ("2", event_pb2.EVENT_KIND_UNSPECIFIED, 1, 0, None),
        ("2", event_pb2.EVENT_KIND_STARTING_TRACK, 1, 1, 0.7),
        ("2", event_pb2.EVENT_KIND_CASCADE, 3, 3, 0.3),
        ("3", event_pb2.EVENT_KIND_CASCADE, 4, 4, pytest.approx(0.3)),
    ]
    only = record_pb2.StatsRequest(filter=record_pb2.ReconstructionFilter(model_version="3"))
    assert (await service.Stats(only, timeout=10)).n_reconstructions == 4


async def test_statistics_know_the_rate_of_now(service: Any, database: str) -> None:
    import time

    async with open_store(database) as store:
        await record(store, [make_reconstruction(1)], RECORDED_UNIX_NS - 10**18)
        await record(store, [make_reconstruction(n) for n in range(2, 8)], time.time_ns())
    reply = await service.Stats(record_pb2.StatsRequest(), timeout=10)
    assert reply.recorded_per_s == pytest.approx(0.1)


async def test_statistics_count_dead_letters_and_scans(service: Any, database: str) -> None:
    reasons = [("router", "invalid_event")] * 3 + [("router", "model_failed"), ("recorder", "invalid_event")]
    letters = [
        dead_letter_row(
            f"icestream.deadletter.{service}",
            {"Icestream-Reason": reason},
            sequence=sequence,
            stored_unix_ns=START_UNIX_NS,
            recorded_unix_ns=RECORDED_UNIX_NS,
        )
        for sequence, (service, reason) in enumerate(reasons)
    ]
    scans = [make_ended(f"s{number}") for number in range(2)]
    scans.append(make_ended("s9", state=scan_pb2.SCAN_STATE_CANCELLED))
    async with open_store(database) as store:
        assert all(await store.insert(DEAD_LETTERS, columns_of(letters)))
        assert not any(await store.insert(DEAD_LETTERS, columns_of(letters)))
        rows = [scan_row(scan, RECORDED_UNIX_NS) for scan in scans]
        assert all(await store.insert(SCANS, columns_of(rows)))
        assert not any(await store.insert(SCANS, columns_of(rows)))
    reply = await service.Stats(record_pb2.StatsRequest(), timeout=10)
    assert [(each.service, each.reason, each.n_letters) for each in reply.dead_letters] == [
        ("router", "invalid_event", 3),
        ("recorder", "invalid_event", 1),
        ("router", "model_failed", 1),
    ]
    assert [(each.reco, each.state, each.n_scans) for each in reply.scans] == [
        ("dummy", scan_pb2.SCAN_STATE_COMPLETE, 2),
        ("dummy", scan_pb2.SCAN_STATE_CANCELLED, 1),
    ]


async def test_too_many_questions_at_once_are_refused(database: str) -> None:
    registry = CollectorRegistry()
    async with (
        open_store(database) as store,
        served_records(database, registry, n_calls=1) as address,
        asked(address) as stub,
    ):
        await record(store, [make_reconstruction(n) for n in range(3000)])
        calls = [stub.Stats(record_pb2.StatsRequest(), timeout=20) for _ in range(20)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [Refusal(each) for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert 0 < len(refused) < 20
    assert {each.code for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(each.says_when_to_retry for each in refused)
    counted = {"rpc": "Stats", "reason": "too_many_requests"}
    value = registry.get_sample_value("icestream_recorder_request_failures_total", counted)
    assert value == len(refused)


async def test_a_question_without_end_does_not_hold_up_the_end(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    begun = threading.Event()

    def ask(connection: Connection, *_: object) -> None:
        begun.set()
        connection.execute(text(endless))

    monkeypatch.setattr("services.recorder.questions._statistics", ask)
    async with open_questions(database, timeout_s=600.0) as questions:
        asking = asyncio.create_task(questions.statistics(Selection()))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
    # Python waits for them before the process ends.
    await eventually(lambda: not [each for each in threading.enumerate() if "questions" in each.name])


async def test_without_its_tables_the_service_says_that_it_may_pass(database: str) -> None:
    async with served_records(database) as address, asked(address) as stub:
        refused = await refusal(stub.Stats(record_pb2.StatsRequest(), timeout=20))
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.detail(error_details_pb2.RetryInfo)
