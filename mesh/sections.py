"""The sections of the settings: one frozen model for each part of a replica. See `mesh.settings`.

The docstring under a setting is its documentation: `settings_table` and `mesh settings` print it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import NoDecode

from crdt.errors import CallerError

SECRETS = frozenset({"url", "dsn", "password"})
"""Settings whose values may hold a password: they are shown by `shown`, and in no error."""


class SettingsError(CallerError):
    """A setting that does not exist, or a value it can't have. One line, with name and source."""


class Section(BaseModel):
    """Common to all sections: frozen, no unknown names, one-line errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __init__(self, **values: Any) -> None:
        refuse_unknown(values, type(self).model_fields, f"arguments of {type(self).__name__}", "")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(f"{type(self).__name__}: {first_complaint(error)}") from None


class ReplicaSettings(Section):
    """One replica: what it is called, when it flushes, and how much it may hold."""

    name: str = Field(default="", max_length=64)
    """Name of the replica in the mesh. Empty: the name in the folder's certificate, and for a new
    folder the folder's name."""
    flush_interval_ms: int = Field(default=0, ge=0, le=10_000)
    """Least milliseconds between the starts of two flushes; 0: none, a flush starts as soon as the
    one before it is on disk, and takes all that was written meanwhile. Raise it to save CPU, bytes
    and disk syncs, by fewer, larger frames; others then see changes that much later."""
    flush_bytes: int = Field(default=262_144, ge=1_024, le=2_097_152)
    """Pending bytes of edits that start a flush before the interval is over. Bounds what one frame
    holds; a larger one compresses better."""
    snapshot_every_frames: int = Field(default=2_000, ge=10, le=10_000_000)
    """Frames of a shard after which its snapshot is renewed, once they outweigh it. More: less
    writing; fewer: a faster start and a smaller journal."""
    journal_bytes_max: int = Field(default=1_073_741_824, ge=1_048_576)
    """Size of the journal from which snapshots are taken and old frames pruned at once. Larger:
    peers that were away longer can catch up by frames instead of by a snapshot."""
    owed_bytes_max: int = Field(default=67_108_864, ge=65_536)
    """Bytes applied but not yet on the disk from which edits raise `Backpressure` and peers are no
    longer read from. Larger: longer bursts; smaller: less memory."""
    journal_owed_bytes_max: int = Field(default=8_589_934_592, ge=65_536)
    """Bytes of this replica's own frames that may be kept in the journal for a bus or log that does
    not take them; from there on edits raise `Backpressure`, for nothing that is owed is ever
    dropped. Larger: longer outages; smaller: less disk."""
    on_damage: Literal["refuse", "rebuild"] = Field(default="refuse")
    """What a start does about a damaged journal. `refuse`: it fails and says what is wrong, for
    what is lost with the damage may be here alone. `rebuild`: as `mesh repair`, every readable
    frame of its own is kept and stays owed, the rest comes from the others."""
    inbox_frames_max: int = Field(default=10_000, ge=16, le=10_000_000)
    """Received frames that may wait for the frames they depend on, an equal part of them (at least
    64) in each shard. Above it the newest are dropped and asked for again."""
    inbox_bytes_max: int = Field(default=67_108_864, ge=1_048_576)
    """Bytes of received frames that may wait for the frames they depend on; as above, but at least
    the largest frame in each shard."""
    anti_entropy_interval_s: float = Field(default=1.0, gt=0, le=3_600)
    """Seconds between two comparisons with a random peer. Shorter: a lost message is found sooner;
    longer: less idle traffic (about 100 bytes a shard)."""
    presence_interval_s: float = Field(default=1.0, ge=0.01, le=60)
    """Seconds between two signs of life; a replica that gives none for eight times as long counts
    as gone. Shorter: noticed sooner; longer: less idle traffic (some 100 bytes a replica and
    link)."""
    watch_events_max: int = Field(default=10_000, ge=1, le=10_000_000)
    """Changes that may wait in one `watch()`. A reader that falls further behind is told that it
    missed some, and goes on from the present state."""
    clock_drift_ms: int = Field(default=60_000, ge=100, le=86_400_000)
    """How far the stamps of others may lie in this host's future before its clock stops following
    them and says so. Should exceed the worst clock error in the fleet."""
    gc_freeze: bool = True
    """Whether a start switches Python's cyclic garbage collector off while it reads the journal
    and, behind the running replica, loads its shards, and then takes all objects there are out of
    its sight (`gc.freeze`) if the state is large. Both concern the whole process: off leaves that
    to others, for a start that is some percent slower and pauses of all threads that grow with the
    state."""
    restore_timeout_s: float = Field(default=10.0, gt=0, le=3_600)
    """Seconds that the start of a replica without any data may spend on taking in checkpoints and
    log. What is missing then comes while it runs already."""
    close_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds that closing may spend on handing over what connected peers don't have yet. What is
    left stays in the journal and is sent after the next start."""


class PeersSettings(Section):
    """Direct peers: where this replica listens, whom it dials, and what a connection may cost."""

    listen: str = Field(default="127.0.0.1:0")
    """`host:port` to accept peers on; port 0 takes any free one. Loopback keeps the replica to this
    machine; a mesh over several machines needs an address they reach. Empty: does not listen."""
    advertise: str = Field(default="")
    """`host:port` others are told to dial, where that differs from `listen` (behind a forwarded
    port, or when listening on every interface). Empty: the address listened on."""
    seeds: Annotated[tuple[str, ...], NoDecode] = Field(default=(), max_length=1_000)
    """Addresses of other replicas to dial; in the environment separated by commas. Any one that is
    up is enough to join."""
    zeroconf: Literal["auto", "on", "off"] = "auto"
    """Whether to find peers by multicast DNS on the local network, and be found. `auto`: only where
    `listen` is an address that other machines can reach."""
    introductions: bool = Field(default=True)
    """Whether to dial replicas that only others, or the registry on the bus, say are there. Off:
    only seeds and multicast DNS say whom to dial, as where links must take other ways than the
    addresses announced."""
    dial_max: int = Field(default=6, ge=1, le=1_000)
    """How many replicas to dial of those others name, and of those multicast DNS finds; about as
    many dial this one. A mesh not larger is linked in full; in a larger one frames make hops. More:
    fewer hops, and more replicas that `Durability.PEERS` can count; fewer: less work per replica.
    """
    connections_max: int = Field(default=64, ge=1, le=10_000)
    """Links held at once. More: fewer hops; fewer: less memory and fewer file descriptors."""
    handshakes_max: int = Field(default=32, ge=1, le=10_000)
    """Incoming connections that may be in their handshake at once. Above it the one that has taken
    longest is dropped, so strangers who connect and stay silent cannot keep members out."""
    handshake_timeout_s: float = Field(default=5.0, gt=0, le=120)
    """Seconds for connecting and proving membership, both ways. Should exceed four round trips."""
    message_bytes_max: int = Field(default=8_388_608, ge=8_388_608, le=268_435_456)
    """Largest message on a link; the link of a peer that announces a larger one is closed. Must be
    the same in the whole mesh. This version sends none above the default, which holds the largest
    frame."""
    send_buffer_bytes: int = Field(default=1_048_576, ge=4_096, le=1_073_741_824)
    """Bytes handed to a link before its sender waits for the peer; four times as much may queue
    behind them, and what is more is left out and fetched by the peer later. Larger: better
    throughput on long ways; smaller: less memory per slow peer."""
    send_timeout_s: float = Field(default=30.0, gt=0, le=3_600)
    """Seconds a sender waits for a peer that takes nothing before the link is given up."""
    keepalive_s: int = Field(default=15, ge=1, le=3_600)
    """Seconds of silence before the system probes a connection; after three unanswered probes it is
    closed. Shorter: a vanished host is noticed sooner."""
    redial_min_s: float = Field(default=0.1, gt=0, le=60)
    """Seconds before the first new attempt at an address that did not answer; doubled every time,
    with jitter."""
    redial_max_s: float = Field(default=5.0, gt=0, le=3_600)
    """Longest wait between two attempts at one address. Shorter: links heal sooner; longer: less
    noise from replicas that are gone."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_list(value)

    @field_validator("listen", "advertise")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for seed in value:
            if split_address(seed)[1] == 0:
                raise ValueError(
                    f"{seed!r} has port 0: a seed needs the port its replica listens on"
                )
        return value

    @model_validator(mode="after")
    def _check_redial(self) -> Self:
        if self.redial_min_s > self.redial_max_s:
            raise ValueError(
                f"redial_min_s {self.redial_min_s} is over redial_max_s {self.redial_max_s}"
            )
        return self


