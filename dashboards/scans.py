"""Sky scans: how many run, how far they are, how fast their pixels are fitted and who waits."""

from dashboards.assembly import Board
from dashboards.panels import WINDOW, About, Panel, Query, growth, heat_map, lines, number, or_none


def board() -> Board:
    """Whether alerts are fast and the catalogue moves on."""
    return Board(
        "scans",
        "IceStream: sky scans",
        "Whether alerts are scanned fast, how far everything else is, and what the workers are doing.",
        {"Now": _now(), "Scans": _scans(), "Queue by priority": _queue(), "Workers": _workers()},
    )


def _now() -> list[Panel]:
    return [
        number(
            About("Scans", "Running and queued.", ("ScanStuck",), "short", width=6, height=4),
            Query('sum(icestream_scanner_scans{state="running"})', "running"),
            Query('sum(icestream_scanner_scans{state="queued"})', "queued"),
        ),
        number(
            About(
                "Pixels a second",
                "Fits that came back, of all scans together. Zero while a scan runs: it is stuck.",
                ("ScanStuck",),
                "cps",
                width=6,
                height=4,
            ),
            Query(f"sum(rate(icestream_scanner_fits_total{WINDOW}))"),
        ),
        number(
            About(
                "Time left",
                "Until all batches that are known are fitted, at the pace of the last 5 minutes. Scans that refine "
                "their maps will ask for more. 0 while there is nothing to do.",
                ("ScanStuck",),
                "s",
                width=6,
                height=4,
            ),
            Query(
                "sum(icestream_scanner_batches) / (sum(rate(icestream_scan_worker_batches_total[5m])) > 0)"
                " or sum(icestream_scanner_batches) * 0"
            ),
        ),
        number(
            About(
                "Workers in quarantine",
                "Those that take no work because too many batches failed on them. 0 in health.",
                ("ScanWorkerQuarantined",),
                "none",
                width=6,
                height=4,
            ),
            Query("sum(icestream_scan_worker_quarantined)"),
            limits=(1,),
        ),
    ]


def _scans() -> list[Panel]:
    return [
        lines(
            About(
                "Scans that have not ended",
                "Queued ones wait for a place; `running` at `--max-running` is a full house.",
                ("ScanStuck",),
                "short",
            ),
            Query("sum by (state) (icestream_scanner_scans)", "{{state}}"),
            is_stacked=True,
        ),
        lines(
            About(
                "Accepted and ended, last hour",
                "By lane and by how they ended. `incomplete` ones lack pixels: see the dead letters.",
                ("ScanStuck", "DeadLetters"),
                "short",
            ),
            Query(
                f"sum by (lane) ({growth('icestream_scanner_scans_accepted_total', '1h')})",
                "accepted, {{lane}}",
            ),
            Query(
                f"sum by (state) ({growth('icestream_scanner_scans_ended_total', '1h')})",
                "{{state}}",
            ),
        ),
        lines(
            About(
                "Duration, 90 %",
                "From the acceptance of a scan to its last result, of those that ended within the hour. Of alerts "
                "minutes at most. None where none ended.",
                ("ScanStuck",),
                "s",
            ),
            Query(
                "histogram_quantile(0.9, sum by (le, lane) (rate(icestream_scanner_scan_seconds_bucket[1h])))",
                "{{lane}}",
            ),
            is_log=True,
        ),
    ]


def _queue() -> list[Panel]:
    return [
        lines(
            About(
                "Pixels a second, by priority",
                "Alerts overtake the catalogue. One that takes a second or two is a small hill here, because rates are "
                "taken over 20 s.",
                ("ScanStuck",),
                "cps",
            ),
            Query(f"sum by (lane, reco) (rate(icestream_scanner_fits_total{WINDOW}))", "{{lane}}, {{reco}}"),
            is_stacked=True,
        ),
        lines(
            About(
                "Batches without an answer",
                "Queued for workers, or held back until there is room. Of `alert` above zero for long: too few "
                "workers.",
                ("ScanStuck", "StreamNearlyFull"),
                "short",
            ),
            Query("sum by (lane, place) (icestream_scanner_batches)", "{{lane}}, {{place}}"),
            is_stacked=True,
        ),
        lines(
            About(
                "Wait for a worker, 95 %",
                "Over 5 minutes. Of alerts: how well they overtake, at most one batch of a worker. Of the "
                "catalogue: whether workers are too few.",
                ("ScanStuck",),
                "s",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le, lane) "
                "(rate(icestream_scan_worker_wait_seconds_bucket[5m])))",
                "{{lane}}",
            ),
            is_log=True,
        ),
    ]


def _workers() -> list[Panel]:
    return [
        heat_map(
            About(
                "Time of a batch",
                "From its start to its fits. Near `--batch-timeout-s` batches are too large.",
                ("ScanStuck",),
                "cps",
                width=6,
            ),
            Query(f"sum by (le) (rate(icestream_scan_worker_batch_seconds_bucket{WINDOW}))", "{{le}}"),
            y_unit="s",
        ),
        lines(
            About(
                "Pixels a second, by worker",
                "One that is much slower than the others: its machine. Steps are batches that end.",
                ("ScanWorkerQuarantined",),
                "cps",
                width=6,
            ),
            Query(f"sum by (instance) (rate(icestream_scan_worker_fits_total{WINDOW}))", "{{instance}}"),
            is_stacked=True,
        ),
        lines(
            About(
                "Failed batches",
                "By reason, and batches that were halved because of it, within 10 minutes. `none` at zero in "
                "health.",
                ("ScanWorkerQuarantined", "DeadLetters"),
                "short",
                width=6,
            ),
            Query(
                or_none(
                    f"sum by (reason) ({growth('icestream_scan_worker_failures_total', '10m')})", "reason"
                ),
                "{{reason}}",
            ),
            Query("sum(increase(icestream_scan_worker_splits_total[10m]))", "halved"),
        ),
        lines(
            About(
                "Log of the scanner",
                "Entries that it has not read yet, and within 10 minutes batches queued anew and fits dropped. "
                "Zero but after a restart: the scanner is too slow, or batches are lost.",
                ("ScanStuck",),
                "short",
                width=6,
            ),
            Query("sum(icestream_scanner_log_lag)", "not read yet"),
            Query("sum(increase(icestream_scanner_requeued_total[10m]))", "queued anew"),
            Query(
                or_none(
                    f"sum by (reason) ({growth('icestream_scanner_dropped_results_total', '10m')})", "reason"
                ),
                "dropped: {{reason}}",
            ),
        ),
    ]
