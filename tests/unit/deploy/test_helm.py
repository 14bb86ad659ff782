"""deploy/helm/icestream renders what Kubernetes takes, and what the services, compose and the broker's names say."""

import asyncio
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from icestream.errors import IceStreamError
from icestream.runtime.jetstream.connection import connect
from icestream.runtime.jetstream.scan_topology import Lane, ScanNames, consumer_name
from icestream.runtime.jetstream.topology import ROUTER_CONSUMER, Names
from icestream.runtime.local_stack import TOOL_CACHE
from icestream.runtime.secret_files import NATS_USERS
from icestream.runtime.settings import ServiceSettings
from tests.support.nats_server import NatsServer, free_port, running_nats_server
from tests.support.secure_nats import running_secure_nats
from tests.unit.deploy.recipes import (
    REPOSITORY,
    image_environment,
    our_services,
    services,
    settings_class,
    settings_with,
)

CHART = REPOSITORY / "deploy/helm/icestream"
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.30", "1.37"
RELEASE, NAMESPACE = "ice", "physics"

FOREIGN_KINDS = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
"""Of KEDA and of the Prometheus operator; their schemas are in no package."""

JOB = "stream-replicas"
VALUES_OF = {
    "router": "router",
    "scanner": "scanner",
    "scan-worker": "scanWorker",
    "recorder": "recorder",
    "nats-exporter": "natsExporter",
    "emitter": "emitter",
}

Object = Mapping[str, Any]

CASES: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "production": ("--values", str(CHART / "values-production.yaml")),
    "everything": (
        *("--values", str(CHART / "values-production.yaml"), "--set", "emitter.enabled=true,prefix=test"),
        *("--set", "triton.modelRepository.image=example/models:2,triton.modelRepository.existingClaim="),
        *(
            "--set-json",
            'triton.nodeSelector={"gpu":"yes"}',
            "--set-json",
            'router.tolerations=[{"key":"x"}]',
        ),
        *("--set-json", 'triton.resources.limits={"memory":"8Gi","nvidia.com/gpu":1}'),
    ),
    "triton elsewhere": ("--set", "triton.enabled=false,triton.url=triton.example.org:18001"),
    "little": (
        *("--set", "recorder.enabled=false,scanner.enabled=false,scanWorker.enabled=false"),
        *("--set", "natsExporter.enabled=false"),
        *("--set", "podDisruptionBudget.enabled=false,networkPolicy.enabled=false,database.existingSecret="),
    ),
    "nobody is asked who is calling": (
        *("--set", "nats.url=nats://nats:4222,nats.existingSecret=,nats.existingCaSecret="),
        *("--set", "grpc.existingTlsSecret=,grpc.existingTokensSecret="),
    ),
    "a release with the chart's name": ("--name-template", "icestream"),
}


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    beside_others = TOOL_CACHE / "helm"
    binary = str(beside_others) if beside_others.exists() else shutil.which("helm")
    assert binary is not None, "no helm: make tools"
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


@cache
def template(*arguments: str, kubernetes: str = OLDEST_KUBERNETES) -> tuple[Object, ...]:
    """What the chart renders to; a failure is the test's."""
    name = () if "--name-template" in arguments else (RELEASE,)
    result = helm(
        *("template", *name, str(CHART), "--namespace", NAMESPACE, "--kube-version", kubernetes),
        *arguments,
    )
    assert result.returncode == 0, result.stderr
    return tuple(one for one in yaml.safe_load_all(result.stdout) if one)


def notes(folder: Path, *arguments: str) -> str:
    """What the chart says after an installation."""
    # `helm template` leaves the notes out, and `helm install` wants a cluster.
    chart = folder / "icestream"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    shutil.copy(CHART / "templates/NOTES.txt", chart / "notes")
    (chart / "templates/notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes") . | quote }}\n')
    only = ("--show-only", "templates/notes.yaml", "--kube-version", OLDEST_KUBERNETES)
    result = helm("template", RELEASE, str(chart), *only, *arguments)
    assert result.returncode == 0, result.stderr
    return str(yaml.safe_load(result.stdout)["notes"])


def refusal(*arguments: str) -> str:
    """Why the chart does not render."""
    result = helm("template", RELEASE, str(CHART), "--kube-version", OLDEST_KUBERNETES, *arguments)
    assert result.returncode != 0, "it renders"
    return result.stderr


