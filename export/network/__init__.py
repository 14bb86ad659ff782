"""The network that tells directions, from its input to its answer."""
