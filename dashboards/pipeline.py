"""The pipeline: from an event being published to its reconstruction being recorded."""

from dashboards.assembly import Board
from dashboards.limits import limit
from dashboards.panels import (
    WINDOW,
    About,
    Panel,
    Query,
    growth,
    heat_map,
    lines,
    number,
    or_none,
    states,
)

_DEAD_LETTERS = (
    '{__name__=~"icestream_(emitter_unreadable_events|(router|scan_worker|recorder)_dead_letters)_total"}'
)
_FAILURES = '{__name__=~"icestream_(router|scan_worker|recorder)_failures_total"}'
_REDELIVERED = '{__name__=~"icestream_(router|scan_worker|recorder)_redelivered_total"}'
_POSTPONED = '{__name__=~"icestream_(router|scan_worker|recorder)_postponed_total"}'
_WAITING = (
    'sum(icestream_consumer_pending{consumer="router"} + icestream_consumer_ack_pending{consumer="router"})'
)
_OLDEST = "icestream_consumer_oldest_unacked_timestamp_seconds"
_FILL = 'icestream_stream:fill:ratio{discard="new"}'
_FILL_LIMITS = (limit("StreamNearlyFull", _FILL), limit("StreamFull", _FILL))
_HEARTBEAT_AGE = "icestream:heartbeat_age:seconds"
_LATENCY_LIMIT_S = limit("EndToEndLatencyHigh", "icestream_router:end_to_end_seconds:p99_5m")


def board() -> Board:
    """The first dashboard to look at."""
    return Board(
        "pipeline",
        "IceStream: pipeline",
        "Whether events come in, how fast their reconstructions come out, and what is in the way.",
        {
            "Now": _now(),
            "Events": _events(),
            "Services": _services(),
            "What goes wrong": _trouble(),
            "Broker": _broker(),
            "Records": _records(),
        },
    )


def _now() -> list[Panel]:
    return [
        number(
            About(
                "Alerts that fire",
                "Pages and warnings. 0 in health.",
                ("HeartbeatMissing", "AlertsNotDelivered"),
                "none",
                width=4,
                height=4,
            ),
            Query('count(ALERTS{alertstate="firing"}) or vector(0)'),
            limits=(1,),
        ),
        number(
            About(
                "Reconstructed",
                "Events a second, of the stream and over gRPC. About as many as are published.",
                ("EventsNotReconstructed", "NoEventsSent"),
                "cps",
                width=4,
                height=4,
            ),
            Query(f"sum(rate(icestream_router_reconstructions_total{WINDOW}))"),
        ),
        number(
            About(
                "Events that wait",
                "In the stream, or at a router without an answer. More than 1000 that grow are a lag.",
                ("ConsumerLag", "EventsNotReconstructed"),
                "short",
                width=4,
                height=4,
            ),
            Query(_WAITING),
            limits=(limit("ConsumerLag", "icestream_consumer_pending"),),
        ),
        number(
            About(
                "99 % are faster",
                "From the broker storing an event to it storing the reconstruction, over 5 minutes.",
                ("EndToEndLatencyHigh",),
                "s",
                width=4,
                height=4,
            ),
            Query("icestream_router:end_to_end_seconds:p99_5m"),
            limits=(_LATENCY_LIMIT_S,),
        ),
        number(
            About(
                "Dead letters, last hour",
                "Messages that were given up. 0 in health.",
                ("DeadLetters",),
                "short",
                width=4,
                height=4,
            ),
            Query(f"sum({growth(_DEAD_LETTERS, '1h')}) or vector(0)"),
            limits=(1,),
        ),
        number(
            About(
                "Fullest stream",
                "Of those that refuse when they are full.",
                ("StreamNearlyFull", "StreamFull"),
                "percentunit",
                width=4,
                height=4,
            ),
            Query(f"max({_FILL})"),
            limits=_FILL_LIMITS,
        ),
    ]


