"""The consumer: `python -m benchmarks.peer.consumer REDIS_PORT PREDICT_URL`."""

import json
import sys
import time

import redis
import requests

from benchmarks.peer import PREDICTIONS, QUEUE

_TIMEOUT_S = 60.0


def main() -> None:
    """Move items from the queue through the model to the store, for ever."""
    port, url = int(sys.argv[1]), sys.argv[2]
    # The client gives up on an answer after seconds, by default; an empty queue may last longer.
    store = redis.Redis(port=port, socket_timeout=None)
    session = requests.Session()
    while True:
        found = store.blpop([QUEUE])
        assert found is not None, "without a timeout BLPOP waits for ever"
        _, item = found
        response = session.post(
            url, data=item, headers={"Content-Type": "application/json"}, timeout=_TIMEOUT_S
        )
        response.raise_for_status()
        # Before the store has them, which is in the peer's favour.
        stored_unix_ns = time.time_ns()
        store.hset(
            PREDICTIONS,
            mapping={
                prediction["event_id"]: json.dumps(prediction | {"stored_unix_ns": stored_unix_ns})
                for prediction in response.json()
            },
        )


if __name__ == "__main__":
    main()
