"""Settings: one frozen object with a section for each part, and every way to set it.

Sources, the first that names a setting wins:

1. arguments: `load_settings(peers={"listen": "127.0.0.1:7400"})` or `peers__listen="…"`
2. the environment: `STATEMESH_PEERS__LISTEN=127.0.0.1:7400`
3. a file: the path given, else what `STATEMESH_CONFIG` names, else `mesh.toml` if it is there

`Settings(...)` itself reads nothing but its arguments: a simulation gets what it asked for on every
machine. A name that does not exist is an error wherever it stands, so a typing mistake never means
"the default".
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from crdt.errors import CallerError

__all__ = (
    "PeersSettings",
    "ReplicaSettings",
    "Settings",
    "SettingsError",
    "TemporalSettings",
    "load_settings",
    "settings_table",
)

PREFIX = "STATEMESH_"
DEFAULT_FILE = "mesh.toml"
CONFIG_VARIABLE = "STATEMESH_CONFIG"
# Names with our prefix that are no settings: the settings file, the home of default authorities.
RESERVED = (CONFIG_VARIABLE, "STATEMESH_HOME")


class SettingsError(CallerError):
    """A setting that does not exist, or a value it can't have. One line, with name and source."""


class _Section(BaseModel):
    """Common to all sections: frozen, no unknown names, one-line errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __init__(self, **values: Any) -> None:
        _refuse_unknown(values, type(self).model_fields, f"arguments of {type(self).__name__}", "")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(f"{type(self).__name__}: {_first(error)}") from None


class ReplicaSettings(_Section):
    """One replica: what it is called, when it flushes, and how much it may hold."""

    name: str = Field(default="", max_length=64)
    """Name of the replica in the mesh. Empty: the name in the folder's certificate, and for a new
    folder the folder's name."""
    flush_interval_ms: int = Field(default=5, ge=0, le=10_000)
    """How long edits are gathered into one frame before it is written, in milliseconds. Longer:
    fewer, larger frames and fewer disk syncs; shorter: others see changes sooner, and a crash loses
    less."""
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
    inbox_frames_max: int = Field(default=10_000, ge=16, le=10_000_000)
    """Received frames that may wait for the frames they depend on, an equal part of them (at least
    64) in each shard. Above it the newest are dropped and asked for again."""
    inbox_bytes_max: int = Field(default=67_108_864, ge=1_048_576)
    """Bytes of received frames that may wait for the frames they depend on; as above, but at least
    the largest frame in each shard."""
    anti_entropy_interval_s: float = Field(default=1.0, gt=0, le=3_600)
    """Seconds between two comparisons with a random peer. Shorter: a lost message is found sooner;
    longer: less idle traffic (about 100 bytes a shard)."""
    watch_events_max: int = Field(default=10_000, ge=1, le=10_000_000)
    """Changes that may wait in one `watch()`. A reader that falls further behind is told that it
    missed some, and goes on from the present state."""
    clock_drift_ms: int = Field(default=60_000, ge=100, le=86_400_000)
    """How far the stamps of others may lie in this host's future before its clock stops following
    them and says so. Should exceed the worst clock error in the fleet."""
    close_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds that closing may spend on handing over what connected peers don't have yet. What is
    left stays in the journal and is sent after the next start."""


class PeersSettings(_Section):
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
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

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


class TemporalSettings(_Section):
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


class Settings(BaseSettings):
    """All settings of one replica. Reads nothing but its arguments; `load_settings` does."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__"
    )

    replica: ReplicaSettings = Field(default_factory=ReplicaSettings)
    peers: PeersSettings = Field(default_factory=PeersSettings)
    temporal: TemporalSettings = Field(default_factory=TemporalSettings)

    def __init__(self, **values: Any) -> None:
        _check_tree(values, "arguments")
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only; `load_settings` puts the other sources together."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def override(self, **overrides: Any) -> Settings:
        """A copy with other values, given as to `load_settings`. Raises SettingsError."""
        if not overrides:
            return self
        tree = _tree_of(overrides)
        _check_tree(tree, "arguments")
        # Only what was set is carried over, so that a section's own defaults stay defaults.
        return _build([("arguments", tree), ("arguments", self.model_dump(exclude_unset=True))])