def _events() -> list[Panel]:
    return [
        lines(
            About(
                "Rates",
                "Published, taken in, reconstructed and recorded lie on each other. A gap that stays is a lag.",
                ("EventsNotReconstructed", "NoEventsSent", "EmitterStopped"),
                "cps",
                width=12,
            ),
            Query(f"sum(rate(icestream_emitter_events_total{WINDOW}))", "published"),
            Query(f"sum by (face) (rate(icestream_router_events_total{WINDOW}))", "taken in, {{face}}"),
            Query(
                f"sum by (face) (rate(icestream_router_reconstructions_total{WINDOW}))",
                "reconstructed, {{face}}",
            ),
            Query(f'sum(rate(icestream_recorder_rows_total{{table="reconstructions"}}{WINDOW}))', "recorded"),
        ),
        heat_map(
            About(
                "Latency",
                "From the broker storing an event to it storing the reconstruction. One narrow band; a second "
                "band above it is something that waits. A dot is a sampled event: it opens its trace.",
                ("EndToEndLatencyHigh",),
                "cps",
                width=12,
            ),
            Query(
                f"sum by (le) (rate(icestream_router_end_to_end_seconds_bucket{WINDOW}))",
                "{{le}}",
                has_exemplars=True,
            ),
            y_unit="s",
        ),
        lines(
            About(
                "Latency, quantiles",
                "Events of the stream, and requests over gRPC. Dots are sampled events: they open their traces.",
                ("EndToEndLatencyHigh", "GrpcLatencyHigh"),
                "s",
            ),
            *(
                Query(
                    f"histogram_quantile({q}, "
                    f"sum by (le) (rate(icestream_router_end_to_end_seconds_bucket{WINDOW})))",
                    f"{100 * q:g} % of events",
                    has_exemplars=True,
                )
                for q in (0.5, 0.99)
            ),
            Query("icestream_router:grpc_seconds:p99_5m", "99 % of requests, 5 min"),
            limits=(_LATENCY_LIMIT_S,),
            is_log=True,
        ),
        lines(
            About(
                "Time by stage, 95 %",
                "Which stage is slow. `wait` grows first when routers are too few, `infer` when the model server "
                "is too slow, `publish` with the broker's disk.",
                ("EndToEndLatencyHigh", "ConsumerLag"),
                "s",
            ),
            Query(
                f"histogram_quantile(0.95, sum by (le, stage) (rate(icestream_router_stage_seconds_bucket{WINDOW})))",
                "{{stage}}",
            ),
            is_log=True,
        ),
        lines(
            About(
                "Lag",
                "Messages that were not handed out yet, of each consumer. Near zero; a bulk run may pile them up.",
                ("ConsumerLag",),
                "short",
            ),
            Query("sum by (stream, consumer) (icestream_consumer_pending)", "{{stream}} for {{consumer}}"),
            limits=(limit("ConsumerLag", "icestream_consumer_pending"),),
        ),
    ]


def _services() -> list[Panel]:
    return [
        states(
            About(
                "Targets",
                "Whether each instance answers Prometheus. A red line is a service that was killed or cannot be "
                "reached; an emitter goes when its source ends.",
                ("HeartbeatMissing", "ServiceAbsent", "TritonDown"),
                "none",
                width=12,
            ),
            Query("up", "{{job}} {{instance}}"),
            bad="down",
            good="up",
        ),
        lines(
            About(
                "Age of heartbeats",
                "At most 5 s. One that grows is a service that hangs, though it may still answer Prometheus.",
                ("HeartbeatLate", "HeartbeatMissing"),
                "s",
                width=6,
            ),
            Query(_HEARTBEAT_AGE, "{{job}} {{instance}}"),
            limits=(limit("HeartbeatLate", _HEARTBEAT_AGE),),
        ),
        lines(
            About(
                "Held right now",
                "Messages in work. At the limit of a service (1024 events of a router, 256 of an emitter) it is "
                "the bottleneck, or what comes after it.",
                ("ConsumerLag",),
                "short",
                width=6,
            ),
            Query("sum(icestream_emitter_in_flight)", "emitters"),
            Query('sum(icestream_router_in_flight{face="nats"})', "routers"),
            Query("sum(icestream_scan_worker_in_flight)", "scan workers"),
            Query("sum by (table) (icestream_recorder_in_flight)", "recorders, {{table}}"),
        ),
    ]


