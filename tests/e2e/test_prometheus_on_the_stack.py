"""Whoever dies, hangs or comes back is seen by a real Prometheus with our rules, over the stack of `icestream up`."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.stack import UpStack, metrics_port
from tests.support.watched_stack import SERVICES, Watched, nobody_restarts, watching

SEED = 701
SHIPPED_INTERVAL_S = 5
HEARTBEAT_ALERTS = ("HeartbeatLate", "HeartbeatMissing")


@pytest.fixture(scope="module")
def watched(stack: UpStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(stack, tmp_path_factory.mktemp("prometheus")) as watched:
        yield watched


def target(port: int) -> str:
    """What Prometheus calls the instance that shows its metrics there."""
    return f"127.0.0.1:{port}"


async def fires(watched: Watched, *names: str, **labels: str) -> None:
    """Wait until all of these alerts fire, and fail when they do not within half a minute."""
    await eventually(
        lambda: all(watched.prometheus.is_firing(name, **labels) for name in names),
        timeout_s=30.0,
        poll_s=0.2,
    )


async def clears(watched: Watched, *names: str, **labels: str) -> None:
    """Wait until none of these alerts is even pending."""

    def nothing_is_left() -> None:
        assert [alert for name in names for alert in watched.prometheus.alerts(name, **labels)] == []

    # Triton alone takes most of it, on a machine that is busy.
    await eventually(nothing_is_left, timeout_s=240.0, poll_s=0.2)


@pytest.mark.parametrize("job", SERVICES)
async def test_a_service_that_was_killed_pages_until_it_is_back(watched: Watched, job: str) -> None:
    # The last of several, of which every one is to be watched.
    service = watched.stack.parts(SERVICES[job])[-1]
    instance = target(metrics_port(service))
    await watched.all_up()
    await clears(watched, *HEARTBEAT_ALERTS, instance=instance)
    with nobody_restarts(watched.stack):
        service.kill()
        await fires(watched, *HEARTBEAT_ALERTS, job=job, instance=instance)
    await clears(watched, *HEARTBEAT_ALERTS, instance=instance)
    assert watched.value(f'up{{job="{job}",instance="{instance}"}}') == 1


async def test_all_services_that_were_killed_page_in_time_at_the_shipped_interval(
    stack: UpStack, tmp_path: Path
) -> None:
    with watching(stack, tmp_path, interval_s=SHIPPED_INTERVAL_S) as watched:
        with watched.emitting("shipped", SEED, "--trace-ratio", "0") as emitter:
            await watched.all_up(but="none")
            await clears(watched, *HEARTBEAT_ALERTS)
            services = [part for module in SERVICES.values() for part in stack.parts(module)]
            ports = [watched.emitter_port, *map(metrics_port, services)]
            with nobody_restarts(stack):
                emitter.kill()
                for service in services:
                    service.kill()

                def all_of_them_fire() -> None:
                    for name in HEARTBEAT_ALERTS:
                        assert watched.prometheus.firing_instances(name) == {target(port) for port in ports}

                await eventually(all_of_them_fire, timeout_s=30.0, poll_s=0.2)
        with watched.emitting("shipped", SEED, "--trace-ratio", "0"):
            await watched.all_up(but="none")
            await clears(watched, *HEARTBEAT_ALERTS)


async def test_a_service_that_hangs_pages_until_it_goes_on(watched: Watched) -> None:
    await watched.all_up()
    router = watched.stack.part("services.router")
    router.send_signal(signal.SIGSTOP)
    try:
        await fires(watched, *HEARTBEAT_ALERTS, job="router")
        [alert] = watched.prometheus.alerts("HeartbeatMissing", job="router")
        assert alert["labels"]["severity"] == "page"
        instance = alert["labels"]["instance"]
        assert alert["annotations"]["summary"] == f"router {instance} has been silent for more than 15 s"
    finally:
        router.send_signal(signal.SIGCONT)
    await clears(watched, *HEARTBEAT_ALERTS, job="router")


async def test_an_emitter_that_was_killed_is_told_from_one_that_is_silent(watched: Watched) -> None:
    alerts = (*HEARTBEAT_ALERTS, "EmitterStopped")
    with watched.emitting("gone", SEED, "--trace-ratio", "0"):
        await eventually(lambda: watched.value('up{job="emitter"}') == 1, timeout_s=60.0, poll_s=0.2)
        await clears(watched, *alerts, job="emitter")

    await fires(watched, *alerts, job="emitter")
    assert watched.prometheus.alerts("NoEventsSent") == []
    with watched.emitting("gone", SEED, "--trace-ratio", "0"):
        await clears(watched, *alerts, job="emitter")


async def test_a_triton_that_was_killed_pages_until_it_is_back(watched: Watched) -> None:
    await watched.all_up()
    await clears(watched, "TritonDown")
    with nobody_restarts(watched.stack):
        watched.stack.kill("tritonserver")
        await fires(watched, "TritonDown")
    await clears(watched, "TritonDown")
    await watched.all_up()


async def test_a_broker_that_was_killed_is_back_with_its_streams(watched: Watched) -> None:
    await watched.all_up()
    await eventually(lambda: watched.value("icestream_broker_up") == 1, timeout_s=30.0, poll_s=0.2)
    await clears(watched, "BrokerDown", "NatsDisconnected")
    stored = watched.value('icestream_stream_stored_total{stream="EVENTS"}')
    with nobody_restarts(watched.stack):
        watched.stack.kill("nats-server")
        await fires(watched, "BrokerDown")
        assert watched.value("icestream_broker_up") == 0
        for job in SERVICES:
            await fires(watched, "NatsDisconnected", job=job)
    await eventually(lambda: watched.value("icestream_broker_up") == 1, timeout_s=60.0, poll_s=0.2)
    await clears(watched, "BrokerDown", "NatsDisconnected")
    assert watched.value('icestream_stream_stored_total{stream="EVENTS"}') >= stored > 0
    await watched.all_up()
