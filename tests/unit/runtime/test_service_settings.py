from contextlib import redirect_stderr
from io import StringIO

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from icestream.runtime.settings import ServiceSettings


class ToySettings(ServiceSettings):
    """Settings of no service."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_TOY_", cli_prog_name="icestream-toy")

    max_batch: int = Field(8, ge=1)
    """How many at once."""
    is_quick: bool = False
    """Whether it hurries."""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def complaint(*arguments: str) -> str:
    """What is said before the program ends."""
    with redirect_stderr(StringIO()) as written, pytest.raises(SystemExit) as refused:
        ToySettings.load(arguments)
    # A text as the status is written by the interpreter itself.
    return written.getvalue() or str(refused.value.code)


def test_defaults_need_neither_flags_nor_environment() -> None:
    settings = ToySettings.load([])
    assert (settings.max_batch, settings.nats_url) == (8, "nats://127.0.0.1:4222")
    assert settings.instance


def test_variables_have_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_TOY_MAX_BATCH", "3")
    monkeypatch.setenv("ICESTREAM_TOY_NATS_URL", "nats://elsewhere")
    monkeypatch.setenv("MAX_BATCH", "4")
    settings = ToySettings.load([])
    assert (settings.max_batch, settings.nats_url) == (3, "nats://elsewhere")


def test_flags_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_TOY_MAX_BATCH", "3")
    assert ToySettings.load(["--max-batch", "5", "--is-quick"]) == ToySettings.load(
        ["--max-batch=5", "--is-quick", "--instance", ToySettings.load([]).instance]
    )
    assert ToySettings.load(["--max-batch", "5"]).max_batch == 5


def test_a_misspelt_variable_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_TOY_MAXBATCH", "3")
    text = complaint()
    assert text.startswith("icestream-toy: ")
    assert "ICESTREAM_TOY_MAXBATCH" in text
    assert "did you mean ICESTREAM_TOY_MAX_BATCH?" in text


def test_other_programs_variables_are_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_OTHER_THING", "3")
    monkeypatch.setenv("TOY_MAX_BATCH", "3")
    assert ToySettings.load([]).max_batch == 8


def test_a_bad_flag_value_names_the_flag_and_the_variable() -> None:
    text = complaint("--max-batch", "many")
    assert "--max-batch or ICESTREAM_TOY_MAX_BATCH" in text
    assert "valid integer" in text


def test_a_bad_variable_value_names_the_flag_and_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_TOY_MAX_BATCH", "0")
    assert "--max-batch or ICESTREAM_TOY_MAX_BATCH" in complaint()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = complaint("--max-batch", "0", "--log-level", "loud")
    assert "--max-batch" in text
    assert "--log-level" in text


def test_an_unknown_flag_is_refused() -> None:
    assert "unrecognized arguments: --max-bach" in complaint("--max-bach", "3")


def test_help_explains_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint("--help") == "0"
    text = capsys.readouterr().out
    assert "How many at once." in text
    assert "Where the NATS server is" in text


def test_traces_go_where_opentelemetry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    assert ToySettings.load([]).otlp_endpoint == "http://collector:4317"
    assert ToySettings.load(["--otlp-endpoint", "http://other:4317"]).otlp_endpoint == "http://other:4317"


def test_traces_go_where_the_prefixed_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICESTREAM_TOY_OTLP_ENDPOINT", "http://collector:4317")
    assert ToySettings.load([]).otlp_endpoint == "http://collector:4317"


def test_a_variable_without_a_prefix_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTLP_ENDPOINT", "http://collector:4317")
    assert ToySettings.load([]).otlp_endpoint is None


def test_wrong_settings_end_with_status_2() -> None:
    with pytest.raises(SystemExit) as refused:
        ToySettings.load(["--max-batch", "many"])
    assert refused.value.code == 2
