"""Key pairs of NATS users: the user has the seed, the server the public key alone."""

import secrets

import nkeys  # type: ignore[import-untyped]

_SEED_BYTES = 32


def new_seed() -> str:
    """The seed of a new user; it begins with SU."""
    seed: bytes = nkeys.encode_seed(secrets.token_bytes(_SEED_BYTES), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def public_key(seed: str) -> str:
    """The public key of a user; it begins with U.

    Raises:
        ValueError: This is no user's seed.
    """
    pair = None
    if seed.startswith("SU"):
        try:
            pair = nkeys.from_seed(bytearray(seed, "ascii"))
        except (ValueError, nkeys.NkeysError):
            # Not as the cause of what follows: it may quote the seed.
            pair = None
    if pair is None:
        raise ValueError("not the seed of a NATS user")
    key: bytes = pair.public_key
    return key.decode()
