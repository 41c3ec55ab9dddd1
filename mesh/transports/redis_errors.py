"""What a Redis server, or what was taken for one, did wrong: in one line, with the cure."""

from __future__ import annotations

import ssl

import redis.exceptions as driver

from persistence.base import ServiceUnavailable

__all__ = ("explain", "refused")

LONGEST = 160
"""Characters of a server's own words that are passed on."""

PERMISSIONS = (
    "ACL SETUSER NAME ~statemesh:* +@stream +@sortedset +get +set +mget +del +time +ping +info"
    " +select"
)

# What the server's answer starts with: (what happened, what to do, whether it lasts).
REFUSALS: dict[str, tuple[str, str, bool]] = {
    "NOAUTH": ("asks for a password", "put it into redis.url: redis://USER:PASSWORD@HOST", True),
    "WRONGPASS": ("refuses the user or password of redis.url", "correct them there", True),
    "NOPERM": (
        "does not let this user do what the bus needs",
        f"allow it: {PERMISSIONS}",
        True,
    ),
    # Passes where masters change by themselves; where the URL is wrong, the cure says so.
    "READONLY": ("is a read-only replica", "point redis.url at its master", False),
    "OOM": ("is out of memory", "raise its maxmemory, or lower redis.stream_entries_max", False),
    "MISCONF": ("can't write to its disk and so takes no data", "give its disk room", False),
    "NOREPLICAS": ("lacks replicas and so takes no data", "start its replicas", False),
    "LOADING": ("is loading its data", "wait until it has", False),
    "MASTERDOWN": ("is a replica without its master", "point redis.url at a master", False),
    "CLUSTERDOWN": ("is in a cluster that is down", "look at CLUSTER INFO there", False),
    "TRYAGAIN": ("is moving keys to another node", "wait until it has", False),
    "ASK": ("is moving keys to another node", "wait until it has", False),
    "UNBLOCKED": ("changed its role", "wait until there is a master", False),
    "BUSY": ("is busy with a script", "wait, or end it by SCRIPT KILL there", False),
    "WRONGTYPE": (
        "holds something else under a key of this mesh",
        "delete the keys statemesh:*, or choose another database in redis.url",
        True,
    ),
    "DENIED": (
        "is in protected mode and takes no connection from here",
        "set a password and a bind address there",
        True,
    ),
}

# The same for answers that only say ERR, by words in them.
OTHERS: tuple[tuple[str, str, str, bool], ...] = (
    ("DB index", "has no such database", "correct the number at the end of redis.url", True),
    ("SELECT is not allowed", "is a cluster, which has database 0 alone", "use /0", True),
    ("AUTH", "refuses the user or password of redis.url", "correct them there", True),
    ("max number of clients", "has no connection left", "raise its maxclients", False),
    ("unknown command", "lacks a command the bus needs", "use Redis 6.2 or newer", True),
    ("unknown subcommand", "lacks a command the bus needs", "use Redis 6.2 or newer", True),
)


def refused(code: str, text: str, address: str) -> ServiceUnavailable:
    """What the server's refusal means, by its code (may be "") and its own words."""
    said, cure, lasting = REFUSALS.get(code) or _other(text)
    return ServiceUnavailable(f"Redis at {address} {said} ({_line(text)})", cure, lasting=lasting)


def explain(error: Exception, address: str, timeout_s: float, opened: bool) -> ServiceUnavailable:
    """What went wrong on a connection. `opened`: after it was known that this is a Redis."""
    if isinstance(error, driver.MovedError):
        return ServiceUnavailable(
            f"Redis at {address} is a cluster node that has not got this mesh's keys",
            f"point redis.url at {error.host}:{error.port}",
            lasting=True,
        )
    if isinstance(error, driver.RedisError) and not isinstance(error, driver.InvalidResponse):
        text = str(error)
        word = text.partition(" ")[0]
        if error.status_code is not None:
            return refused(error.status_code, text, address)
        if isinstance(error, driver.ResponseError):
            return refused(word if word in REFUSALS else "", text, address)
    if isinstance(error, TimeoutError | driver.TimeoutError):
        return ServiceUnavailable(
            f"Redis at {address} gave no answer within {timeout_s:g} s",
            "see whether it runs, is a Redis server, and speaks TLS as redis.url says",
        )
    cause = _system_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ServiceUnavailable(
            f"the certificate of Redis at {address} is not trusted ({cause.verify_message})",
            "name its authority: rediss://HOST?ssl_ca_certs=FILE",
            lasting=True,
        )
    if isinstance(cause, ssl.SSLError):
        return ServiceUnavailable(
            f"no TLS with Redis at {address} ({_line(cause.reason or str(cause))})",
            "write redis:// where the server has no TLS",
            lasting=True,
        )
    if opened:
        return ServiceUnavailable(f"the connection to Redis at {address} broke", "ask again")
    if cause is not None:
        what = cause.strerror or type(cause).__name__
        return ServiceUnavailable(
            f"Redis at {address} can't be reached ({_line(what)})",
            "start it, or correct redis.url",
        )
    if isinstance(error, driver.ConnectionError):
        return ServiceUnavailable(
            f"{address} closed the connection without a word",
            "correct redis.url if that is no Redis server; write rediss:// if it wants TLS",
        )
    return ServiceUnavailable(
        f"{address} is no Redis server ({_line(str(error))})",
        "correct redis.url; write rediss:// if that server wants TLS",
        lasting=True,
    )


def _other(text: str) -> tuple[str, str, bool]:
    for words, said, cure, lasting in OTHERS:
        if words in text:
            return said, cure, lasting
    return "refused", "look into its log", False


def _system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error an exception of the driver stands for."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _line(text: str) -> str:
    """One line of printable text."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:LONGEST].strip()
