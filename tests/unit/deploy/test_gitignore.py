"""Whoever follows the docs in a checkout cannot commit what is secret by `git add .`."""

import shutil
import subprocess
from pathlib import Path

from icestream.runtime.secret_files import new_secrets
from tests.unit.deploy.recipes import REPOSITORY

MADE = [
    *[f"{folder}/{secret.path}" for folder in ("secrets", "deploy/secrets") for secret in new_secrets([])],
    *(
        "alerts.token",
        "operator.token",
        "operator.seed",
        "ca.crt",
        "database-ca.crt",
        "north.crt",
        "north.key",
    ),
    *("deploy/htcondor/scan-worker.seed", "deploy/htcondor/ca.crt", "deploy/htcondor/logs/7.0.err"),
    *("icestream.tar", "icestream-0.1.0.sif"),
    *("deploy/alertmanager/secrets/webhook-token", "deploy/alertmanager/secrets/smtp-password"),
]
"""What commands of docs/ and of deploy/*/README.md write into a checkout."""


def test_git_ignores_what_commands_of_the_docs_make(tmp_path: Path) -> None:
    assert unignored(tmp_path, MADE) == set()


def test_git_ignores_no_sources(tmp_path: Path) -> None:
    sources = {"icestream/runtime/secret_files.py", "deploy/nats/users.conf", "deploy/htcondor/README.md"}
    assert unignored(tmp_path, sorted(sources)) == sources


def unignored(folder: Path, paths: list[str]) -> set[str]:
    """Those that Git would add to a repository with our rules."""
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for rules in (".gitignore", "deploy/alertmanager/secrets/.gitignore"):
        (folder / rules).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / rules, folder / rules)
    result = subprocess.run(
        ["git", "-C", folder, "check-ignore", "--stdin"],
        input="\n".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    return set(paths) - set(result.stdout.splitlines())
