"""deploy/htcondor starts scan workers on a pool, and they end when the pool says so."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.scan_topology import ScanNames, scan_log_stream, scan_work_stream
from icestream.runtime.jetstream.topology import Names, dead_letter_stream, reconcile_stream
from services.scanner.worker.settings import ScanWorkerSettings
from tests.support.eventually import eventually
from tests.support.secure_nats import SecureNats, running_secure_nats
from tests.unit.deploy.recipes import REPOSITORY, services, settings_with

FOLDER = REPOSITORY / "deploy/htcondor"
SUBMIT_FILE = FOLDER / "scan-worker.sub"
SCRIPT = FOLDER / "run-scan-worker.sh"

OUR_MACROS = {"image", "nats", "triton", "workers", "hours"}
"""What the submit file defines for itself; every other name is one of HTCondor's commands."""

RUNNING, HELD = 2, 5


@pytest.fixture(scope="module")
def htcondor() -> Any:
    # It looks for the configuration of a pool otherwise, and warns that there is none.
    os.environ.setdefault("CONDOR_CONFIG", os.devnull)
    return importlib.import_module("htcondor2")


@pytest.fixture(scope="module")
def submit(htcondor: Any) -> Any:
    return htcondor.Submit(SUBMIT_FILE.read_text())


def environment(submit: Any) -> dict[str, str]:
    """What the job's environment sets, in HTCondor's newer syntax."""
    text = submit.expand("environment")
    assert text.startswith('"')
    assert text.endswith('"')
    return dict(pair.split("=", 1) for pair in shlex.split(text[1:-1]))


def evaluated(submit: Any, command: str, **job: Any) -> Any:
    """What an expression of the submit file is for a job with these attributes."""
    return value_of(submit.expand(command), job)


def value_of(expression: str, attributes: Mapping[str, Any]) -> Any:
    """What an expression is among these attributes; the package has no types."""
    classad: Any = importlib.import_module("classad2")
    ad = classad.ClassAd(dict(attributes))
    ad["Expression"] = classad.ExprTree(expression)
    return ad.eval("Expression")


def seconds_ago(seconds: float) -> int:
    return int(time.time() - seconds)