@pytest.fixture(params=CASES)
def rendered(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return template(*CASES[request.param])


def of_kind(rendered: tuple[Object, ...], *kinds: str) -> dict[str, Object]:
    """Objects of these kinds, by component."""
    found = [one for one in rendered if one["kind"] in kinds]
    by_component = {component(one["metadata"]): one for one in found}
    assert len(by_component) == len(found)
    return by_component


def component(metadata: Object) -> str:
    return str(metadata["labels"]["app.kubernetes.io/component"])


def pods(rendered: tuple[Object, ...]) -> dict[str, Object]:
    """Pod templates, by component."""
    return {name: one["spec"]["template"] for name, one in of_kind(rendered, "Deployment", "Job").items()}


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def our_pods(rendered: tuple[Object, ...]) -> dict[str, Object]:
    """Those of services of ours."""
    return {name: pod for name, pod in pods(rendered).items() if name in VALUES_OF}


def plain_variables(rendered: tuple[Object, ...], name: str) -> dict[str, str]:
    """What a service's container gets without a secret, the ConfigMap included."""
    [container] = our_pods(rendered)[name]["spec"]["containers"]
    [source] = container["envFrom"]
    config = of_kind(rendered, "ConfigMap")[name]
    assert config["metadata"]["name"] == source["configMapRef"]["name"]
    here = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    return {**config["data"], **here}


def referred_variables(rendered: tuple[Object, ...], name: str) -> dict[str, Object]:
    """What it gets from elsewhere, by the variable's name."""
    [container] = our_pods(rendered)[name]["spec"]["containers"]
    return {one["name"]: one["valueFrom"] for one in container["env"] if "valueFrom" in one}


SECRET_EXAMPLES = {"DATABASE_URL": "postgresql://me@db:5432/records"}


def settings_of(rendered: tuple[Object, ...], name: str) -> ServiceSettings:
    """What the service reads: from its image, from the ConfigMap, and from secrets that hold an example."""
    own = settings_class(our_services()[name])
    prefix = str(own.model_config["env_prefix"])
    variables = {key: value for key, value in image_environment().items() if key.startswith(prefix)}
    variables |= plain_variables(rendered, name)
    for variable in referred_variables(rendered, name):
        if variable.startswith(prefix):
            variables[variable] = SECRET_EXAMPLES.get(variable.removeprefix(prefix), "pod-1")
    return settings_with(own, variables)


def secrets_at(pod: Object, folder: str) -> list[tuple[str, str, str]]:
    """Secret, key and file name of all that is mounted there from secrets."""
    [container] = pod["spec"]["containers"]
    names = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == folder]
    found = []
    for volume in pod["spec"]["volumes"]:
        if volume["name"] in names:
            sources = [one["secret"] for one in volume.get("projected", {}).get("sources", ())]
            sources += [volume["secret"]] if "secret" in volume else []
            for one in sources:
                name = one.get("name") or one["secretName"]
                found += [(name, item["key"], item["path"]) for item in one["items"]]
    return found


def protocols(rendered: tuple[Object, ...], name: str) -> list[str]:
    """What a Service says that its ports speak, where it does."""
    ports = of_kind(rendered, "Service")[name]["spec"]["ports"]
    return [port["appProtocol"] for port in ports if "appProtocol" in port]


def selects(selector: Object, labels: Object) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def ports_of(pod: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in containers(pod) for port in one.get("ports", ())}


@pytest.fixture(scope="session")
def kubernetes_validate() -> Any:
    """The schemas of Kubernetes, and a check against them; it has no types."""
    return importlib.import_module("kubernetes_validate")


class TestTheChart:
    @pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
    def test_helm_finds_nothing_to_complain_about(self, arguments: tuple[str, ...]) -> None:
        if "--name-template" in arguments:
            arguments = ()
        result = helm("lint", "--strict", "--kube-version", OLDEST_KUBERNETES, str(CHART), *arguments)
        assert result.returncode == 0, result.stdout
        assert "[WARNING]" not in result.stdout

    @pytest.mark.parametrize("kubernetes", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
    @pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
    def test_kubernetes_knows_every_field(
        self, kubernetes_validate: Any, arguments: tuple[str, ...], kubernetes: str
    ) -> None:
        rendered = template(*arguments, kubernetes=kubernetes)
        assert rendered
        for one in rendered:
            if one["kind"] not in FOREIGN_KINDS:
                assert kubernetes_validate.validate(dict(one), kubernetes, strict=True) == kubernetes

    def test_a_misspelt_field_would_be_found(self, kubernetes_validate: Any) -> None:
        pod = json.loads(json.dumps(of_kind(template(), "Deployment")["router"]))
        pod["spec"]["template"]["spec"]["enableServiceLink"] = False
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, OLDEST_KUBERNETES, strict=True)

    def test_the_version_is_that_of_the_services(self) -> None:
        version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
        assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version

    def test_notes_say_what_is_needed(self, tmp_path: Path) -> None:
        text = notes(tmp_path, *CASES["production"])
        secrets = ("nats", "ca", "grpc", "tokens", "database", "database-ca")
        for secret in (*(f"icestream-{name}" for name in secrets), "registry"):
            assert f"Secret {secret}:" in text
        assert "Image registry.example.org/icestream/models:3:" in text
        assert "nats-exporter, recorder, router, scan-worker, scanner, stream-replicas" in text
        assert "PersistentVolumeClaim icestream-models:" in notes(tmp_path)

    def test_the_docs_make_every_secret_that_production_names(self) -> None:
        docs = (REPOSITORY / "docs/deployment.md").read_text()
        made = set(re.findall(r"kubectl create secret (?:generic|tls|docker-registry) (\S+)", docs))
        production = json.dumps(template(*CASES["production"]))
        named = re.findall(r'"(?:secretName|imagePullSecrets": \[{"name)": "([^"]+)"', production)
        named += re.findall(r'"secret(?:KeyRef)?": {(?:[^{}]*, )?"name": "([^"]+)"', production)
        assert {"icestream-nats", "icestream-database", "icestream-database-ca", "registry"} <= set(named)
        assert set(named) == made

    def test_the_docs_build_the_images_that_production_names(self) -> None:
        docs = (REPOSITORY / "docs/deployment.md").read_text()
        ours = {
            container["image"]
            for pod in pods(template(*CASES["production"])).values()
            for container in containers(pod)
            if container["image"].startswith("registry.example.org/")
        }
        assert ours == set(re.findall(r"docker push (\S+)", docs))

    @pytest.mark.parametrize(
        ("setting", "reason"),
        [
            ("routr.replicas=2", "routr"),
            ("router.settings.triton_ulr=a:1", "triton_ulr"),
            ("router.settings.batch=0", "batch"),
            ("router.replicas=0", "replicas"),
            ("scanner.replicas=2", "replicas"),
            ("nats.url=nats://me:word@nats:4222", "nats"),
            ("nats.url=", "nats"),
            ("nats.streamReplicas=2", "streamReplicas"),
            ("triton.enabled=false", "triton"),
            ("triton.url=http://triton:8001", "triton"),
            ("database.existingSecret=", "database"),
            ("triton.modelRepository.existingClaim=", "modelRepository"),
            ("triton.modelRepository.image=a:1", "modelRepository"),
            ("image.pullPolicy=Sometimes", "pullPolicy"),
        ],
    )
    def test_values_that_cannot_work_are_refused(self, setting: str, reason: str) -> None:
        assert reason in refusal("--set", setting)

    @pytest.mark.parametrize("name", VALUES_OF)
    def test_the_schema_knows_the_settings_as_the_service_does(self, name: str) -> None:
        schema = json.loads((CHART / "values.schema.json").read_text())
        listed = schema["properties"][VALUES_OF[name]]["properties"]["settings"]["properties"]
        fields = settings_class(our_services()[name]).model_json_schema()["properties"]
        assert listed
        for setting, limits in listed.items():
            assert setting in fields, f"{setting} is no setting"
            kinds = [
                kind for kind in fields[setting].get("anyOf", [fields[setting]]) if kind["type"] != "null"
            ]
            assert limits.items() <= kinds[0].items(), setting


