"""What a PostgreSQL server, or something else in its place, can do wrong: in one line, with the
cure.

Knows the driver's errors by their SQLSTATE and by the standard library's types only.
"""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from persistence.base import ServiceUnavailable

__all__ = (
    "OLDEST_MAJOR",
    "all_busy",
    "explain",
    "explain_connecting",
    "place_of",
    "too_old",
    "unanswered",
)

OLDEST_MAJOR: Final = 13
"""Older releases are no longer maintained, and not tried."""


class _Fault(NamedTuple):
    what: str
    cure: str
    lasting: bool = False


_OTHER: Final = _Fault("failed", "see its log")
_LOGIN: Final = _Fault("refused the login", "check user and password in postgres.dsn", True)
_DAMAGED: Final = _Fault("lost part of the schema", "restore it from a backup, or drop it whole")
_STOPPED: Final = _Fault("is stopping or starting", "wait for it, or start it")
_GONE: Final = _Fault("dropped the connection", "see whether it runs, and its log")
_RIGHTS: Final = _Fault(
    "lacks a right for this user",
    "let its owner grant CREATE on the database once, or make the schema for this user",
    True,
)

# By SQLSTATE, or by its first two characters (its class).
_FAULTS: Final = {
    "28": _LOGIN,
    "28000": _Fault(
        "refused the login",
        "check the user in postgres.dsn, whether sslmode must be require, and pg_hba.conf",
        True,
    ),
    "3D000": _Fault("has no such database", "create it, or correct postgres.dsn", True),
    "42501": _RIGHTS,
    "25006": _Fault("is read-only", "name the primary in postgres.dsn, or allow writing", True),
    "53100": _Fault("has no disk space left", "free some"),
    "53200": _Fault("is out of memory", "give it more"),
    "53300": _Fault(
        "has too many connections", "raise its max_connections, or lower postgres.connections_max"
    ),
    "53": _Fault("is out of resources", "see its log"),
    "57P01": _STOPPED,
    "57P02": _STOPPED,
    "57P03": _STOPPED,
    "57014": _Fault("gave up a statement", "raise its statement_timeout for this user"),
    "55P03": _Fault("has somebody hold a lock for long", "see who, in pg_stat_activity"),
    "40": _Fault("had a conflict", "try again"),
    "42P01": _DAMAGED,
    "42703": _DAMAGED,
    "3F000": _DAMAGED,
    "0A": _Fault("lacks a feature", f"use PostgreSQL {OLDEST_MAJOR} or newer itself"),
    "42883": _Fault("lacks a feature", f"use PostgreSQL {OLDEST_MAJOR} or newer itself", True),
    "08P01": _Fault(
        "did not understand", "name PostgreSQL itself in postgres.dsn, not a pooler before it"
    ),
    "08": _GONE,
    "58": _Fault("has trouble with its disk", "see its log"),
    "XX": _Fault("has damaged data or a bug", "see its log; restore it from a backup"),
}


def explain(error: Exception, place: str) -> ServiceUnavailable:
    """What went wrong in a call to the server at `place`, from what the driver raised."""
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        fault = _FAULTS.get(state) or _FAULTS.get(_class(state)) or _OTHER
        return _unavailable(place, f"{fault.what}: {_line(error)}", fault.cure, fault.lasting)
    return _unavailable(place, f"{_GONE.what}: {_line(error)}", _GONE.cure)


def explain_connecting(error: Exception, place: str, *, secret: bool) -> ServiceUnavailable:
    """The same of an attempt to connect: it may be that nothing is there, or something else.

    `secret`: the DSN holds a password; what the driver says of the DSN itself is then left out.
    """
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and (_class(state) != "08" or state == "08P01"):
        return explain(error, place)
    if isinstance(error, ssl.SSLError):
        return _unavailable(
            place, f"made no TLS connection: {_line(error)}", "check sslmode and sslrootcert", True
        )
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return _unavailable(
            place,
            "offers no TLS, or is no PostgreSQL server",
            "check host, port and sslmode in postgres.dsn",
            lasting=True,
        )
    if isinstance(error, OSError):
        return _unavailable(
            place,
            f"is out of reach: {_line(error)}",
            "start it, or correct host, port and file names in postgres.dsn",
        )
    if isinstance(error, ValueError):
        text = type(error).__name__ if secret else _line(error)
        return ServiceUnavailable(f"postgres.dsn can't be used: {text}", "correct it", lasting=True)
    return _unavailable(
        place,
        f"broke off while connecting, or is no PostgreSQL server: {_line(error)}",
        "see whether it runs, and check host and port in postgres.dsn",
    )


def unanswered(place: str, seconds: float) -> ServiceUnavailable:
    """Nothing came back in time."""
    return _unavailable(
        place,
        f"did not answer within {seconds:g} s",
        "see whether PostgreSQL runs there, or raise postgres.timeout_s",
    )


def all_busy(place: str, seconds: float) -> ServiceUnavailable:
    """No connection became free in time."""
    return _unavailable(
        place,
        f"is busy: none of the connections to it became free within {seconds:g} s",
        "raise postgres.connections_max or postgres.timeout_s",
    )


def too_old(place: str, major: int) -> ServiceUnavailable:
    """A server older than the oldest that is supported."""
    return _unavailable(
        place, f"is release {major}", f"use PostgreSQL {OLDEST_MAJOR} or newer", lasting=True
    )


def place_of(dsn: str) -> tuple[str, bool]:
    """A DSN's host, port and database for people, and whether it holds a password.

    Says less rather than a piece of a password that was not escaped.
    """
    try:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
    except ValueError:
        return "(unreadable address)", True
    login, _, hosts = parts.netloc.rpartition("@")
    secret = ":" in login or bool(query.keys() & {"password", "sslpassword"})
    if "@" in parts.path + parts.query + parts.fragment:
        return "(unreadable address)", True
    hosts = hosts or ",".join(query.get("host", ("localhost",)))
    database = parts.path.strip("/") or "".join(query.get("dbname", query.get("database", ())))
    return f"{hosts}/{database}" if database else hosts, secret


def _unavailable(place: str, what: str, cure: str, lasting: bool = False) -> ServiceUnavailable:
    return ServiceUnavailable(f"PostgreSQL at {place} {what}", cure, lasting=lasting)


def _class(state: str) -> str:
    """The class of errors that a SQLSTATE belongs to."""
    return state[:2]


def _line(error: Exception) -> str:
    """The first line of what an error says; details and hints come on others."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
