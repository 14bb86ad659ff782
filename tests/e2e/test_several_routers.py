"""`icestream up --routers 2`: both work, and whichever ends is started again."""

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.stack import assert_each_exactly_once, metric, metrics_port, running, running_stack

N_EVENTS = 600
RECONSTRUCTED = 'icestream_router_reconstructions_total{face="nats"}'


async def test_the_routers_of_a_stack_share_its_events(tmp_path: Path) -> None:
    with running_stack(tmp_path / "stack", "--routers", "2", "--scan-workers", "0") as stack:
        routers = stack.parts("services.router")
        ports = {metrics_port(router) for router in routers}
        assert len(ports) == len(routers) == 2
        assert stack.endpoints.router_metrics in ports
        command = stack.command("emit", "--seed", "1", "--events", str(N_EVENTS), "--rate", "400")
        with running(command, tmp_path / "emitter.log") as emitter:
            await eventually(lambda: all(metric(port, RECONSTRUCTED) > 50 for port in ports), timeout_s=60.0)
            assert emitter.wait(60) == 0
        await assert_each_exactly_once(stack, 1, N_EVENTS)
        for router in routers:
            router.kill()
        await eventually(
            lambda: all(stack.log(name).count("router is up") == 2 for name in ("router", "router-2")),
            timeout_s=60.0,
        )
        assert {metrics_port(router) for router in stack.parts("services.router")} == ports