def _trouble() -> list[Panel]:
    return [
        lines(
            About(
                "Failures",
                "Within 10 minutes, by service and reason, whatever became of them. `none` at zero in health.",
                ("DeadLetters", "TritonFailing"),
                "short",
                width=6,
            ),
            Query(
                or_none(f"sum by (job, reason) ({growth(_FAILURES, '10m')})", "reason"),
                "{{job}} {{reason}}",
            ),
        ),
        lines(
            About(
                "Dead letters",
                "Within 10 minutes, by service and reason. `none` at zero in health.",
                ("DeadLetters",),
                "short",
                width=6,
            ),
            Query(
                or_none(f"sum by (job, reason) ({growth(_DEAD_LETTERS, '10m')})", "reason"),
                "{{job}} {{reason}}",
            ),
        ),
        lines(
            About(
                "Second deliveries",
                "Within 10 minutes. With messages given back, something was away; without, instances die or are "
                "too slow. Zero in health.",
                ("Redeliveries", "RouterPaused", "RecorderPaused"),
                "short",
                width=6,
            ),
            Query(or_none(f"sum by (job) ({growth(_REDELIVERED, '10m')})", "job"), "came again, {{job}}"),
            Query(or_none(f"sum by (job) ({growth(_POSTPONED, '10m')})", "job"), "given back, {{job}}"),
        ),
        lines(
            About(
                "Telemetry and connections",
                "Within 10 minutes: spans that were lost, connections to NATS that were lost and found again, "
                "things that NATS forbade. Zero in health.",
                ("SpansDropped", "NatsDisconnected", "PermissionViolations"),
                "short",
                width=6,
            ),
            Query("sum(increase(icestream_spans_dropped_total[10m]))", "spans lost"),
            Query("sum(increase(icestream_nats_reconnects_total[10m]))", "reconnects"),
            Query("sum(increase(icestream_nats_permission_violations_total[10m]))", "forbidden"),
        ),
    ]


def _broker() -> list[Panel]:
    return [
        lines(
            About(
                "Fill of streams",
                "Share of their size. Only streams that refuse when they are full matter: the others drop their "
                "oldest, and are full on a normal day.",
                ("StreamNearlyFull", "StreamFull"),
                "percentunit",
                width=6,
            ),
            Query("icestream_stream:fill:ratio", "{{stream}}, discards {{discard}}"),
            limits=_FILL_LIMITS,
        ),
        lines(
            About(
                "Oldest without an answer",
                "How long the oldest message has waited for its consumer. Seconds; the limit is 5 minutes.",
                ("OldestUnacked",),
                "s",
                width=6,
            ),
            Query(
                or_none(
                    # As the scrape found it: time() would add the age of the scrape.
                    f"max by (consumer) (timestamp({_OLDEST}) - {_OLDEST})",
                    "consumer",
                ),
                "{{consumer}}",
            ),
            limits=(limit("OldestUnacked", _OLDEST),),
        ),
        lines(
            About(
                "Publishing, 99 %",
                "From an emitter handing over an event to the broker's confirmation: the broker and its disk.",
                ("StreamFull", "BrokerDown"),
                "s",
                width=6,
            ),
            Query(
                f"histogram_quantile(0.99, sum by (le) (rate(icestream_emitter_publish_seconds_bucket{WINDOW})))",
                "99 %",
            ),
            Query(
                f"histogram_quantile(0.5, sum by (le) (rate(icestream_emitter_publish_seconds_bucket{WINDOW})))",
                "50 %",
            ),
            is_log=True,
        ),
        lines(
            About(
                "Memory of NATS",
                "Near the limit of its container (1 GiB in compose) it will be killed.",
                ("BrokerDown", "BrokerServerMissing", "SlowConsumers"),
                "bytes",
                width=6,
            ),
            Query("icestream_broker_memory_bytes", "{{server}}"),
        ),
    ]


def _records() -> list[Panel]:
    return [
        lines(
            About(
                "Rows written",
                "By table. Reconstructions as fast as they are made.",
                ("RecorderPaused",),
                "cps",
            ),
            Query(f"sum by (table) (rate(icestream_recorder_rows_total{WINDOW}))", "{{table}}"),
        ),
        lines(
            About(
                "From the broker to the disk, 99 %",
                "How old the answers of the RecordService are, and the database's share of it.",
                ("RecorderPaused", "ConsumerLag"),
                "s",
            ),
            *(
                Query(
                    f"histogram_quantile(0.99, sum by (le) (rate(icestream_recorder_{part}_seconds_bucket"
                    f'{{table="reconstructions"}}{WINDOW})))',
                    legend,
                )
                for part, legend in (("delay", "from the broker to the disk"), ("commit", "transaction"))
            ),
            is_log=True,
        ),
        lines(
            About(
                "Rows in a transaction",
                "The fewer, the more time the recorder has; at `--batch-rows` it is behind.",
                ("RecorderPaused", "ConsumerLag"),
                "short",
            ),
            Query(
                f'sum(rate(icestream_recorder_batch_rows_sum{{table="reconstructions"}}{WINDOW}))'
                f' / sum(rate(icestream_recorder_batch_rows_count{{table="reconstructions"}}{WINDOW}))',
                "mean",
            ),
        ),
    ]