class TestPods:
    def test_all_parts_are_there(self) -> None:
        everything = {*VALUES_OF, "triton", JOB}
        assert set(pods(template())) == everything - {"emitter", JOB}
        assert set(pods(template(*CASES["everything"]))) == everything
        assert set(pods(template(*CASES["little"]))) == {"router", "triton"}

    def test_selectors_match_the_pods(self, rendered: tuple[Object, ...]) -> None:
        labels = {name: pod["metadata"]["labels"] for name, pod in pods(rendered).items()}
        for name, one in of_kind(rendered, "Deployment").items():
            assert selects(one["spec"]["selector"]["matchLabels"], labels[name])
        for kind in ("PodDisruptionBudget", "Service", "NetworkPolicy"):
            for name, one in of_kind(rendered, kind).items():
                selector = one["spec"].get("selector", one["spec"].get("podSelector"))
                matching = {other for other in labels if selects(labels_of(selector), labels[other])}
                assert matching == {name}, kind

    def test_nothing_can_be_gained(self, rendered: tuple[Object, ...]) -> None:
        for pod in pods(rendered).values():
            security = pod["spec"]["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod["spec"])
            for container in containers(pod):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }

    def test_our_pods_run_as_the_user_of_the_image(self, rendered: tuple[Object, ...]) -> None:
        dockerfile = (REPOSITORY / "deploy/images/Dockerfile").read_text()
        user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M)
        assert user
        for pod in our_pods(rendered).values():
            security = pod["spec"]["securityContext"]
            assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user.groups()

    def test_services_of_the_cluster_are_no_variables(self, rendered: tuple[Object, ...]) -> None:
        # ICESTREAM_ROUTER_PORT=tcp://... of a release called icestream would end every router at its start.
        assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods(rendered).values())

    def test_every_container_says_what_it_takes(self, rendered: tuple[Object, ...]) -> None:
        for pod in pods(rendered).values():
            for container in containers(pod):
                assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
                assert "memory" in container["resources"]["limits"]

    @pytest.mark.parametrize("name", [*VALUES_OF, "triton"])
    def test_memory_is_that_of_compose(self, name: str) -> None:
        rendered = template("--set", "emitter.enabled=true")
        [container] = pods(rendered)[name]["spec"]["containers"]
        limit = services()[name]["deploy"]["resources"]["limits"]["memory"]
        assert in_mib(container["resources"]["limits"]["memory"]) == in_mib(limit)

    def test_every_container_that_stays_is_watched(self, rendered: tuple[Object, ...]) -> None:
        for name, one in of_kind(rendered, "Deployment").items():
            [container] = one["spec"]["template"]["spec"]["containers"]
            live, ready = (
                ("/v2/health/live", "/v2/health/ready") if name == "triton" else ("/healthz", "/readyz")
            )
            assert container["livenessProbe"]["httpGet"]["path"] == live
            assert container["readinessProbe"]["httpGet"]["path"] == ready
            assert (
                container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"]
                >= 60
            )
            ports = ports_of(one["spec"]["template"])
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                assert container[probe]["httpGet"]["port"] in ports

    def test_pods_have_as_long_to_end_as_in_compose(self, rendered: tuple[Object, ...]) -> None:
        for name, one in of_kind(rendered, "Deployment").items():
            pod = one["spec"]["template"]["spec"]
            sleep_s = pod["containers"][0].get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
            grace_s = pod["terminationGracePeriodSeconds"] - sleep_s["sleep"]["seconds"]
            assert grace_s >= int(services()[name]["stop_grace_period"].rstrip("s")), name

    def test_pods_spread(self, rendered: tuple[Object, ...]) -> None:
        for one in of_kind(rendered, "Deployment").values():
            pod = one["spec"]["template"]
            spread = pod["spec"]["topologySpreadConstraints"]
            assert {each["topologyKey"] for each in spread} == {
                "kubernetes.io/hostname",
                "topology.kubernetes.io/zone",
            }
            assert all(
                selects(labels_of(each["labelSelector"]), pod["metadata"]["labels"]) for each in spread
            )

    def test_what_must_be_alone_is_alone(self) -> None:
        for name, one in of_kind(template(*CASES["everything"]), "Deployment").items():
            if name in ("scanner", "emitter"):
                assert one["spec"]["replicas"] == 1
                assert one["spec"]["strategy"] == {"type": "Recreate"}
            else:
                assert one["spec"]["strategy"]["type"] == "RollingUpdate"

    def test_images_are_pinned(self, rendered: tuple[Object, ...]) -> None:
        for pod in pods(rendered).values():
            for container in containers(pod):
                assert re.search(r":\d+(\.\d+)*", container["image"]), container["image"]

    def test_what_is_mounted_is_there(self, rendered: tuple[Object, ...]) -> None:
        for pod in pods(rendered).values():
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            mounted = {mount["name"] for one in containers(pod) for mount in one["volumeMounts"]}
            assert mounted == volumes

    def test_kernels_can_be_kept(self, rendered: tuple[Object, ...]) -> None:
        folder = image_environment()["NUMBA_CACHE_DIR"]
        for name, pod in our_pods(rendered).items():
            mounts = {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
            in_compose = any(f":{folder}" in volume for volume in services()[name].get("volumes", ()))
            assert (folder in mounts) is in_compose

    def test_a_variable_that_changes_makes_new_pods(self) -> None:
        def checksums(*arguments: str) -> dict[str, str]:
            found = our_pods(template(*arguments))
            return {name: pod["metadata"]["annotations"]["checksum/config"] for name, pod in found.items()}

        before, after = checksums(), checksums("--set", "router.settings.batch=4")
        assert {name for name in before if before[name] != after[name]} == {"router"}


class TestSettings:
    def test_the_service_is_the_one_of_compose(self, rendered: tuple[Object, ...]) -> None:
        for name, pod in our_pods(rendered).items():
            [container] = pod["spec"]["containers"]
            assert container["args"] == services()[name]["command"]

    def test_variables_are_settings_and_values_are_accepted(self, rendered: tuple[Object, ...]) -> None:
        for name in our_pods(rendered):
            own = settings_class(our_services()[name])
            prefix = str(own.model_config["env_prefix"])
            given = {*plain_variables(rendered, name), *referred_variables(rendered, name)}
            others = {"OTEL_EXPORTER_OTLP_ENDPOINT", "PGPASSWORD", "PGSSLROOTCERT"}
            fields = {variable.removeprefix(prefix).lower() for variable in given - others}
            # A variable that the class would not read is not in what was set.
            assert fields <= settings_of(rendered, name).model_fields_set

    def test_numbers_arrive_as_they_were_written(self) -> None:
        rendered = template(
            *("--set", "router.settings.grpc_max_message_bytes=16777216"),
            *("--set-json", "router.settings.trace_ratio=0.00002"),
            *("--set", "emitter.enabled=true,scanWorker.settings.quarantine_s=90"),
        )
        router = settings_of(rendered, "router").model_dump()
        assert router["grpc_max_message_bytes"] == 16_777_216
        assert router["trace_ratio"] == 0.00002
        assert settings_of(rendered, "scan-worker").model_dump()["quarantine_s"] == 90.0
        assert settings_of(rendered, "emitter").model_dump()["poisson"] is True

    def test_ports_are_those_of_the_service(self, rendered: tuple[Object, ...]) -> None:
        for name, pod in our_pods(rendered).items():
            settings = settings_of(rendered, name).model_dump()
            ports = {"metrics": settings["metrics_port"]}
            ports |= {"grpc": settings["grpc_port"]} if "grpc_port" in settings else {}
            assert ports_of(pod) == ports
            service = of_kind(rendered, "Service")[name]
            assert {one["name"]: one["port"] for one in service["spec"]["ports"]} == ports
            assert all(one["targetPort"] == one["name"] for one in service["spec"]["ports"])

    def test_tritons_ports_are_those_of_compose(self) -> None:
        published = {int(port.split(":")[-1]) for port in services()["triton"]["ports"]}
        assert set(ports_of(pods(template())["triton"]).values()) == published

    def test_addresses_are_of_services_that_are_there(self) -> None:
        rendered = template()
        for name in ("router", "scan-worker"):
            host, _, port = settings_of(rendered, name).model_dump()["triton_url"].partition(":")
            triton = of_kind(rendered, "Service")["triton"]
            assert triton["metadata"]["name"] == host
            assert int(port) in {one["port"] for one in triton["spec"]["ports"] if one["name"] == "grpc"}
        elsewhere = template(*CASES["triton elsewhere"])
        assert settings_of(elsewhere, "router").model_dump()["triton_url"] == "triton.example.org:18001"
        assert "triton" not in pods(elsewhere)

    def test_tracing_is_on_where_it_was_asked_for(self) -> None:
        rendered = template(*CASES["production"])
        for name in our_pods(rendered):
            assert settings_of(rendered, name).otlp_endpoint == "http://otel-collector.telemetry:4317"
        assert settings_of(template(), "router").otlp_endpoint is None

    def test_processes_are_called_after_their_pods(self, rendered: tuple[Object, ...]) -> None:
        for name in our_pods(rendered):
            prefix = str(settings_class(our_services()[name]).model_config["env_prefix"])
            source = referred_variables(rendered, name)[f"{prefix}INSTANCE"]
            assert source == {"fieldRef": {"fieldPath": "metadata.name"}}

    def test_triton_gets_the_flags_of_compose(self) -> None:
        def flags(arguments: list[str]) -> set[str]:
            return {re.sub(r"url=.*", "url=", argument) for argument in arguments}

        in_compose = flags(services()["triton"]["command"])
        traced = template("--set", "triton.otlpUrl=http://jaeger:4318/v1/traces")
        assert flags(pods(traced)["triton"]["spec"]["containers"][0]["args"]) == in_compose

    def test_triton_is_the_one_of_compose(self) -> None:
        [container] = pods(template())["triton"]["spec"]["containers"]
        assert container["image"] == services()["triton"]["image"]
        environment = {one["name"]: one["value"] for one in container["env"]}
        assert environment == services()["triton"]["environment"]

    @pytest.mark.parametrize("case", ["defaults", "everything"])
    def test_models_are_where_triton_looks(self, case: str) -> None:
        pod = pods(template(*CASES[case]))["triton"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        [container] = pod["spec"]["containers"]
        [models] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/models"]
        assert models["readOnly"] is True
        if case == "defaults":
            assert volumes[models["name"]]["persistentVolumeClaim"]["claimName"] == "icestream-models"
        else:
            [copier] = pod["spec"]["initContainers"]
            assert copier["image"] == "example/models:2"
            assert [mount["name"] for mount in copier["volumeMounts"]] == [models["name"]]
            assert "emptyDir" in volumes[models["name"]]


class TestSecrets:
    def test_there_is_none_in_what_is_rendered(self, rendered: tuple[Object, ...]) -> None:
        assert not of_kind(rendered, "Secret")
        text = json.dumps(rendered)
        assert not re.search(r"//[^/\s:\"]+:[^/\s@\"]+@", text)
        for pod in pods(rendered).values():
            for container in containers(pod):
                for variable in container.get("env", ()):
                    if re.search("PASSWORD|TOKEN|DATABASE_URL", variable["name"]):
                        assert set(variable["valueFrom"]) == {"secretKeyRef"}

    def test_each_service_gets_its_own_seed(self) -> None:
        rendered = template(*CASES["everything"])
        for name, pod in pods(rendered).items():
            if name != "triton":
                [source] = [one for one in secrets_at(pod, "/etc/icestream/nats") if one[2] == "seed"]
                assert source == ("icestream-nats", name, "seed")

    def test_the_database_is_for_the_recorder_alone(self) -> None:
        rendered = template(*CASES["everything"])
        for name in our_pods(rendered):
            keys = {
                variable: source["secretKeyRef"]
                for variable, source in referred_variables(rendered, name).items()
                if "secretKeyRef" in source
            }
            secret = "icestream-database"
            wanted = {
                "ICESTREAM_RECORDER_DATABASE_URL": {"name": secret, "key": "url"},
                "PGPASSWORD": {"name": secret, "key": "password"},
            }
            assert keys == (wanted if name == "recorder" else {})

    def test_what_settings_name_is_mounted(self, rendered: tuple[Object, ...]) -> None:
        for name, pod in our_pods(rendered).items():
            settings = settings_of(rendered, name)
            paths = {
                str(value)
                for field, value in settings.model_dump().items()
                if isinstance(value, Path) and field.startswith(("nats_", "grpc_"))
            }
            mounts = [mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]]
            mounted = {f"{at}/{path}" for at in mounts for _, _, path in secrets_at(pod, at)}
            # The authority of the database is named by a variable of its own.
            assert paths == mounted - {"/etc/icestream/database/ca.crt"}, name

    def test_calls_are_encrypted_and_asked_for_a_token_unless_that_is_turned_off(self) -> None:
        for name in ("router", "scanner", "recorder"):
            asked = settings_of(template(), name).model_dump()
            assert all(asked[field] for field in ("grpc_tls_certificate", "grpc_tls_key", "grpc_tokens"))
            [protocol] = protocols(template(), name)
            assert protocol == "https"
            open_case = template(*CASES["nobody is asked who is calling"])
            asked = settings_of(open_case, name).model_dump()
            assert not any(asked[field] for field in ("grpc_tls_certificate", "grpc_tokens", "nats_seed"))
            assert protocols(open_case, name) == ["kubernetes.io/h2c"]

    def test_the_certificate_of_the_databases_authority_is_where_it_is_looked_for(self) -> None:
        rendered = template(*CASES["everything"])
        folder, _, file = plain_variables(rendered, "recorder")["PGSSLROOTCERT"].rpartition("/")
        assert secrets_at(our_pods(rendered)["recorder"], folder) == [("icestream-database-ca", file, file)]

    def test_the_broker_of_the_example_lets_in_whom_the_chart_sends(self) -> None:
        broker = yaml.safe_load((CHART / "examples/nats-values.yaml").read_text())
        assert broker["config"]["merge"]["zzz$include"] == "./users.conf"
        rendered = template(*CASES["everything"])
        assert {*our_pods(rendered), JOB} <= set(NATS_USERS)
        scaler = of_kind(rendered, "ScaledObject")["router"]["spec"]["triggers"][0]["metadata"]
        users = (REPOSITORY / "deploy/nats/users.conf").read_text()
        assert f"\n  {scaler['account']} {{\n    jetstream: enabled\n" in users

    @pytest.mark.parametrize(
        "arguments", [CASES["defaults"], CASES["production"]], ids=["defaults", "production"]
    )
    def test_the_exporter_and_keda_ask_the_same_servers(self, arguments: tuple[str, ...]) -> None:
        rendered = template(*arguments, "--set", "keda.enabled=true")
        trigger = of_kind(rendered, "ScaledObject")["router"]["spec"]["triggers"][0]["metadata"]
        monitor_urls = settings_of(rendered, "nats-exporter").model_dump()["monitor_urls"]
        assert monitor_urls == f"http://{trigger['natsServerMonitoringEndpoint']}"

    def test_the_broker_of_the_example_has_the_limits_of_the_others(self) -> None:
        broker = yaml.safe_load((CHART / "examples/nats-values.yaml").read_text())
        conf = (REPOSITORY / "deploy/nats/nats.conf").read_text()
        for key in ("max_payload", "write_deadline", "lame_duck_duration", "lame_duck_grace_period"):
            [value] = re.findall(rf"^{key}: \"?(\w+)\"?$", conf, re.M)
            assert str(broker["config"]["merge"][key]) == value
        assert f"nats:{broker['container']['image']['tag']}" == services()["nats"]["image"]


class TestNetworkPolicies:
    def test_every_pod_has_one(self) -> None:
        rendered = template(*CASES["everything"])
        assert set(of_kind(rendered, "NetworkPolicy")) == set(pods(rendered))
        for policy in of_kind(rendered, "NetworkPolicy").values():
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]

    def test_what_comes_in_is_served(self, rendered: tuple[Object, ...]) -> None:
        for name, policy in of_kind(rendered, "NetworkPolicy").items():
            wanted = set(ports_of(pods(rendered)[name]).values()) - {8000}
            assert {port for port, _ in flows(policy, "ingress")} == wanted, name
            # Without peers a rule lets everybody in.
            assert all(rule["from"] for rule in policy["spec"].get("ingress", ()))

    def test_what_goes_out_goes_where_the_settings_say(self) -> None:
        rendered = template(*CASES["everything"])
        dns = {53}
        wanted = {
            "router": {4222, 8001, 4317},
            "scanner": {4222, 4317},
            "scan-worker": {4222, 8001, 4317},
            "recorder": {4222, 5432, 4317},
            "nats-exporter": {4222, 8222, 4317},
            "emitter": {4222, 4317},
            "triton": {4318},
            JOB: {4222},
        }
        for name, policy in of_kind(rendered, "NetworkPolicy").items():
            assert {port for port, _ in flows(policy, "egress")} == wanted[name] | dns, name

    def test_monitoring_at_several_ports_is_reached_at_each(self) -> None:
        urls = r"natsExporter.settings.monitor_urls=http://a:8222\,http://b:8222\,http://c:8223"
        policies = of_kind(template("--set", urls), "NetworkPolicy")
        assert [port for port, _ in flows(policies["nats-exporter"], "egress") if port >= 8000] == [
            8222,
            8223,
        ]

    def test_without_tracing_nothing_goes_there(self) -> None:
        policies = of_kind(template(), "NetworkPolicy")
        assert {port for port, _ in flows(policies["router"], "egress")} == {53, 4222, 8001}
        assert policies["triton"]["spec"]["egress"] == []

    def test_a_triton_elsewhere_is_reached_at_its_port(self) -> None:
        policies = of_kind(template(*CASES["triton elsewhere"]), "NetworkPolicy")
        assert 18001 in {port for port, _ in flows(policies["router"], "egress")}

    def test_only_who_asks_triton_reaches_it(self) -> None:
        policy = of_kind(template(), "NetworkPolicy")["triton"]
        [rule] = [one for one in policy["spec"]["ingress"] if one["ports"][0]["port"] == 8001]
        peers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"]}
        assert peers == {"router", "scan-worker"}