class RedisSettings(Section):
    """The bus. Without a URL there is none; frames then travel between peers, and by the log."""

    url: str = Field(default="")
    """`redis://[[user]:password@]host:port[/database]`, or `rediss://` for TLS. Empty: no bus. One
    server may serve several meshes."""
    stream_entries_max: int = Field(default=100_000, ge=100, le=100_000_000)
    """Entries a shard's stream keeps at least; the oldest go. More: replicas that were away longer
    catch up here; fewer: less of the server's memory."""
    read_entries: int = Field(default=256, ge=1, le=10_000)
    """Entries of one shard read at once."""
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds without an answer after which the server counts as unreachable."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return _checked_url(value, ("redis", "rediss", "unix"), "redis://127.0.0.1:6379/0")


class KafkaSettings(Section):
    """The event log. Without servers there is none; the journals are then the only history."""

    servers: Annotated[tuple[str, ...], NoDecode] = Field(default=(), max_length=100)
    """`host:port` of brokers to start from; in the environment separated by commas. Empty: no
    log."""
    topic: str = Field(default="", max_length=249)
    """Topic of the mesh, created if missing, with one partition for each shard. Empty:
    `statemesh.NAME.ID`, by the mesh's name and the start of its id."""
    replication: int = Field(default=-1, ge=-1, le=32_767)
    """Copies a topic that is created gets; -1: as the brokers are set up."""
    linger_ms: int = Field(default=2, ge=0, le=1_000)
    """How long frames are gathered into one request, in milliseconds. Longer: more throughput."""
    poll_s: float = Field(default=0.5, gt=0, le=60)
    """Longest wait of one read of the log's end."""
    upload_after_s: float = Field(default=10.0, gt=0, le=86_400)
    """When the log still lacks somebody else's frames after this many seconds, this replica uploads
    them. Should exceed the brokers' usual hiccups."""
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds without an answer after which the brokers count as unreachable."""
    tls: bool = False
    """Whether to connect by TLS, with the system's authorities."""
    username: str = Field(default="")
    """User for SASL/SCRAM-SHA-512. Empty: no login."""
    password: str = Field(default="")
    """Password of that user."""

    @field_validator("servers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _split_list(value)

    @field_validator("servers")
    @classmethod
    def _check_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for server in value:
            if split_address(server)[1] == 0:
                raise ValueError(f"{server!r} has port 0: name the port the broker listens on")
        return value

    @field_validator("topic")
    @classmethod
    def _check_topic(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]*", value) or value in (".", ".."):
            raise ValueError(f"{value!r} is no topic name; use letters, digits, '.', '_' and '-'")
        return value


class PostgresSettings(Section):
    """Checkpoints. Without a DSN there are none; recovery is then by peers and log alone."""

    dsn: str = Field(default="")
    """`postgresql://[user[:password]@]host:port/database`. Empty: no checkpoints. The user must be
    allowed to create the schema, once."""
    schema_name: str = Field(default="statemesh", pattern=r"^[a-z_][a-z0-9_]{0,40}$")
    """Schema that holds the tables; created if missing. Several meshes may share one."""
    checkpoint_interval_s: float = Field(default=10.0, gt=0, le=86_400)
    """Seconds between two looks at what changed: how old a checkpoint may be, and how long
    `Durability.CHECKPOINT` may take. Shorter: a faster recovery; longer: less writing."""
    lease_s: float = Field(default=30.0, ge=1, le=3_600)
    """How long a replica that writes checkpoints of a shard keeps others from doing so after it
    fell silent."""
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds without an answer after which the server counts as unreachable."""
    connections_max: int = Field(default=2, ge=1, le=100)
    """Connections held at most."""

    @field_validator("dsn")
    @classmethod
    def _check_dsn(cls, value: str) -> str:
        example = "postgresql://user@127.0.0.1:5432/mesh"
        return _checked_url(value, ("postgresql", "postgres"), example)


class TemporalSettings(Section):
    """The coordinator. Without an address there is none; only what it decides is unavailable."""

    address: str = Field(default="")
    """`host:port` of Temporal's front end. Empty: no coordinator; exclusive claims and transitions
    raise `CoordinatorUnavailable`."""
    namespace: str = Field(default="default", min_length=1)
    """Temporal namespace; it must exist."""
    task_queue: str = Field(default="statemesh", min_length=1)
    """Task queue of the workers that run the state machines. One per mesh keeps meshes apart."""
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds to wait for a decision before `CoordinatorUnavailable`. Shorter: callers learn
    sooner; longer: fewer false alarms while workers restart."""

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port). Raises ValueError saying what is wrong."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare) != (host != bare):
        raise ValueError(f"{address!r} is no address; write host:port, or [host]:port for IPv6")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r}: the port must be a number from 0 to 65535")
    return bare, int(port)


