"""One trace follows a sampled event from its emitter to whoever consumes its reconstruction."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from icestream.codec import decode_reconstruction, event_to_message
from icestream.physics.detector import icecube86
from icestream.physics.simulation import simulate_event
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.local_stack import find_jaeger
from icestream.v1 import reconstruction_pb2, reconstruction_pb2_grpc
from tests.support.eventually import eventually
from tests.support.stack import NAMES, UpStack, reconstructions_of, running

pytestmark = pytest.mark.skipif(find_jaeger() is None, reason="no jaeger program; `make tools` builds it")

SEED = 201
N_EVENTS = 12

Edge = tuple[str, str]


def edges_of(trace: Mapping[str, Any]) -> set[Edge]:
    """Every (parent, child) of a trace as Jaeger has it, each named `service: operation`; roots lack a parent."""
    spans = {span["spanID"]: span for span in trace["spans"]}

    def name(span: Mapping[str, Any]) -> str:
        return f"{trace['processes'][span['processID']]['serviceName']}: {span['operationName']}"

    edges = set()
    for span in spans.values():
        parents = [ref["spanID"] for ref in span.get("references", []) if ref["refType"] == "CHILD_OF"]
        parent = spans.get(parents[0]) if parents else None
        edges.add((name(parent) if parent else "", name(span)))
    return edges


async def trace_with(stack: UpStack, trace_id: str, wanted: set[Edge]) -> set[Edge]:
    """Read a trace back from Jaeger's query API until it holds what is wanted."""
    found: set[Edge] = set()

    def holds_all() -> None:
        nonlocal found
        reply = httpx.get(f"{stack.endpoints.jaeger_url}/api/traces/{trace_id}")
        traces = (reply.json().get("data") or []) if reply.is_success else []
        found = edges_of(traces[0]) if traces else set()
        assert wanted <= found, f"missing {wanted - found} in {found}"

    await eventually(holds_all, timeout_s=20.0, poll_s=0.2)
    return found


EVENTS_SUBJECT = "icestream.events.icecube86.traced"
RESULTS_SUBJECT = "icestream.reconstructions.icecube86.direction"
PUBLISHED = f"icestream-emitter: publish {EVENTS_SUBJECT}"
PROCESSED = f"icestream-router: process {EVENTS_SUBJECT}"
STORED = f"icestream-router: publish {RESULTS_SUBJECT}"
INFER = "icestream-router: infer direction"
TRITON = "triton: triton direction"


async def trace_ids_of(stack: UpStack, run_id: int) -> list[str]:
    async with connect(stack.endpoints.nats_url, name="test") as connection:
        messages = stored_messages(connection, NAMES.everything_in("reconstructions"))
        rows = [decode_reconstruction(message.payload) async for message in messages]
    return [row.trace_id for row in rows if row.event_id.run_id == run_id]