class TestScaling:
    @pytest.mark.parametrize("prefix", ["icestream", "test"])
    def test_consumers_and_streams_are_those_of_the_topology(self, prefix: str) -> None:
        rendered = template("--set", f"keda.enabled=true,prefix={prefix}")
        names = Names(prefix)
        asked = {
            name: [
                (trigger["metadata"]["stream"], trigger["metadata"]["consumer"])
                for trigger in one["spec"]["triggers"]
                if trigger["type"] == "nats-jetstream"
            ]
            for name, one in of_kind(rendered, "ScaledObject").items()
        }
        assert asked == {
            "router": [(names.events_stream, ROUTER_CONSUMER)],
            "scan-worker": [(ScanNames(names).work_stream, consumer_name(lane)) for lane in Lane],
            "triton": [],
        }

    def test_triggers_have_what_keda_asks_for(self) -> None:
        # Of KEDA's nats-jetstream and prometheus scalers; it ignores what it does not know.
        known = {
            "nats-jetstream": {
                "natsServerMonitoringEndpoint",
                "account",
                "stream",
                "consumer",
                "lagThreshold",
            },
            "prometheus": {"serverAddress", "query", "threshold"},
        }
        for one in of_kind(template(*CASES["production"]), "ScaledObject").values():
            assert set(one["spec"]) == {
                *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "fallback", "triggers")
            }
            assert one["apiVersion"] == "keda.sh/v1alpha1"
            for trigger in one["spec"]["triggers"]:
                assert set(trigger["metadata"]) == known[trigger["type"]]
                assert all(isinstance(value, str) for value in trigger["metadata"].values())

    def test_what_is_scaled_has_no_number_of_its_own(self) -> None:
        rendered = template(*CASES["production"])
        deployments = of_kind(rendered, "Deployment")
        for name, one in of_kind(rendered, "ScaledObject").items():
            assert one["spec"]["scaleTargetRef"]["name"] == deployments[name]["metadata"]["name"]
            assert "replicas" not in deployments[name]["spec"]
            assert one["spec"]["minReplicaCount"] <= one["spec"]["maxReplicaCount"]
        assert "replicas" in deployments["recorder"]["spec"]

    def test_tritons_metrics_are_documented(self) -> None:
        [trigger] = of_kind(template(*CASES["production"]), "ScaledObject")["triton"]["spec"]["triggers"]
        asked = set(re.findall(r"\bnv_\w+", trigger["metadata"]["query"]))
        assert asked
        declared = set(re.findall(r"\bnv_\w+", (REPOSITORY / "docs/telemetry.md").read_text()))
        assert asked <= declared
        assert trigger["metricType"] == "Value"

    def test_budgets_leave_room_to_empty_a_machine(self, rendered: tuple[Object, ...]) -> None:
        for one in of_kind(rendered, "PodDisruptionBudget").values():
            assert one["spec"]["maxUnavailable"] in (1, "25%")
        assert "scanner" not in of_kind(rendered, "PodDisruptionBudget")


