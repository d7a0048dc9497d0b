"""What a reload applies, and what it leaves to a restart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.options import OPTIONS
from callstate_sidecar.config.origins import Origins
from callstate_sidecar.config.schema import Config
from callstate_sidecar.reload import Reloads, changed_keys, is_applied

OPERATIONS = Path(__file__).parents[3] / "docs/operations.md"


def config(*settings: str) -> Config:
    return load_config([word for setting in settings for word in ("--set", setting)], {})[0]


def with_value(section: Any, key: str, value: object) -> Any:
    """A copy of the configuration, or a section of it, with another value of a key."""
    name, _, rest = key.partition(".")
    return replace(section, **{name: with_value(getattr(section, name), rest, value) if rest else value})


@pytest.mark.parametrize("key", OPTIONS)
def test_a_key_either_is_applied_or_needs_a_restart(key: str) -> None:
    before = Config()
    after = with_value(before, key, "another value")
    reloads = Reloads(before, {})
    assert reloads.take(after, {}) == ([key] if is_applied(key) else [])
    assert reloads.needs_restart == ([] if is_applied(key) else [key])


def test_keys_that_need_a_restart_are_compared_with_the_start() -> None:
    reloads = Reloads(config("store.ttl_s=100", "log.level=info"), {})
    assert reloads.take(config("store.ttl_s=200", "log.level=debug"), {}) == ["log.level"]
    assert reloads.needs_restart == ["store.ttl_s"]
    assert reloads.take(config("store.ttl_s=200", "log.level=debug"), {}) == []
    assert reloads.needs_restart == ["store.ttl_s"]  # still not in force
    assert reloads.take(config("store.ttl_s=100", "log.level=info"), {}) == ["log.level"]
    assert reloads.needs_restart == []


def test_settings_say_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    def loaded(text: str) -> tuple[Config, Origins]:
        path.write_text(text)
        environ = {"CALLSTATE_REAPER_GRACE_S": "7", "CALLSTATE_STORE_URL": "redis://:secret@host"}
        config, args = load_config(["--config", str(path), "--set", "host.id=h1"], environ)
        return config, args.origins

    path = tmp_path / "callstate.toml"
    reloads = Reloads(*loaded("[store]\nttl_s = 100\nurl = 'redis://file'\n[log]\nlevel = 'info'\n"))
    reloads.take(*loaded("[store]\nttl_s = 200\n[log]\nlevel = 'debug'\n"))
    settings = {each.key: each for each in reloads.settings({"host.id": "other", "server.socket": "/run/s"})}
    assert [*settings] == [*OPTIONS]

    def told(key: str) -> tuple[object, str, str]:
        return settings[key].value, settings[key].source, settings[key].name

    assert told("store.ttl_s") == (100.0, "file", str(path)), "a restart has to apply the other"
    assert settings["store.ttl_s"].pending == 200.0
    assert told("log.level") == ("debug", "file", str(path))
    assert told("reaper.grace_s") == (7.0, "environment", "CALLSTATE_REAPER_GRACE_S")
    assert settings["reaper.grace_s"].default == 30.0
    assert told("store.url") == ("redis://:***@host", "environment", "CALLSTATE_STORE_URL")
    assert told("host.id") == ("h1", "flag", "--set")
    assert settings["host.id"].resolved == ""
    assert told("server.socket") == ("", "default", "")
    assert settings["server.socket"].resolved == "/run/s"
    assert "secret" not in str(settings)


def test_changed_keys_come_in_the_order_of_the_reference_file() -> None:
    changed = config("log.level=debug", "reaper.grace_s=3", "limits.sessions=5")
    assert changed_keys(Config(), changed) == ["reaper.grace_s", "limits.sessions", "log.level"]
    assert changed_keys(changed, changed) == []


def test_the_documents_name_what_a_reload_applies() -> None:
    (row,) = re.findall(r"^\| SIGHUP \| .*$", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    applied = row.partition("All other keys")[0]
    named = {name.removesuffix(".*") for name in re.findall(r"`(\w+\.[\w*]+)`", applied)}
    named -= {"limits.line_bytes", "limits.pending_reply_bytes"}  # they are of `limits.*`
    assert named == {"log", "limits", "reaper.heartbeat_timeout_s"}
