"""One event a line, a constant message, facts as fields."""

import logging
import sys

import structlog


def configure_logs(service: str, instance: str, *, level: str, log_format: str) -> None:
    """Set up logging of this process; everything goes to standard error.

    Args:
        service: Name of the service, a field of every line.
        instance: Name of this process, a field of every line.
        level: Least severe level that is written.
        log_format: "json" for a log collector, anything else for people.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        # Not with Rich, which shows the variables of every frame, secrets among them.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer]
        if log_format == "json"
        else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, instance=instance)
    # Libraries log through the standard library; only what needs attention is worth a line of ours.
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format=f"%(levelname)s {service} %(name)s: %(message)s"
    )