class TestMonitors:
    def test_they_find_the_metrics(self) -> None:
        rendered = template(*CASES["everything"])
        service_of = of_kind(rendered, "Service")
        monitors = of_kind(rendered, "ServiceMonitor")
        assert set(monitors) == set(service_of)
        for name, one in monitors.items():
            assert selects(labels_of(one["spec"]["selector"]), service_of[name]["metadata"]["labels"])
            [endpoint] = one["spec"]["endpoints"]
            assert endpoint["port"] in {port["name"] for port in service_of[name]["spec"]["ports"]}

    def test_jobs_are_called_as_in_compose(self) -> None:
        config = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yaml").read_text())
        jobs = {job["job_name"] for job in config["scrape_configs"]} - {"prometheus"}
        rendered = template(*CASES["everything"])
        labels = {one["spec"]["jobLabel"] for one in of_kind(rendered, "ServiceMonitor").values()}
        assert labels == {"app.kubernetes.io/component"}
        assert set(of_kind(rendered, "ServiceMonitor")) <= jobs


class TestAlertsAndDashboards:
    def test_nobody_gets_them_without_asking(self) -> None:
        assert not of_kind(template(), "PrometheusRule")
        assert not any(name.startswith("dashboard") for name in of_kind(template(), "ConfigMap"))

    def test_alerts_are_those_of_compose_word_for_word(self) -> None:
        files = sorted((REPOSITORY / "deploy/prometheus/rules").glob("*.yaml"))
        written = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
        rules = of_kind(template(*CASES["production"]), "PrometheusRule")["alerts"]
        # Prometheus' own default of compose is said for each group.
        assert rules["spec"] == {"groups": [{"interval": "5s"} | group for group in written]}
        assert "{{ $labels.job }}" in json.dumps(written)
        names = [group["name"] for group in written]
        assert sorted(names) == sorted(set(names))

    def test_alerts_ask_for_jobs_that_monitors_make(self) -> None:
        rendered = template(*CASES["everything"])
        rules = json.dumps(of_kind(rendered, "PrometheusRule")["alerts"]["spec"]).replace('\\"', '"')
        asked = {job for jobs in re.findall(r'job=~?"([^"]+)"', rules) for job in jobs.split("|")}
        jobs = {
            service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
            for monitor in of_kind(rendered, "ServiceMonitor").values()
            for service in of_kind(rendered, "Service").values()
            if selects(labels_of(monitor["spec"]["selector"]), service["metadata"]["labels"])
        }
        # The collector is not of the chart.
        assert asked - {"otel-collector"} == jobs

    def test_prometheus_selects_rules_by_labels_of_ones_own(self) -> None:
        rendered = template(*CASES["production"], "--set", "prometheusRule.labels.release=monitoring")
        assert of_kind(rendered, "PrometheusRule")["alerts"]["metadata"]["labels"]["release"] == "monitoring"

    def test_dashboards_are_those_of_compose_word_for_word(self) -> None:
        written = {
            file.name: json.loads(file.read_text())
            for file in (REPOSITORY / "deploy/grafana/dashboards").glob("*.json")
        }
        found = [
            one
            for one in of_kind(template(*CASES["production"]), "ConfigMap").values()
            if one["metadata"]["labels"].get("grafana_dashboard") == "1"
        ]
        shown = {name: json.loads(text) for one in found for name, text in one["data"].items()}
        assert written
        assert shown == written
        # Beyond it `kubectl apply` refuses what it has to keep a copy of.
        assert all(len(json.dumps(one)) < 200_000 for one in found)

    def test_a_packed_chart_has_the_files_and_not_links_to_them(self, tmp_path: Path) -> None:
        assert helm("package", str(CHART), "--destination", str(tmp_path)).returncode == 0
        [packed] = tmp_path.iterdir()
        values = ("--set", "prometheusRule.enabled=true,dashboards.enabled=true")
        result = helm("template", RELEASE, str(packed), "--kube-version", OLDEST_KUBERNETES, *values)
        assert result.returncode == 0, result.stderr
        files = list((REPOSITORY / "deploy/grafana/dashboards").glob("*.json"))
        assert result.stdout.count('grafana_dashboard: "1"') == len(files)
        assert "alert: ServiceAbsent" in result.stdout


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Three servers of one JetStream cluster."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with ExitStack() as stack:
        servers = []
        for number, port in enumerate(ports):
            directory = tmp_path / f"nats-{number}"
            directory.mkdir()
            config = f"""
                server_name: "nats-{number}"
                cluster {{ name: "test", listen: "127.0.0.1:{port}", routes: [{routes}] }}
            """
            server = NatsServer(directory, extra_config=config)
            stack.callback(server.kill)
            server.start()
            servers.append(server)
        yield servers


