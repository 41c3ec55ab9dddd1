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

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from mesh.sections import (
    KafkaSettings,
    PeersSettings,
    PostgresSettings,
    RedisSettings,
    ReplicaSettings,
    Section,
    SettingsError,
    TemporalSettings,
    nearest,
    refuse_unknown,
    shown,
    split_address,
)

__all__ = (
    "KafkaSettings",
    "PeersSettings",
    "PostgresSettings",
    "RedisSettings",
    "ReplicaSettings",
    "Settings",
    "SettingsError",
    "TemporalSettings",
    "load_settings",
    "settings_table",
    "split_address",
)

PREFIX = "STATEMESH_"
DEFAULT_FILE = "mesh.toml"
CONFIG_VARIABLE = "STATEMESH_CONFIG"
# Names with our prefix that are no settings: the settings file, the home of default authorities.
RESERVED = (CONFIG_VARIABLE, "STATEMESH_HOME")


class Settings(BaseSettings):
    """All settings of one replica. Reads nothing but its arguments; `load_settings` does."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__"
    )

    replica: ReplicaSettings = Field(default_factory=ReplicaSettings)
    peers: PeersSettings = Field(default_factory=PeersSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
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
    source = settings or Settings()
    for section, name, description in _catalogue():
        value = getattr(getattr(source, section), name)
        text = shown(name, value)
        shown_as = f"`{text}`" if text else "empty"
        variable = _variable(section, name)
        lines.append(f"| `{section}.{name}` | `{variable}` | {shown_as} | {description} |")
    return "\n".join(lines) + "\n"


def _sections() -> dict[str, type[Section]]:
    return {
        name: cast("type[Section]", field.annotation)
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
            hint = nearest(upper, [*known, *RESERVED])
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
    built: dict[str, Section] = {}
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
    refuse_unknown(tree, sections, where, "")
    for section, values in tree.items():
        if isinstance(values, Section):
            continue
        if not isinstance(values, Mapping):
            raise SettingsError(f"{section} in {where} must be a table of settings, not {values!r}")
        refuse_unknown(values, sections[section].model_fields, where, f"{section}.")
