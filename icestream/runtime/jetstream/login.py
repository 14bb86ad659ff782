"""How we prove to NATS who we are, and how NATS proves it to us: from files, with errors that name the setting."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from icestream.errors import BrokerUnavailable, Misconfigured
from icestream.runtime.jetstream.connection import NO_TLS, Connection, Credentials, LateCallback, connect
from icestream.runtime.nkey_pairs import public_key

_SEED_FILE = "expected a file with the seed of a NATS user (SU...), as `icestream secrets create` makes them"
_CA_FILE = (
    "expected a PEM file with the CA that signs NATS' certificate, as `icestream secrets create` makes it"
)


def seed_credentials(path: Path, setting: str) -> Credentials:
    """Log in with the seed in a file; it is looked at now, so that a wrong file is not taken for a broker away.

    Args:
        path: Of the file.
        setting: What errors call it, for example `--nats-seed`.

    Raises:
        Misconfigured: There is no seed in it. The text is never quoted: it may be a secret all the same.
    """
    try:
        seed = path.read_text("ascii", errors="replace").strip()
    except OSError as error:
        raise Misconfigured(f"{setting}: {path} cannot be read ({error.strerror}); {_SEED_FILE}") from error
    try:
        public_key(seed)
    except ValueError as error:
        raise Misconfigured(f"{setting}: {path} holds no seed; {_SEED_FILE}") from error
    return Credentials(nkey_seed_file=path)


def tls_to(url: str, ca: Path | None, setting: str) -> ssl.SSLContext | None:
    """How to verify the broker; None where it is spoken to without TLS.

    Args:
        url: Of the broker; `tls://` asks for TLS.
        ca: File of the authorities to trust, which asks for TLS too; by default those of the system.
        setting: What errors call the file, for example `--nats-ca`.

    Raises:
        Misconfigured: There is no certificate in the file.
    """
    if ca is None:
        is_tls = any(urlsplit(part).scheme == "tls" for part in url.split(","))
        return ssl.create_default_context() if is_tls else None
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError as error:
        raise Misconfigured(f"{setting}: {ca} holds no certificate; {_CA_FILE}") from error
    except OSError as error:
        raise Misconfigured(f"{setting}: {ca} cannot be read ({error.strerror}); {_CA_FILE}") from error


@asynccontextmanager
async def logged_in(
    url: str,
    *,
    name: str,
    user: str,
    seed: Path | None,
    tls: ssl.SSLContext | None,
    seed_setting: str,
    ca_setting: str,
    timeout_s: float = 5.0,
    on_late: LateCallback | None = None,
) -> AsyncIterator[Connection]:
    """Connect as a user for as long as the context lasts; see `connect`.

    Args:
        url: Of the broker.
        name: What its monitoring calls this connection.
        user: Of deploy/nats/users.conf; it may listen to inboxes of its own name alone.
        seed: File with the user's seed; None where the broker asks nobody.
        tls: How to verify the broker.
        seed_setting: What errors call `seed`.
        ca_setting: What errors call where `tls` comes from.
        timeout_s: How long to try for the first connection.
        on_late: Where the first connection may take longer, told once that it does.

    Raises:
        BrokerUnavailable: NATS does not answer, or does not let us in.
        Misconfigured: The URL or the seed cannot be used.
    """
    opening = connect(
        url,
        name=name,
        credentials=seed_credentials(seed, seed_setting) if seed else None,
        tls=tls,
        inbox_prefix=f"_INBOX_{user}",
        timeout_s=timeout_s,
        on_late=on_late and (lambda error: on_late(_explained(error, seed_setting, ca_setting))),
    )
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(opening)
        except BrokerUnavailable as error:
            raise _explained(error, seed_setting, ca_setting) from error
        yield connection


def _explained(error: BrokerUnavailable, seed_setting: str, ca_setting: str) -> BrokerUnavailable:
    """The same failure to connect, with the setting that would mend it where that is known."""
    text = str(error)
    if "authorization violation" in text.lower():
        advice = f"NATS lets in only users whose public key it knows: give {seed_setting} one of their seeds"
    elif "certificate verify failed" in text.lower():
        advice = (
            f"its certificate is not what {ca_setting} trusts: give the CA that signed it, and a URL with a host "
            "that the certificate names"
        )
    elif NO_TLS in text:
        advice = f"TLS is asked for by {ca_setting} or by a tls:// URL: turn it on in NATS, or leave out both"
    else:
        return error
    return BrokerUnavailable(f"{text}; {advice}")
