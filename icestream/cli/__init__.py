"""The `icestream` command."""

import os

# gRPC reads it when it is imported; else it writes lines of its own about handshakes that we explain.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
