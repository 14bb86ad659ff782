import hashlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from icestream.errors import Misconfigured
from icestream.runtime.tokens import TokenFile, new_token, parse_tokens, read_token, token_line


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def write(path: Path, **tokens: str) -> None:
    path.write_text("".join(token_line(name, token) + "\n" for name, token in tokens.items()))


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


def test_a_line_holds_the_name_and_the_hash_and_not_the_token() -> None:
    token = new_token()
    assert token_line("alerts", token) == f"alerts {hashlib.sha256(token.encode()).hexdigest()}"


@pytest.mark.parametrize("name", ["", "two words", "-dash", "a" * 64, "new\nline", "#note", "björk"])
def test_a_name_that_would_break_the_file_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured, match="no name of a caller"):
        token_line(name, new_token())


def test_callers_are_found_by_their_tokens(path: Path) -> None:
    write(path, alerts="first", survey="second")
    tokens = TokenFile(path)
    assert tokens.caller_of("first") == "alerts"
    assert tokens.caller_of("second") == "survey"
    assert tokens.names == ["alerts", "survey"]


@pytest.mark.parametrize("sent", ["", "third", "firs", "First", "first ", "fürst"])
def test_any_other_token_is_nobodys(path: Path, sent: str) -> None:
    write(path, alerts="first", survey="second")
    assert TokenFile(path).caller_of(sent) is None


def test_a_hash_is_no_token(path: Path) -> None:
    write(path, alerts="first")
    assert TokenFile(path).caller_of(hashlib.sha256(b"first").hexdigest()) is None


def test_comments_and_empty_lines_say_nothing() -> None:
    text = f"# since spring\n\n  {token_line('alerts', 'first')}  \n #{token_line('survey', 'second')}\n"
    assert list(parse_tokens(text, "tokens").values()) == ["alerts"]


def test_a_caller_may_have_an_old_and_a_new_token(path: Path) -> None:
    path.write_text(f"{token_line('alerts', 'old')}\n{token_line('alerts', 'new')}\n")
    tokens = TokenFile(path)
    assert tokens.caller_of("old") == tokens.caller_of("new") == "alerts"
    assert tokens.names == ["alerts"]


@pytest.mark.parametrize(
    "line",
    [
        "my-secret-token",
        "alerts my-secret-token",
        f"alerts {'0' * 63}",
        f"alerts {'0' * 64} more",
        f"two words {'0' * 64}",
        f"alerts:{'0' * 64}",
        f"al/erts {'g' * 64}",
    ],
)
def test_a_bad_line_is_named_and_never_quoted(line: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        parse_tokens(f"# tokens\n{token_line('survey', 'second')}\n{line}\n", "/etc/tokens")
    text = str(refused.value)
    assert text.startswith("/etc/tokens, line 3: expected NAME SHA256HEX")
    assert not any(word in text for word in line.split() if len(word) > 10)


def test_one_token_for_two_callers_is_refused() -> None:
    with pytest.raises(Misconfigured, match="line 2: this token is in an earlier line"):
        parse_tokens(f"{token_line('alerts', 'same')}\n{token_line('survey', 'same')}\n", "tokens")


def test_a_file_without_a_token_is_refused(path: Path) -> None:
    path.write_text("# later\n")
    with pytest.raises(Misconfigured, match="has no token, so that nobody could call"):
        TokenFile(path)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"tokens cannot be read: No such file"):
        TokenFile(path)


def test_a_changed_file_is_in_force_within_a_second(path: Path) -> None:
    clock = Clock()
    write(path, alerts="old")
    tokens = TokenFile(path, clock)
    write(path, alerts="new", survey="second")
    clock.now_s = 1.0
    with capture_logs() as logs:
        assert tokens.caller_of("old") is None
    assert tokens.caller_of("new") == "alerts"
    assert [(entry["log_level"], entry["callers"]) for entry in logs] == [("info", ["alerts", "survey"])]


def test_a_file_is_not_looked_at_for_every_call(path: Path) -> None:
    clock = Clock()
    write(path, alerts="old")
    tokens = TokenFile(path, clock)
    write(path, alerts="replaced")
    clock.now_s = 0.9
    assert tokens.caller_of("old") == "alerts"


def test_a_file_behind_a_link_that_moves_is_read_again(path: Path, tmp_path: Path) -> None:
    """As Kubernetes changes a mounted Secret."""
    clock = Clock()
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, alerts="old")
    write(second, alerts="new")
    path.symlink_to(first)
    tokens = TokenFile(path, clock)
    path.with_name("next").symlink_to(second)
    path.with_name("next").replace(path)
    clock.now_s = 1.0
    assert tokens.caller_of("new") == "alerts"


def test_a_broken_file_keeps_the_old_one_in_force_and_is_logged_once(path: Path) -> None:
    clock = Clock()
    write(path, alerts="old")
    tokens = TokenFile(path, clock)
    path.write_text("alerts a-token-in-the-wrong-file\n")
    with capture_logs() as logs:
        for clock.now_s in (1.0, 2.0, 3.0):
            assert tokens.caller_of("old") == "alerts"
    [entry] = logs
    assert entry["log_level"] == "error"
    assert "line 1: expected NAME SHA256HEX" in entry["problem"]
    assert "a-token-in-the-wrong-file" not in str(entry)


def test_a_file_that_goes_away_keeps_the_old_one_in_force_until_it_is_back(path: Path) -> None:
    clock = Clock()
    write(path, alerts="old")
    tokens = TokenFile(path, clock)
    path.unlink()
    clock.now_s = 1.0
    assert tokens.caller_of("old") == "alerts"
    write(path, alerts="another")
    clock.now_s = 2.0
    assert tokens.caller_of("another") == "alerts"


def test_a_callers_file_holds_the_token(path: Path) -> None:
    token = new_token()
    path.write_text(f"{token}\n")
    assert read_token(path) == token


@pytest.mark.parametrize("text", ["", "\n", "two lines\nof text\n", f"alerts {'0' * 64}\n", "tök\n"])
def test_a_callers_file_with_anything_else_is_refused_and_not_quoted(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(Misconfigured) as refused:
        read_token(path)
    assert str(refused.value).startswith(f"{path}: expected")
    assert "0" * 64 not in str(refused.value)