def refuse_unknown(
    given: Iterable[str], known: Mapping[str, object], where: str, prefix: str
) -> None:
    for key in given:
        if key not in known:
            hint = nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in known])
            raise SettingsError(f"{prefix}{key} in {where} is no setting{hint}")


def nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def first_complaint(error: ValidationError) -> str:
    """The first complaint of a validation, on one line, starting with the name of the setting."""
    detail = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in detail["loc"]) or "section"
    message = detail["msg"].removeprefix("Value error, ")
    if name in SECRETS:
        return f"{name}: {message}"
    return f"{name} = {detail['input']!r}: {message}" if detail["loc"] else message


def shown(name: str, value: object) -> str:
    """A setting's value for people: lists with commas, passwords hidden."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if name == "password":
        return "***" if text else ""
    return without_password(text) if name in SECRETS else text


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"(?<=://)([^/@]*?):[^/]*@", r"\1:***@", url)


def _split_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _checked_url(value: str, schemes: tuple[str, ...], example: str) -> str:
    """Refuse what is no URL of these schemes, without repeating it: it may hold a password."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(f"it is no URL; write one like {example}") from None
    if parts.scheme not in schemes:
        raise ValueError(
            f"it starts with {parts.scheme or 'no scheme'!r}; write one like {example}"
        )
    return value
