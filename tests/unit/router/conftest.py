import pytest

from icestream.physics.features import compile_for_messages


@pytest.fixture(scope="session", autouse=True)
def _kernels() -> None:
    """As the router does at its start: whoever changed the physics would otherwise wait in the first call."""
    compile_for_messages()
