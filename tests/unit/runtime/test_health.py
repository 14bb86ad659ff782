import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Gauge

from icestream.errors import Misconfigured
from icestream.runtime.health import Health, serve_health


@dataclass(frozen=True)
class Pages:
    """The pages of one process."""

    port: int
    health: Health

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


@pytest.fixture
def pages() -> Iterator[Pages]:
    registry = CollectorRegistry()
    Gauge("icestream_toy", "A number.", registry=registry).set(7)
    health = Health("nats", "model")
    with serve_health("127.0.0.1", 0, registry, health) as port:
        yield Pages(port, health)


def test_metrics_are_served(pages: Pages) -> None:
    status, text = pages.get("/metrics")
    assert status == 200
    assert "icestream_toy 7.0" in text


def test_who_answers_is_alive(pages: Pages) -> None:
    assert pages.get("/healthz") == (200, '{"status": "alive"}\n')


def test_a_process_is_ready_once_every_condition_holds(pages: Pages) -> None:
    status, text = pages.get("/readyz")
    assert (status, json.loads(text)) == (503, {"nats": "starting", "model": "starting"})
    pages.health.hold("nats")
    assert pages.get("/readyz")[0] == 503
    pages.health.hold("model")
    assert pages.get("/readyz") == (200, '{"nats": "ok", "model": "ok"}\n')


def test_a_condition_that_fails_is_said_with_its_problem(pages: Pages) -> None:
    pages.health.hold("nats")
    pages.health.fail("model", "the model is gone")
    status, text = pages.get("/readyz")
    assert (status, json.loads(text)) == (503, {"nats": "ok", "model": "the model is gone"})
    assert not pages.health.is_ready
    assert pages.get("/healthz")[0] == 200


def test_another_page_is_not_found_and_says_which_there_are(pages: Pages) -> None:
    status, text = pages.get("/metrix")
    assert status == 404
    assert json.loads(text)["error"] == "no page /metrix; there are /metrics, /healthz and /readyz"


def test_a_scrape_writes_no_line(pages: Pages, capfd: pytest.CaptureFixture[str]) -> None:
    pages.get("/metrics")
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_refused_clearly(pages: Pages) -> None:
    again = serve_health("127.0.0.1", pages.port, CollectorRegistry(), pages.health)
    with pytest.raises(Misconfigured, match=f"127.0.0.1:{pages.port}.*choose another port"), again:
        pass


def test_the_port_is_free_again_at_the_end() -> None:
    with serve_health("127.0.0.1", 0, CollectorRegistry(), Health()) as port:
        pass
    with serve_health("127.0.0.1", port, CollectorRegistry(), Health()) as again:
        assert again == port


def test_without_conditions_a_process_is_ready() -> None:
    assert Health().is_ready
