"""Which alerts silence which others.

`amtool` cannot tell, so that the rules are applied here as Alertmanager's documentation says.
"""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from tests.support.prometheus import ALERTMANAGER_CONFIG, all_alerts

RULES: list[dict[str, Any]] = yaml.safe_load(ALERTMANAGER_CONFIG.read_text())["inhibit_rules"]
SEVERITIES = {alert.name: alert.alert["labels"]["severity"] for alert in all_alerts() if alert.alert}

Labels = dict[str, str]

EXPORTER = {"job": "nats-exporter", "instance": "exporter:9464"}
ROUTER = {"job": "router", "instance": "router:9464"}
OTHER_ROUTER = {"job": "router", "instance": "other:9464"}
SCANNER = {"job": "scanner", "instance": "scanner:9464"}
WORKER = {"job": "scan-worker", "instance": "worker:9464"}
TRITON = {"job": "triton", "instance": "triton:8002"}


def alert(name: str, labels: Labels, **more: str) -> Labels:
    """As Prometheus sends it."""
    return {"alertname": name, "severity": SEVERITIES[name], **labels, **more}


def silenced(alerts: Sequence[Labels]) -> list[Labels]:
    """Of alerts that fire together, those that others silence."""
    return [
        target
        for target in alerts
        if any(_silences(rule, source, target) for rule in RULES for source in alerts)
    ]


def _silences(rule: dict[str, Any], source: Labels, target: Labels) -> bool:
    return (
        _matches(rule["source_matchers"], source)
        and _matches(rule["target_matchers"], target)
        and all(source.get(label, "") == target.get(label, "") for label in rule.get("equal", []))
    )


def _matches(matchers: Sequence[str], labels: Labels) -> bool:
    parts = [re.fullmatch(r'(\w+) (=|=~) "(.*)"', matcher) for matcher in matchers]
    assert all(parts), f"a matcher that this test does not know: {matchers}"
    patterns = {one[1]: re.escape(one[3]) if one[2] == "=" else one[3] for one in parts if one}
    return all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in patterns.items())


def test_a_stream_that_is_full_silences_only_that_it_is_nearly_full() -> None:
    nearly = alert("StreamNearlyFull", EXPORTER, stream="EVENTS")
    others = [
        alert("StreamNearlyFull", EXPORTER, stream="SCANWORK"),
        alert("ConsumerLag", EXPORTER, stream="EVENTS", consumer="router"),
        alert("OldestUnacked", EXPORTER, stream="EVENTS", consumer="router"),
        alert("SlowConsumers", EXPORTER),
        alert("LeafLinkDown", EXPORTER),
    ]
    assert silenced([alert("StreamFull", EXPORTER, stream="EVENTS"), nearly, *others]) == [nearly]


def test_an_instance_that_is_away_silences_what_follows_from_it() -> None:
    following = [
        alert("HeartbeatLate", SCANNER),
        alert("SpansDropped", SCANNER),
        alert("ScanStuck", SCANNER, state="running"),
    ]
    others = [alert("HeartbeatLate", ROUTER), alert("PermissionViolations", SCANNER)]
    assert silenced([alert("HeartbeatMissing", SCANNER), *following, *others]) == following


def test_an_exporter_that_hangs_silences_nothing_about_the_broker() -> None:
    late = alert("HeartbeatLate", EXPORTER)
    others = [
        alert("ConsumerLag", EXPORTER, stream="EVENTS", consumer="router"),
        alert("SlowConsumers", EXPORTER),
    ]
    assert silenced([alert("HeartbeatMissing", EXPORTER), late, *others]) == [late]


def test_a_router_that_is_paused_silences_no_other_trouble_of_it() -> None:
    others = [alert(name, ROUTER) for name in ("HeartbeatLate", "PermissionViolations", "SpansDropped")]
    assert silenced([alert("RouterPaused", ROUTER), *others]) == []


def test_without_the_broker_whatever_follows_is_silent_everywhere() -> None:
    following = [
        alert("NatsDisconnected", ROUTER),
        alert("NatsDisconnected", OTHER_ROUTER),
        alert("EventsNotReconstructed", {}),
        alert("NoEventsSent", {"job": "emitter"}),
        alert("ScanStuck", SCANNER, state="running"),
    ]
    others = [alert("TritonDown", TRITON), alert("SlowConsumers", EXPORTER)]
    assert silenced([alert("BrokerDown", EXPORTER), *following, *others]) == following


def test_without_triton_whatever_follows_is_silent_everywhere() -> None:
    following = [
        alert("RouterPaused", ROUTER),
        alert("RouterPaused", OTHER_ROUTER),
        alert("EventsNotReconstructed", {}),
        alert("TritonFailing", {"reason": "BACKEND"}),
        alert("ScanWorkerQuarantined", WORKER),
    ]
    others = [alert("NatsDisconnected", ROUTER), alert("SpansDropped", OTHER_ROUTER)]
    assert silenced([alert("TritonDown", TRITON), *following, *others]) == following
