"""The peer: what a student would build instead of this project, as fast as that design goes.

Events wait as JSON in a Redis list, a consumer takes one item after the other and posts it to a Flask application under
gunicorn, and the predictions that come back are stored under the events' ids.

    emitter --RPUSH--> Redis list --BLPOP--> consumer --POST /predict--> Flask, onnxruntime
                                                  `--HSET--> Redis hash

It is not made slow. The consumer passes the JSON on without parsing it; there is one consumer and one gunicorn worker
for each core; the model has one thread a worker; features come from this project's own numpy code; and the store is a
hash in the same Redis, written once for each batch, where the pipeline that this one is modelled on had a MongoDB.
"""

QUEUE = "events"
"""The list that events wait in; an item is a JSON list of events."""
PREDICTIONS = "predictions"
"""The hash with a JSON object for each event's id."""
MODEL_VARIABLE = "PEER_MODEL"
"""Environment variable that tells the application where its model.onnx is."""
