"""Settings: which source wins, and that a mistake is one line that names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mesh.settings import (
    PeersSettings,
    ReplicaSettings,
    Settings,
    SettingsError,
    load_settings,
    settings_table,
)
from mesh.wire import MAX_MESSAGE_BYTES, Frames, encode
from persistence.limits import MAX_FRAME_BYTES


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an environment without our variables."""
    for name in [name for name in os.environ if name.startswith("STATEMESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(error: pytest.ExceptionInfo[SettingsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_defaults_are_valid_and_local() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.peers.listen == "127.0.0.1:0"
    assert settings.peers.seeds == ()
    assert settings.temporal.address == ""


def test_arguments_beat_environment_beats_file(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "mesh.toml").write_text(
        '[peers]\nlisten = "127.0.0.1:1"\nkeepalive_s = 7\nseeds = ["h:1", "h:2"]\n'
        '[replica]\nname = "file"\n'
    )
    monkeypatch.setenv("STATEMESH_PEERS__LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("STATEMESH_REPLICA__NAME", "environment")
    settings = load_settings(peers__listen="127.0.0.1:3")
    assert settings.peers.listen == "127.0.0.1:3"
    assert settings.replica.name == "environment"
    assert settings.peers.keepalive_s == 7
    assert settings.peers.seeds == ("h:1", "h:2")


def test_a_named_file_is_read_and_must_exist(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "mesh.toml").write_text('[replica]\nname = "default"\n')
    (bare / "other.toml").write_text('[replica]\nname = "other"\n')
    monkeypatch.setenv("STATEMESH_CONFIG", "other.toml")
    assert load_settings().replica.name == "other"
    assert load_settings("mesh.toml").replica.name == "default"
    with pytest.raises(SettingsError, match=r"settings file nowhere\.toml does not exist"):
        load_settings("nowhere.toml")
    (bare / "other.toml").write_text("[replica\n")
    with pytest.raises(SettingsError, match=r"other\.toml is no valid TOML"):
        load_settings()


def test_seeds_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_PEERS__SEEDS", "10.0.0.1:7400, [::1]:7400")
    assert load_settings().peers.seeds == ("10.0.0.1:7400", "[::1]:7400")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"peerz": {}}, ("peerz", "arguments", "did you mean peers?")),
        ({"peers": {"seedz": []}}, ("peers.seedz", "arguments", "did you mean peers.seeds?")),
        ({"peers__lisen": ":1"}, ("peers.lisen", "did you mean peers.listen?")),
        ({"peers": 3}, ("peers in arguments must be a table",)),
    ],
)
def test_unknown_arguments(given: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(**given)
    assert all(word in one_line(error) for word in words), str(error.value)


def test_unknown_names_in_constructors() -> None:
    with pytest.raises(SettingsError, match="did you mean replica"):
        Settings(replika=ReplicaSettings())
    with pytest.raises(SettingsError, match=r"flush_interval in .*did you mean flush_interval_ms"):
        ReplicaSettings(flush_interval=3)  # type: ignore[call-arg]


def test_unknown_name_in_the_file_says_which_file(bare: Path) -> None:
    (bare / "mesh.toml").write_text('[temporal]\nadress = "127.0.0.1:7233"\n')
    with pytest.raises(SettingsError) as error:
        load_settings()
    text = one_line(error)
    assert "temporal.adress in mesh.toml" in text
    assert "did you mean temporal.address?" in text


@pytest.mark.parametrize("name", ["STATEMESH_PEERS__SEEDZ", "STATEMESH_PEERS", "STATEMESH_HOMES"])
def test_unknown_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert name in one_line(error)
    assert "did you mean STATEMESH_" in str(error.value)


def test_home_and_config_are_no_settings(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_HOME", str(bare))
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("STATEMESH_PEERS__LISTEN", "7400", "write host:port"),
        ("STATEMESH_PEERS__LISTEN", "host:99999", "from 0 to 65535"),
        ("STATEMESH_PEERS__LISTEN", "::1:7400", "[host]:port for IPv6"),
        ("STATEMESH_PEERS__SEEDS", "host:0", "has port 0"),
        ("STATEMESH_REPLICA__FLUSH_INTERVAL_MS", "soon", "valid integer"),
        ("STATEMESH_REPLICA__FLUSH_INTERVAL_MS", "-1", "greater than or equal to 0"),
    ],
)
def test_bad_values_name_the_variable(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    text = one_line(error)
    assert words in text
    assert f"from {variable}" in text


def test_relations_between_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"redial_min_s 9\.0 is over redial_max_s"):
        load_settings(peers__redial_min_s=9)


def test_constructing_reads_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEMESH_REPLICA__NAME", "environment")
    assert Settings().replica.name == ""


def test_override_keeps_the_rest_and_the_original() -> None:
    base = load_settings(replica__name="a", peers__keepalive_s=9)
    changed = base.override(peers={"keepalive_s": 3}, temporal__namespace="n")
    assert (changed.replica.name, changed.peers.keepalive_s) == ("a", 3)
    assert changed.temporal.namespace == "n"
    assert base.peers.keepalive_s == 9
    assert base.override() is base


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().peers.listen = "x:1"


def test_the_table_describes_every_setting() -> None:
    table = settings_table()
    for section in (ReplicaSettings, PeersSettings):
        for name, field in section.model_fields.items():
            assert f".{name}` |" in table
            assert field.description
    shown = settings_table(load_settings(peers__seeds=["h:1"]))
    assert "| `peers.seeds` | `STATEMESH_PEERS__SEEDS` | `h:1` |" in shown


def test_the_largest_frame_fits_into_the_smallest_message_bound() -> None:
    frame = bytes(MAX_FRAME_BYTES)
    least = PeersSettings.model_fields["message_bytes_max"].metadata[0].ge
    assert len(encode(Frames((frame,)))) <= least == MAX_MESSAGE_BYTES