def load_settings(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Settings from arguments, environment and file, in this order of precedence.

    A file that was named (by `path` or `STATEMESH_CONFIG`) must exist; `./mesh.toml` need not.
    Overrides are sections (`peers={"listen": …}`) or single settings (`peers__listen=…`). Raises
    SettingsError.
    """
    tree = _tree_of(overrides)
    _check_tree(tree, "arguments")
    return _build([("arguments", tree), ("environment", _environment()), _file(path)])


def settings_table(settings: Settings | None = None) -> str:
    """Every setting as a Markdown table; values are defaults, or those of `settings`."""
    head = "default" if settings is None else "value"
    lines = [f"| setting | environment | {head} | meaning |", "|---|---|---|---|"]
    shown = settings or Settings()
    for section, name, description in _catalogue():
        value = getattr(getattr(shown, section), name)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        shown_as = f"`{text}`" if text else "empty"
        variable = _variable(section, name)
        lines.append(f"| `{section}.{name}` | `{variable}` | {shown_as} | {description} |")
    return "\n".join(lines) + "\n"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port). Raises ValueError saying what is wrong."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare) != (host != bare):
        raise ValueError(f"{address!r} is no address; write host:port, or [host]:port for IPv6")
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r}: the port must be a number from 0 to 65535")
    return bare, int(port)


def _sections() -> dict[str, type[_Section]]:
    return {
        name: cast("type[_Section]", field.annotation)
        for name, field in Settings.model_fields.items()
    }


def _catalogue() -> list[tuple[str, str, str]]:
    return [
        (section, name, " ".join((field.description or "").split()))
        for section, model in _sections().items()
        for name, field in model.model_fields.items()
    ]


def _variable(section: str, name: str) -> str:
    return f"{PREFIX}{section}__{name}".upper()


def _tree_of(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as a tree: `peers__listen=…` becomes `{"peers": {"listen": …}}`."""
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        section, dunder, name = key.partition("__")
        if isinstance(value, BaseModel):
            value = value.model_dump()
        part = {name: value} if dunder else value
        if isinstance(part, Mapping) and isinstance(tree.get(section, {}), Mapping):
            tree[section] = {**tree.get(section, {}), **part}
        else:
            tree[section] = part
    return tree


def _environment() -> dict[str, Any]:
    """What `STATEMESH_…` variables say; one that names no setting is an error."""
    known = {_variable(section, name): (section, name) for section, name, _ in _catalogue()}
    for variable in sorted(os.environ):
        upper = variable.upper()
        if upper.startswith(PREFIX) and upper not in known and upper not in RESERVED:
            hint = _nearest(upper, [*known, *RESERVED])
            raise SettingsError(f"the environment sets {variable}, which is no setting{hint}")
    return dict(EnvSettingsSource(Settings)())


def _file(path: str | Path | None) -> tuple[str, dict[str, Any]]:
    named = path or os.environ.get(CONFIG_VARIABLE)
    file = Path(named or DEFAULT_FILE)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return ("", {})
        raise SettingsError(f"settings file {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {file} is no valid TOML: {error}") from None
    _check_tree(values, str(file))
    return (str(file), values)


def _build(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> Settings:
    """Merge the layers, the first that names a setting wins, and validate section by section."""
    merged: dict[str, dict[str, Any]] = {section: {} for section in _sections()}
    origin: dict[tuple[str, str], str] = {}
    for source, tree in layers:
        for section, values in tree.items():
            for name, value in values.items():
                if name not in merged[section]:
                    merged[section][name] = value
                    origin[section, name] = source
    built: dict[str, _Section] = {}
    for section, model in _sections().items():
        try:
            built[section] = model.model_validate(merged[section])
        except SettingsError as error:
            name = str(error).partition(": ")[2].partition(" ")[0]
            source = origin.get((section, name), "")
            where = _variable(section, name) if source == "environment" else source
            detail = str(error).partition(": ")[2]
            raise SettingsError(
                f"{section}.{detail}" + (f" (from {where})" if where else "")
            ) from None
    return Settings(**built)


def _check_tree(tree: Mapping[str, Any], where: str) -> None:
    """Refuse unknown sections and settings, and sections that are no tables."""
    sections = _sections()
    _refuse_unknown(tree, sections, where, "")
    for section, values in tree.items():
        if isinstance(values, _Section):
            continue
        if not isinstance(values, Mapping):
            raise SettingsError(f"{section} in {where} must be a table of settings, not {values!r}")
        _refuse_unknown(values, sections[section].model_fields, where, f"{section}.")


def _refuse_unknown(
    given: Iterable[str], known: Mapping[str, object], where: str, prefix: str
) -> None:
    for key in given:
        if key not in known:
            hint = _nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in known])
            raise SettingsError(f"{prefix}{key} in {where} is no setting{hint}")


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _first(error: ValidationError) -> str:
    """The first complaint of a validation, on one line, starting with the name of the setting."""
    detail = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in detail["loc"]) or "section"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name} = {detail['input']!r}: {message}" if detail["loc"] else message
