"""The model server: `gunicorn "benchmarks.peer.app:create_app()"`."""

import os
from typing import Any

import onnxruntime
from flask import Flask, request

from benchmarks.peer import MODEL_VARIABLE
from benchmarks.peer.wire import pulses_of
from icestream.physics.detector import icecube86
from icestream.physics.features import pad_batch, pulse_features


def create_app() -> Flask:
    """The application with its model loaded, once for each worker."""
    app = Flask(__name__)
    session = _session(os.environ[MODEL_VARIABLE])
    names = [output.name for output in session.get_outputs()]
    detector = icecube86()
    # The first event would wait until this is compiled, and gunicorn would end its worker.
    pulse_features(pulses_of({"pulses": [[0, 0.0, 1.0, 1]]}), detector)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    def predict() -> list[dict[str, Any]]:
        events = request.get_json()
        pulses = [pulses_of(event) for event in events]
        features = [pulse_features(rows, detector) for rows in pulses]
        table, lengths = pad_batch(
            features, [len(rows) for rows in pulses], max(len(rows) for rows in features)
        )
        outputs = session.run(names, {"pulses": table, "lengths": lengths})
        columns = [output.tolist() for output in outputs]
        return [
            {"event_id": event["event_id"], **dict(zip(names, row, strict=True))}
            for event, *row in zip(events, *columns, strict=True)
        ]

    return app


def _session(path: str) -> Any:
    options = onnxruntime.SessionOptions()
    # One worker for each core; threads below them would only compete.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
