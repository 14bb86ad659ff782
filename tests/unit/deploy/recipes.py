"""deploy/compose.yaml and deploy/images/Dockerfile as Python objects, as far as the tests ask about them."""

import importlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from icestream.runtime.settings import ServiceSettings

REPOSITORY = Path(__file__).resolve().parents[3]
COMPOSE_FILE = REPOSITORY / "deploy/compose.yaml"
DOCKERFILE = REPOSITORY / "deploy/images/Dockerfile"
DOCKERIGNORE = DOCKERFILE.with_name("Dockerfile.dockerignore")

Service = Mapping[str, Any]


def load_compose() -> dict[str, Any]:
    """The file as YAML reads it, anchors resolved."""
    compose: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return compose


def services() -> dict[str, Service]:
    """Of compose.yaml, by name."""
    found: dict[str, Service] = load_compose()["services"]
    return found


def our_services() -> dict[str, Service]:
    """Those that run from our own image, whichever of them builds it."""
    built = {service["image"] for service in services().values() if "build" in service}
    return {name: service for name, service in services().items() if service["image"] in built}


def environment(service: Service) -> dict[str, str]:
    """What compose sets, with the defaults of its ${variables}."""
    given: Mapping[str, str] = service.get("environment", {})
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in given.items()}


def settings_class(service: Service) -> type[ServiceSettings]:
    """The settings of the service that the command names."""
    [package] = service["command"]
    module = importlib.import_module(f"{package}.settings")
    [own] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    ]
    return own


def settings_with(own: type[ServiceSettings], variables: Mapping[str, str]) -> ServiceSettings:
    """What a service that is started with only these variables reads."""
    with patch.dict(os.environ, variables, clear=True):
        return own.load([], variables)


def effective_settings(service: Service) -> ServiceSettings:
    """What one of our services reads from its image and from compose."""
    own = settings_class(service)
    prefix = str(own.model_config["env_prefix"])
    image = {name: value for name, value in image_environment().items() if name.startswith(prefix)}
    return settings_with(own, image | environment(service))


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile."""

    stage: int
    """0 for the first FROM."""
    keyword: str
    arguments: str


def instructions(keyword: str = "", *, final: bool = False) -> list[Instruction]:
    """Those of the Dockerfile, or of its last stage."""
    text = "\n".join(
        line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    stage, found = -1, []
    for line in lines:
        name, _, arguments = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, arguments.strip()))
    return [
        one for one in found if keyword in ("", one.keyword) and (not final or one.stage == found[-1].stage)
    ]


def image_environment() -> dict[str, str]:
    """What the image sets."""
    pairs = [pair for one in instructions("ENV", final=True) for pair in shlex.split(one.arguments)]
    return dict(pair.split("=", 1) for pair in pairs)


def image_health_check() -> list[str]:
    """The command of the image's HEALTHCHECK; none where there is none."""
    found = [one for one in instructions("HEALTHCHECK", final=True) if "CMD" in one.arguments]
    command: list[str] = json.loads(found[-1].arguments.partition("CMD ")[2]) if found else []
    return command