class TestTheSubmitFile:
    def test_commands_exist(self, submit: Any) -> None:
        # A misspelt one would be a macro that nobody reads. The library that reads them has all names.
        package = importlib.util.find_spec("htcondor2")
        assert package is not None
        assert package.origin is not None
        libraries = Path(package.origin).parents[1] / "htcondor.libs"
        [library] = libraries.glob("libcondor_utils*")
        names = library.read_bytes().lower()
        unknown = {command for command in submit if command.encode().lower() + b"\0" not in names}
        assert b"kill_sig_timeot\0" not in names
        assert unknown <= OUR_MACROS

    def test_variables_are_settings_of_the_worker(self, submit: Any) -> None:
        variables = environment(submit)
        prefix = str(ScanWorkerSettings.model_config["env_prefix"])
        assert {name for name in variables if not name.startswith(prefix)} == set()
        settings = settings_with(ScanWorkerSettings, variables)
        assert settings.model_fields_set == {"nats_url", "triton_url", "instance", "log_format"}
        assert settings.model_dump()["triton_url"] == "triton.example.org:8001"

    def test_the_script_takes_its_arguments(self, submit: Any) -> None:
        assert submit.expand("executable") == SCRIPT.name
        assert submit.expand("arguments") == "12"
        assert os.access(SCRIPT, os.X_OK)

    def test_what_is_given_on_the_command_line_counts(self, htcondor: Any) -> None:
        given = "workers = 7\nhours = 3\ntriton = far.away:9\nimage = elsewhere.sif\n"
        submit = htcondor.Submit(given + SUBMIT_FILE.read_text())
        assert submit.expand("arguments") == "3"
        assert submit.expand("container_image") == "elsewhere.sif"
        assert environment(submit)["ICESTREAM_SCAN_WORKER_TRITON_URL"] == "far.away:9"

    def test_the_secret_is_a_file_and_travels_encrypted(self, submit: Any) -> None:
        assert submit["encrypt_input_files"] == "scan-worker.seed"
        assert "scan-worker.seed" in submit["transfer_input_files"].split(", ")
        assert not re.search(r"//[^/\s:]+:[^/\s@]+@", SUBMIT_FILE.read_text())

    def test_the_pool_waits_for_the_worker_to_hand_back_its_work(self, submit: Any) -> None:
        grace_s = int(services()["scan-worker"]["stop_grace_period"].rstrip("s"))
        assert submit["kill_sig"] == "SIGTERM"
        assert submit["remove_kill_sig"] == "SIGTERM"
        assert submit["want_graceful_removal"] == "True"
        assert int(submit["kill_sig_timeout"]) >= grace_s
        assert int(submit["job_max_vacate_time"]) > int(submit["kill_sig_timeout"])

    def test_a_slot_is_as_large_as_the_container_of_compose(self, submit: Any) -> None:
        limit = services()["scan-worker"]["deploy"]["resources"]["limits"]["memory"]
        assert submit["request_memory"] == f"{limit.rstrip('m')}MB"
        assert submit["request_cpus"] == "1"
        assert submit["request_disk"]

    def test_requirements_are_met_by_both_kinds_of_slots(self, submit: Any) -> None:
        def meets(**slot: Any) -> bool:
            expression = submit["requirements"].replace("TARGET.", "")
            return value_of(expression, {"Arch": "X86_64", "OpSys": "LINUX"} | slot) is True

        assert meets(HasContainer=True)
        assert meets(HAS_SINGULARITY=True)
        assert not meets()
        assert not meets(HasContainer=True, Arch="aarch64")

    @pytest.mark.parametrize(
        ("memory_mb", "hours", "is_held", "subcode"),
        [(1500, 1, False, None), (2400, 1, True, 1), (100, 13.5, True, 2), (None, 1, False, None)],
    )
    def test_what_went_wrong_is_held(
        self, submit: Any, memory_mb: int | None, hours: float, is_held: bool, subcode: int | None
    ) -> None:
        job: dict[str, Any] = {
            "JobStatus": RUNNING,
            "RequestMemory": 1536,
            "EnteredCurrentStatus": seconds_ago(hours * 3600),
        }
        job |= {"MemoryUsage": memory_mb} if memory_mb is not None else {}
        assert evaluated(submit, "periodic_hold", **job) is is_held
        if is_held:
            assert evaluated(submit, "periodic_hold_subcode", **job) == subcode
            assert isinstance(evaluated(submit, "periodic_hold_reason", **job), str)

    @pytest.mark.parametrize(
        ("n_holds", "reason_code", "age_s", "is_released"),
        [(1, 13, 700, True), (1, 3, 700, True), (6, 13, 700, False), (1, 1, 700, False), (1, 13, 60, False)],
    )
    def test_what_may_do_better_elsewhere_is_released(
        self, submit: Any, n_holds: int, reason_code: int, age_s: float, is_released: bool
    ) -> None:
        job = {
            "JobStatus": HELD,
            "NumHolds": n_holds,
            "HoldReasonCode": reason_code,
            "EnteredCurrentStatus": seconds_ago(age_s),
        }
        assert evaluated(submit, "periodic_release", **job) is is_released

    def test_both_ways_to_name_an_image_are_there(self, submit: Any) -> None:
        text = SUBMIT_FILE.read_text()
        assert "container_image" in submit
        assert '#+SingularityImage = "$(image)"' in text