class TestStreamReplicas:
    def test_the_job_runs_the_script_that_is_tested_here(self) -> None:
        rendered = template(*CASES["production"])
        config = of_kind(rendered, "ConfigMap")[JOB]
        assert config["data"]["stream_replicas.py"].strip() == SCRIPT.read_text().strip()
        job = of_kind(rendered, "Job")[JOB]
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["command"][-1] == "3"
        given = {variable["name"] for variable in container["env"]}
        assert {"ICESTREAM_STREAMS_NATS_URL", "ICESTREAM_STREAMS_PREFIX"} <= given
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["command"][1].rpartition("/")[0] in mounts

    async def test_streams_and_buckets_are_kept_by_three_servers(self, cluster: list[NatsServer]) -> None:
        script = load_script()
        names = Names("test")
        scans = ScanNames(names)
        buckets = {names.pulses_stream, f"OBJ_{scans.startup_bucket}", f"KV_{names.checkpoints_bucket}"}
        streams = {names.events_stream, names.reconstructions_stream, names.dead_letter_stream}
        streams |= {scans.log_stream, scans.work_stream}
        async with connect(cluster[0].url, name="test", timeout_s=30.0) as connection:
            raised = await script.raise_replicas(connection, names, 3)
            assert set(raised) == streams | buckets
            js = connection.client.jetstream()
            for stream in raised:
                assert (await js.stream_info(stream)).config.num_replicas == 3
            assert await script.raise_replicas(connection, names, 3) == []
            assert await script.raise_replicas(connection, names, 1) == []
            assert (await js.stream_info(names.events_stream)).config.num_replicas == 3

    async def test_too_few_servers_are_an_explained_failure(self, tmp_path: Path) -> None:
        script = load_script()
        with running_nats_server(tmp_path / "nats") as server:
            async with connect(server.url, name="test") as connection:
                with pytest.raises(IceStreamError, match="3 replicas of EVENTS: replicas > 1 not supported"):
                    await script.raise_replicas(connection, Names(), 3)

    async def test_it_runs_as_the_job_runs_it(self, cluster: list[NatsServer]) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), "3"),
            env={
                "PYTHONPATH": str(REPOSITORY),
                "ICESTREAM_STREAMS_PREFIX": "icestream",
                "ICESTREAM_STREAMS_NATS_URL": ",".join(server.url for server in cluster),
            },
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert output.decode().startswith("raised to 3 replicas: EVENTS, RECONSTRUCTIONS, ")

    async def test_it_has_the_rights_that_it_needs(self, tmp_path: Path) -> None:
        with running_secure_nats(tmp_path / "nats") as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(SCRIPT), "1"),
                env={
                    "PYTHONPATH": str(REPOSITORY),
                    "ICESTREAM_STREAMS_PREFIX": "icestream",
                    "ICESTREAM_STREAMS_NATS_URL": server.url,
                    "ICESTREAM_STREAMS_NATS_SEED": str(server.seed(JOB)),
                    "ICESTREAM_STREAMS_NATS_CA": str(server.ca),
                },
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            assert output.decode() == "raised to 1 replicas: none, all had them\n"


SCRIPT = CHART / "files/stream_replicas.py"


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("stream_replicas", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labels_of(selector: Object) -> Object:
    """Of a label selector, or of the plain one of a Service."""
    labels: Object = selector.get("matchLabels", selector)
    return labels


def flows(policy: Object, direction: str) -> list[tuple[int, Object]]:
    """Ports and rules of a policy."""
    return [(int(port["port"]), rule) for rule in policy["spec"].get(direction, ()) for port in rule["ports"]]


def in_mib(quantity: str) -> int:
    """Of Kubernetes or of compose, both in powers of 1024."""
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 1, "mi": 1, "g": 1024, "gi": 1024}[unit.lower()]
