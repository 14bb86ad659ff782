"""The model server, as itself and as its clients see it."""

from dashboards.assembly import Board
from dashboards.limits import limit
from dashboards.panels import WINDOW, About, Panel, Query, growth, heat_map, lines, number, or_none

_QUEUE_S = "icestream_triton:queue_seconds:mean_5m"
_PENDING = "nv_inference_pending_request_count"
_MODEL = '{model=~"$model"}'
_MODEL_FAILURES = 'icestream_router_failures_total{reason=~"model_.*"}'


def board() -> Board:
    """Whether the model server waits, computes or fails."""
    return Board(
        "triton",
        "IceStream: Triton",
        "Whether the model server waits, computes or fails, and how well its batches fill.",
        {
            "Now": _now(),
            "Requests": _requests(),
            "Queue and batches": _queue(),
            "Compute": _compute(),
        },
        {"model": "label_values(nv_inference_count, model)"},
    )


def _now() -> list[Panel]:
    return [
        number(
            About("Requests", "Answered in a second.", ("TritonDown",), "reqps", width=6, height=4),
            Query(f"sum(rate(nv_inference_request_success{_MODEL}{WINDOW}))"),
        ),
        number(
            About(
                "Events",
                "Computed in a second; for scans these are fits.",
                ("TritonQueueGrowing",),
                "cps",
                width=6,
                height=4,
            ),
            Query(f"sum(rate(nv_inference_count{_MODEL}{WINDOW}))"),
        ),
        number(
            About(
                "Requests that wait",
                "A few under load. Many that grow: more comes than the model answers.",
                ("TritonQueueGrowing",),
                "short",
                width=6,
                height=4,
            ),
            Query(f"sum({_PENDING}{_MODEL})"),
            limits=(limit("TritonQueueGrowing", _PENDING),),
        ),
        number(
            About(
                "Routers that are paused",
                "Those that take no events because the model does not answer their probes. 0 in health.",
                ("RouterPaused",),
                "none",
                width=6,
                height=4,
            ),
            Query("sum(icestream_router_intake_paused)"),
            limits=(1,),
        ),
    ]


def _requests() -> list[Panel]:
    return [
        lines(
            About(
                "Requests answered",
                "By model and version. After a new version was published the old one goes to zero.",
                ("TritonDown",),
                "reqps",
            ),
            Query(
                f"sum by (model, version) (rate(nv_inference_request_success{_MODEL}{WINDOW}))",
                "{{model}} {{version}}",
            ),
        ),
        lines(
            About(
                "Requests failed",
                "Within 10 minutes, by reason; what a full queue refused is only in the routers' count. Zero in "
                "health.",
                ("TritonFailing",),
                "short",
            ),
            Query(
                f"sum by (reason) ({growth(f'nv_inference_request_failure{_MODEL}', '10m')})",
                "Triton: {{reason}}",
            ),
            Query(
                or_none(f"sum by (reason) ({growth(_MODEL_FAILURES, '10m')})", "reason"),
                "routers: {{reason}}",
            ),
        ),
        lines(
            About(
                "Latency inside Triton",
                "Quantiles of the last minute, without the network. None while nothing is asked.",
                ("TritonQueueGrowing", "EndToEndLatencyHigh"),
                "s",
            ),
            Query(
                "max by (model, quantile) "
                '(nv_inference_request_summary_us{model=~"$model", quantile=~"0.5|0.99"}) / 1e6',
                "{{model}} {{quantile}}",
            ),
            is_log=True,
        ),
    ]


def _queue() -> list[Panel]:
    return [
        lines(
            About(
                "Mean wait in the queue",
                "Of a request, over 5 minutes. Longer than the compute below: another instance would help, where "
                "there are idle cores.",
                ("TritonQueueGrowing",),
                "s",
                width=6,
            ),
            Query(
                'icestream_triton:queue_seconds:mean_5m{model=~"$model"}',
                "{{model}} {{version}}",
            ),
            limits=(limit("TritonQueueGrowing", _QUEUE_S),),
        ),
        lines(
            About(
                "Requests that wait",
                "Routers and scan workers bound what they have here, 6 and 2 requests each.",
                ("TritonQueueGrowing",),
                "short",
                width=6,
            ),
            Query(f"sum by (model, version) ({_PENDING}{_MODEL})", "{{model}} {{version}}"),
            limits=(limit("TritonQueueGrowing", _PENDING),),
        ),
        lines(
            About(
                "Mean batch",
                "Events in one run of the model. Near 1 under load: something sends single events, or lengths "
                "differ too much.",
                ("TritonQueueGrowing",),
                "short",
                width=6,
            ),
            Query(
                f"sum by (model) (rate(nv_inference_count{_MODEL}{WINDOW}))"
                f" / (sum by (model) (rate(nv_inference_exec_count{_MODEL}{WINDOW})) > 0)",
                "{{model}}",
            ),
        ),
        heat_map(
            About(
                "Events in a router's request",
                "Near `--batch` under load; small ones are a window that does not fill.",
                ("TritonQueueGrowing",),
                "reqps",
                width=6,
            ),
            Query(f"sum by (le) (rate(icestream_router_batch_events_bucket{WINDOW}))", "{{le}}"),
            y_unit="short",
        ),
    ]


def _compute() -> list[Panel]:
    return [
        lines(
            About(
                "Compute of a request",
                "Mean time in the model. Steady; a step is a new version, longer events or a busy machine.",
                ("TritonQueueGrowing", "GrpcLatencyHigh"),
                "s",
            ),
            Query(
                f"sum by (model) (rate(nv_inference_compute_infer_duration_us{_MODEL}{WINDOW})) / 1e6"
                f" / (sum by (model) (rate(nv_inference_request_success{_MODEL}{WINDOW})) > 0)",
                "{{model}}",
            ),
        ),
        lines(
            About(
                "One request, as clients see it, 95 %",
                "Network, queue and compute together, of routers and of scan workers.",
                ("EndToEndLatencyHigh", "TritonQueueGrowing"),
                "s",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le) "
                f'(rate(icestream_router_stage_seconds_bucket{{stage="infer"}}{WINDOW})))',
                "routers",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le) "
                "(rate(icestream_scan_worker_infer_seconds_bucket[5m])))",
                "scan workers, 5 min",
            ),
            is_log=True,
        ),
        lines(
            About(
                "CPU of the machine",
                "All of it and a queue that grows: more cores, or fewer clients.",
                ("TritonQueueGrowing",),
                "percentunit",
            ),
            Query("nv_cpu_utilization", "{{instance}}"),
        ),
    ]