@pytest.fixture
def pool_folder(tmp_path: Path) -> Path:
    """What a slot finds in its scratch folder, but for the files that are transferred."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shutil.copy(SCRIPT, scratch)
    return scratch


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SecureNats]:
    """A broker as one that is reached from outside: TLS alone, and users with seeds."""
    with running_secure_nats(tmp_path / "nats") as server:
        yield server


@contextmanager
def started(
    scratch: Path,
    *arguments: str,
    url: str = "tls://nobody.is.asked",
    programs: Path = Path(sys.executable).parent,
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The script as a slot starts it, with the image's `python` in `programs`, and where its output goes."""
    output = scratch / "output"
    # No more than a slot gives, so that nothing comes from the machine of the test.
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "_CONDOR_SCRATCH_DIR": str(scratch),
        "ICESTREAM_SCAN_WORKER_INSTANCE": "pool-1-0",
        "ICESTREAM_SCAN_WORKER_NATS_URL": url,
        # As the image sets it, which no two workers of a machine can have.
        "ICESTREAM_SCAN_WORKER_METRICS_PORT": "9464",
    }
    with output.open("wb") as file:
        process = subprocess.Popen(
            [str(scratch / SCRIPT.name), *arguments], cwd=scratch, env=variables, stdout=file, stderr=file
        )
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


class TestTheScript:
    def test_shellcheck_finds_nothing(self) -> None:
        shellcheck = Path(sys.executable).with_name("shellcheck")
        result = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout

    def test_its_variables_are_settings_of_the_worker(self) -> None:
        prefix = str(ScanWorkerSettings.model_config["env_prefix"])
        names = set(re.findall(rf"\b({prefix}\w+)", SCRIPT.read_text()))
        assert names
        assert {name.removeprefix(prefix).lower() for name in names} <= set(ScanWorkerSettings.model_fields)

    async def test_a_worker_works_at_a_broker_with_tls_until_it_is_told_to_stop(
        self, pool_folder: Path, broker: SecureNats
    ) -> None:
        # The streams are the scanner's to make.
        async with broker.logged_in("scanner") as scanner:
            names = ScanNames(Names())
            for stream in (scan_log_stream(names), scan_work_stream(names)):
                await reconcile_stream(scanner, stream)
            await PulseObjects.open(scanner, names.startup_bucket)
        async with broker.logged_in("router") as router:
            await reconcile_stream(router, dead_letter_stream(Names()))
        shutil.copy(broker.seed("scan-worker"), pool_folder)
        shutil.copy(broker.ca, pool_folder)
        with started(pool_folder, "1", url=tls_url(broker)) as (process, output):
            await eventually(
                lambda: process.poll() is not None or "scan worker is up" in output.read_text(),
                timeout_s=120.0,
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, output.read_text()
        assert "every batch that it held is answered for" in output.read_text()
        assert broker.seed("scan-worker").read_text().strip() not in output.read_text()

    def test_a_worker_is_told_to_stop_when_its_time_is_over(self, pool_folder: Path) -> None:
        (pool_folder / "scan-worker.seed").write_text("nobody asks\n")
        programs = pool_folder / "bin"
        programs.mkdir()
        (programs / "python").write_text(
            "#!/bin/sh\ntrap 'echo told to stop; exit 0' TERM\nwhile :; do sleep 0.05; done\n"
        )
        (programs / "python").chmod(0o755)
        with started(pool_folder, "0.0005", programs=programs) as (process, output):
            assert process.wait(60) == 0
        assert "told to stop" in output.read_text()

    def test_a_broker_that_nobody_vouches_for_is_not_trusted(
        self, pool_folder: Path, broker: SecureNats
    ) -> None:
        shutil.copy(broker.seed("scan-worker"), pool_folder)
        with started(pool_folder, "1", url=tls_url(broker)) as (process, output):
            assert process.wait(120) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in output.read_text()

    def test_a_missing_seed_is_explained(self, pool_folder: Path) -> None:
        with started(pool_folder, "1") as (process, output):
            assert process.wait(30) == 2
        assert "scan-worker.seed did not come along" in output.read_text()


def tls_url(broker: SecureNats) -> str:
    return broker.url.replace("nats://", "tls://")