async def test_every_sampled_event_has_one_trace_through_all_parts(
    stack: UpStack, log: Path, tmp_path: Path
) -> None:
    watch = stack.command("watch", "--events", str(N_EVENTS), "--json")
    emit = stack.command(
        *("emit", "--seed", str(SEED), "--source", "traced", "--events", str(N_EVENTS), "--trace-ratio", "1"),
        # Slow enough for the watcher, which may start after the first is published, to be ready.
        *("--rate", "4"),
    )
    with running(watch, tmp_path / "watch.log"), running(emit, log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()

        async def all_reconstructed() -> bool:
            return len(await trace_ids_of(stack, SEED)) == N_EVENTS

        await eventually(all_reconstructed, timeout_s=30.0, poll_s=0.1)
        trace_ids = await trace_ids_of(stack, SEED)
        assert len(set(trace_ids)) == N_EVENTS
        wanted = {
            ("", PUBLISHED),
            (PUBLISHED, PROCESSED),
            (PROCESSED, INFER),
            (INFER, TRITON),
            (TRITON, "triton: queue"),
            (TRITON, "triton: batch"),
            (TRITON, "triton: compute"),
            (PROCESSED, STORED),
        }
        for trace_id in trace_ids:
            await trace_with(stack, trace_id, wanted)
    # The watcher's spans leave when it ends.


async def test_events_of_one_batch_each_have_tritons_spans(stack: UpStack, log: Path) -> None:
    """As fast as possible, so that events travel to Triton together."""
    flags = ("--seed", str(SEED + 1), "--source", "batched", "--events", "200", "--trace-ratio", "1")
    with running(stack.command("emit", *flags), log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()

    async def all_reconstructed() -> bool:
        return len(await trace_ids_of(stack, SEED + 1)) == 200

    await eventually(all_reconstructed, timeout_s=30.0, poll_s=0.1)
    processed = "icestream-router: process icestream.events.icecube86.batched"
    for trace_id in (await trace_ids_of(stack, SEED + 1))[::20]:
        await trace_with(stack, trace_id, {(processed, INFER), (INFER, TRITON), (TRITON, "triton: compute")})


async def test_a_terminal_shows_the_trace_of_an_event(stack: UpStack, log: Path) -> None:
    flags = ("--seed", str(SEED + 3), "--source", "shown", "--events", "3", "--trace-ratio", "1")
    with running(stack.command("emit", *flags), log) as emitter:
        assert emitter.wait(60) == 0, log.read_text()

    async def all_reconstructed() -> bool:
        return len(await reconstructions_of(stack, SEED + 3)) == 3

    await eventually(all_reconstructed, timeout_s=30.0, poll_s=0.1)
    published = "icestream-emitter: publish icestream.events.icecube86.shown"
    for row in await reconstructions_of(stack, SEED + 3):
        await trace_with(stack, row.trace_id, {("", published), (TRITON, "triton: compute")})
        command = stack.command("trace", f"{row.detector}/{row.event_id}")
        environment = os.environ | {"COLUMNS": "200"}
        shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        assert lines[0].startswith(f"trace {row.trace_id}, ")
        names = (
            "publish icestream.events",
            "process",
            "infer direction",
            "triton direction",
            "queue",
            "compute",
        )
        places = [next(n for n, line in enumerate(lines) if name in line) for name in names]
        assert places == sorted(places), shown.stdout


async def test_a_watcher_is_the_end_of_the_trace(stack: UpStack, log: Path, tmp_path: Path) -> None:
    flags = (
        "--seed",
        str(SEED + 2),
        "--source",
        "watched",
        "--events",
        "40",
        "--trace-ratio",
        "1",
        "--rate",
        "8",
    )
    watch_log = tmp_path / "watch.log"
    with running(stack.command("watch", "--events", "3", "--json"), watch_log) as watcher:
        with running(stack.command("emit", *flags), log) as emitter:
            assert emitter.wait(60) == 0, log.read_text()
        assert watcher.wait(30) == 0, watch_log.read_text()
    first = next(line for line in watch_log.read_text().splitlines() if line.startswith("{"))
    trace_id = httpx.Response(200, text=first).json()["trace_id"]
    await trace_with(stack, trace_id, {(STORED, f"icestream-watch: process {RESULTS_SUBJECT}")})


async def test_a_sampled_grpc_call_is_the_parent_of_its_reconstruction(stack: UpStack) -> None:
    trace_id, caller = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13"
    request = reconstruction_pb2.ReconstructRequest(
        event=event_to_message(simulate_event(icecube86(), seed=SEED, index=5000))
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.router_grpc}") as channel:
        stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = await stub.Reconstruct(request, metadata=(("traceparent", f"00-{trace_id}-{caller}-01"),))
    assert reply.reconstruction.trace_id == trace_id
    server = "icestream-router: icestream.v1.ReconstructionService/Reconstruct"
    await trace_with(
        stack, trace_id, {("", server), (server, INFER), (INFER, TRITON), (TRITON, "triton: compute")}
    )


async def test_an_unsampled_grpc_call_leaves_no_trace(stack: UpStack) -> None:
    trace_id = "7b8aa5a2d2c872e8321cf37308d69df2"
    request = reconstruction_pb2.ReconstructRequest(
        event=event_to_message(simulate_event(icecube86(), seed=SEED, index=5001))
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.endpoints.router_grpc}") as channel:
        stub = reconstruction_pb2_grpc.ReconstructionServiceStub(channel)  # type: ignore[no-untyped-call]
        unsampled = (("traceparent", f"00-{trace_id}-051581bf3cb55c13-00"),)
        reply = await stub.Reconstruct(request, metadata=unsampled)
        # A second, sampled call: when its trace is there, the first one's would be too.
        sampled_id = trace_id.replace("7b", "9b")
        await stub.Reconstruct(request, metadata=(("traceparent", f"00-{sampled_id}-051581bf3cb55c13-01"),))
    assert reply.reconstruction.trace_id == ""
    server = "icestream-router: icestream.v1.ReconstructionService/Reconstruct"
    await trace_with(stack, sampled_id, {("", server), (server, INFER)})
    assert not httpx.get(f"{stack.endpoints.jaeger_url}/api/traces/{trace_id}").json().get("data")
