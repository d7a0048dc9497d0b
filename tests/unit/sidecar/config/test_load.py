"""The configuration: where values come from, what is refused, and the resolved paths."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.options import OPTIONS
from callstate_sidecar.config.reference import reference_toml
from callstate_sidecar.config.resolve import (
    MAX_SOCKET_PATH_BYTES,
    resolve_password,
    resolve_socket,
    resolve_state_dir,
)
from callstate_sidecar.config.schema import AccessConfig, Config, ServerConfig, StoreConfig

KEYS = list(OPTIONS)
URLS = OPTIONS["store.url"].expected


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "callstate.toml"


def load(*argv: str, **environ: str) -> Config:
    return load_config(argv, environ)[0]


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(argv, environ)
    return str(caught.value)


def value_of(config: Config, key: str) -> object:
    return attrgetter(key)(config)


def keys_of(table: dict[str, Any], within: str = "") -> Iterator[str]:
    """The keys of a TOML table and of those within it."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{within}{name}.")
        else:
            yield within + name


def another_value(key: str) -> str | float:
    """Some allowed value of the key that is not its default."""
    given: dict[str, str] = {
        "journal.durability": "power", "store.url": "redis://cache:6379/1", "store.prefix": "calls:",
        "store.confirm": "aof", "log.level": "debug", "log.format": "json", "host.id": "pbx-1.example",
        "metrics.allow_remote": "yes", "access.share": "uid",
    }  # fmt: skip
    option = OPTIONS[key]
    if key in given:
        return given[key]
    if option.type is bool:
        return not option.default
    if option.type is str:
        return "/somewhere/else"
    assert option.meta.le is not None
    return option.type(option.meta.le)


# -- defaults, and the order of sources ----------------------------------------------------------------------


def test_without_anything_said_every_key_has_its_default() -> None:
    assert load() == Config()


@pytest.mark.parametrize("key", KEYS)
def test_every_default_is_within_its_own_range(key: str) -> None:
    option = OPTIONS[key]
    assert msgspec.convert(option.default, option.annotation) == option.default


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_meaning_and_a_range_in_words(key: str) -> None:
    option = OPTIONS[key]
    assert option.meta.description
    assert option.meta.description.endswith(".")
    assert "any" not in option.expected.split()


@pytest.mark.parametrize("key", KEYS)
def test_set_takes_every_key(key: str) -> None:
    value = another_value(key)
    assert value_of(load("--set", f"{key}={value}"), key) == value


@pytest.mark.parametrize("key", KEYS)
def test_a_variable_sets_every_key(key: str) -> None:
    value = another_value(key)
    assert value_of(load(**{OPTIONS[key].variable: str(value)}), key) == value


def test_the_reference_file_names_every_key_at_its_default(toml: Path) -> None:
    lines = [line.removeprefix("#") for line in _code_lines(reference_toml())]
    toml.write_text("\n".join(lines).replace('share = "group"', 'share = "all"'))
    values = tomllib.loads(toml.read_text())
    assert list(keys_of(values)) == KEYS
    assert load("--config", str(toml)) == Config()


def test_the_reference_file_as_it_is_changes_nothing(toml: Path) -> None:
    toml.write_text(reference_toml())
    assert load("--config", str(toml)) == Config(access=AccessConfig(share="group"))


def _code_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("# ")]


def test_flags_go_before_variables_and_those_before_the_file(toml: Path) -> None:
    toml.write_text("[reaper]\ntick_s = 1\ngrace_s = 1\nretention_s = 1\nheartbeat_timeout_s = 1\n")
    config = load(
        "--config", str(toml), "--set", "reaper.tick_s=3",
        CALLSTATE_REAPER_TICK_S="2", CALLSTATE_REAPER_GRACE_S="2",
    )  # fmt: skip
    assert (config.reaper.tick_s, config.reaper.grace_s, config.reaper.retention_s) == (3, 2, 1)


@pytest.mark.parametrize(
    ("flag", "key", "value"),
    [
        ("--socket", "server.socket", "/run/x.sock"),
        ("--state-dir", "server.state_dir", "/var/lib/x"),
        ("--store", "store.url", "unix:///run/redis.sock"),
        ("--durability", "journal.durability", "memory"),
        ("--log-level", "log.level", "warning"),
        ("--log-format", "log.format", "json"),
    ],
)
def test_a_flag_sets_its_key(flag: str, key: str, value: str) -> None:
    assert value_of(load(flag, value), key) == value
    assert value_of(load(flag, value, **{OPTIONS[key].variable: str(OPTIONS[key].default)}), key) == value


def test_of_two_flags_for_one_key_the_later_counts() -> None:
    assert load("--durability", "power", "--set", "journal.durability=memory").journal.durability == "memory"
    assert load("--set", "journal.durability=memory", "--durability", "power").journal.durability == "power"


def test_a_whole_number_will_do_for_seconds(toml: Path) -> None:
    toml.write_text("[reaper]\ngrace_s = 5\n")
    grace_s = load("--config", str(toml)).reaper.grace_s
    assert (grace_s, type(grace_s)) == (5.0, float)


def test_the_arguments_say_whether_only_to_check() -> None:
    assert load_config([], {})[1].check is False
    assert load_config(["--check"], {})[1].check is True


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("store.flush_interval_s=-1", "store.flush_interval_s: expected seconds, 0.005 to 60; got '-1' (--set)"),
        ("store.flush_interval_s=soon", "store.flush_interval_s: expected seconds"),
        ("store.flush_interval_s=nan", "store.flush_interval_s: expected seconds"),
        ("store.flush_interval_s=inf", "store.flush_interval_s: expected seconds"),
        ("store.flush_interval_s=", "store.flush_interval_s: expected seconds"),
        ("limits.connections=1.5", "limits.connections: expected a whole number of connections, 1 to"),
        ("limits.connections=0", "limits.connections: expected a whole number of connections, 1 to"),
        ("journal.durability=none", "journal.durability: expected memory, process or power; got 'none'"),
        ("log.format=xml", "log.format: expected auto, text, json or journald"),
        (
            "store.prefix={calls}:",
            "store.prefix: expected 1 to 128 characters of printable ASCII, no space, no braces",
        ),
        ("store.prefix=", "store.prefix: expected"),
        ("store.prefix=my calls:", "store.prefix: expected"),
        ("store.prefix=calls:\n", "store.prefix: expected"),
        ("host.id=a/b", "host.id: expected up to 64 letters"),
        ("host.id=a\n", "host.id: expected up to 64 letters"),
        ("server.socket=a\0b", "server.socket: expected a path"),
        ("store.url=http://x", "store.url: expected sqlite:"),
        ("store.url=", "store.url: expected sqlite:"),
        ("store.url=redis://host:port", "store.url: expected sqlite:"),
        ("store.url=redis://host:99999", "store.url: expected sqlite:"),
        ("store.url=unix://", "store.url: expected sqlite:"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_belongs_there(setting: str, expected: str) -> None:
    assert refusal("--set", setting).startswith(expected)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:", "sqlite:/var/lib/x.db", "redis://cache", "redis://cache:6379/0", "rediss://:pw@cache:6380",
        "unix:///run/redis.sock", "unix://:pw@/run/redis.sock", "cache:6379", "10.0.0.1:6379", "[::1]:6379",
    ],
)  # fmt: skip
def test_every_kind_of_store_url_is_taken(url: str) -> None:
    assert load("--store", url).store.url == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[store]\nflush_interval_s = "0.2"\n', "store.flush_interval_s: expected seconds, 0.005 to 60; got '0.2'"),
        ("[store]\nflush_interval_s = true\n", "store.flush_interval_s: expected seconds"),
        ("[limits]\nconnections = 10.0\n", "limits.connections: expected a whole number"),
        ("[store]\nurl = 5\n", "store.url: expected sqlite:"),
        ("[store]\nurl = [['redis://:s3cr3t@h']]\n", f"store.url: expected {URLS}; got an array ("),
        ("[store.url]\npassword = 's3cr3t'\n", f"store.url: expected {URLS}; got a table ("),
        ("[store]\nflush_intervall_s = 1\n", "store.flush_intervall_s: no such key"),
        ("[stores]\nurl = ''\n", "stores: no such section"),
        ("store = 'sqlite:'\n", "store: expected a table"),
        ("[store\n", "--config: not TOML"),
        (f"[limits]\nconnections = {'9' * 5000}\n", "--config: not TOML"),
        (f"store = {'[' * 5000}\n", "--config: not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_key_and_by_name(toml: Path, text: str, expected: str) -> None:
    toml.write_text(text)
    message = refusal("--config", str(toml))
    assert message.startswith(expected)
    assert str(toml) in message


def test_a_wrong_value_in_the_file_is_refused_even_where_a_flag_overrides_it(toml: Path) -> None:
    toml.write_text("[reaper]\ntick_s = 1000\n")
    assert refusal("--config", str(toml), "--set", "reaper.tick_s=1").startswith("reaper.tick_s: expected")


def test_a_file_that_is_not_there_or_not_text_is_named(toml: Path) -> None:
    assert refusal("--config", str(toml)) == f"--config: No such file or directory: {toml}"
    toml.write_bytes(b"\xff")
    assert refusal("--config", str(toml)) == f"--config: not UTF-8: {toml}"


RAW = os.fsdecode(b"/x\xff")
"""A path as Python has it that is not UTF-8."""


def test_text_that_is_not_utf_8_is_refused(toml: Path) -> None:
    """It can't be put into the reply to `server.config`, nor into an event that names the store."""
    for option in OPTIONS.values():
        if option.type is str:
            assert refusal("--set", f"{option.key}={RAW}") == f"{option.key}: not UTF-8"
    assert refusal("--socket", RAW) == "server.socket: not UTF-8"
    assert refusal(CALLSTATE_STORE_URL=f"redis://:secret{RAW}@host") == "store.url: not UTF-8"
    assert refusal("--config", RAW) == "--config: not UTF-8"
    runtime_dir = toml.with_name(RAW[1:])
    runtime_dir.mkdir()
    with pytest.raises(ConfigError, match=r"server\.socket: not UTF-8"):
        resolve_socket(Config(), {"XDG_RUNTIME_DIR": str(runtime_dir)})
    for environ in ({"STATE_DIRECTORY": RAW}, {"XDG_STATE_HOME": RAW}, {"HOME": RAW}):
        with pytest.raises(ConfigError, match=r"server\.state_dir: not UTF-8"):
            resolve_state_dir(Config(), environ)


def test_an_unknown_key_is_named_with_the_likely_one() -> None:
    message = refusal("--set", "store.flush_intervall_s=1")
    assert message == "store.flush_intervall_s: no such key (--set); did you mean store.flush_interval_s?"
    assert refusal("--set", "no.such=1").endswith("`callstated --help` lists them")


def test_an_unknown_variable_of_one_of_our_sections_is_an_error() -> None:
    message = refusal(CALLSTATE_STORE_FLUSH_INTERVAL="1")
    assert message.startswith(
        "store.flush_interval: no such key (CALLSTATE_STORE_FLUSH_INTERVAL); did you mean store."
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CALLSTATE_SOCKET", "/run/x.sock"),  # the client's
        ("CALLSTATE_TEST_DIR", "x"),
        ("CALLSTATE_", "x"),
        ("STORE_URL", "x"),
        # A Kubernetes Service called callstate-store:
        ("CALLSTATE_STORE_SERVICE_HOST", "10.0.0.1"),
        ("CALLSTATE_STORE_SERVICE_PORT", "6379"),
        ("CALLSTATE_STORE_SERVICE_PORT_REDIS", "6379"),
        ("CALLSTATE_STORE_PORT", "tcp://10.0.0.1:6379"),
        ("CALLSTATE_STORE_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("CALLSTATE_STORE_PORT_6379_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_that_are_not_meant_for_the_daemon_are_left_alone(variable: str, text: str) -> None:
    assert load(**{variable: text}) == Config()


def test_a_variable_that_only_resembles_a_service_link_is_an_error() -> None:
    assert refusal(CALLSTATE_STORE_PORT="6379").startswith("store.port: no such key")


@pytest.mark.parametrize("argv", [["--sock", "x"], ["--no-such"], ["--set", "reaper"], ["extra"]])
def test_wrong_usage_leaves_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(argv, {})
    assert caught.value.code == 2
    assert "usage: callstated" in capsys.readouterr().err


def test_help_names_every_key_with_its_default_and_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], {})
    assert caught.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    for key, option in OPTIONS.items():
        assert f" {key} = " in words
        assert option.expected in words


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--version"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("callstated ")


# -- passwords -----------------------------------------------------------------------------------------------


def test_a_password_in_argv_is_warned_of_and_kept_out_of_what_may_be_logged() -> None:
    config, args = load_config(["--store", "redis://:hunter2@cache"], {})
    assert config.store.url == "redis://:hunter2@cache"
    assert [warning.split(":")[0] for warning in args.warnings] == ["--store"]
    assert "hunter2" not in repr(config) + repr(args)
    assert load_config(["--store", "redis://cache"], {})[1].warnings == []
    assert load_config([], {"CALLSTATE_STORE_URL": "redis://:hunter2@cache"})[1].warnings == []


def test_a_refused_url_is_shown_without_its_password() -> None:
    assert "hunter2" not in refusal("--store", "rediss+x://:hunter2@cache")
    assert "hunter2" not in refusal("--store", ":hunter2@cache:6379")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--set=redis://u:hunter2@cache=0", "redis…: no such key (--set)"),
        ("--set=redis://u:a=hunter2@cache", "redis…: no such key (--set)"),
        ("--set=:hunter2@cache?x=1", "…: no such key (--set)"),
    ],
)
def test_a_url_in_the_place_of_a_key_is_shown_without_its_password(argument: str, said: str) -> None:
    assert refusal(argument).startswith(said)


def test_a_url_in_the_name_of_a_variable_is_shown_without_its_password() -> None:
    message = refusal(**{"CALLSTATE_STORE_URLredis://u:hunter2@cache/0": ""})
    assert message.startswith("store.urlredis…: no such key (CALLSTATE_STORE_URLredis…)")


def test_a_url_in_a_name_of_the_file_is_shown_without_its_password(tmp_path: Path) -> None:
    path = tmp_path / "callstate.toml"
    path.write_text('["redis://u:hunter2@cache"]\n["redis://u:hunter2@cache"]\n')
    assert "('redis://u:***@cache',) twice" in refusal("--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["redis://u:hunter2@cache"], "redis://u:***@cache"),
        (["--stor", "redis://u:hunter2@cache"], "--stor"),
        (["--password=hunter2"], "--password"),
        (["--password", "hunter2"], "--password"),
    ],
)
def test_an_unknown_argument_is_named_without_a_password(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_config(arguments, {})
    assert capsys.readouterr().err.endswith(f"unrecognized arguments: {said}\n")


def test_the_password_file_is_read_to_the_end_of_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_bytes(b" pass word\r\nmore\n")
    config = Config(store=StoreConfig(url="redis://cache", password_file=str(path)))
    assert resolve_password(config, {}) == " pass word"


def test_systemds_credential_is_used_where_nothing_else_is_said(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    redis = Config(store=StoreConfig(url="redis://cache"))
    assert resolve_password(redis, {}) is None
    assert resolve_password(redis, environ) is None
    (tmp_path / "redis-password").write_text("from systemd\n")
    assert resolve_password(redis, environ) == "from systemd"
    assert resolve_password(Config(store=StoreConfig(url="redis://:own@cache")), environ) is None
    other = tmp_path / "other"
    other.write_text("from the key")
    assert resolve_password(Config(store=StoreConfig(url="redis://cache", password_file=str(other))), environ) == (
        "from the key"
    )


@pytest.mark.parametrize("content", [None, b"", b"\nsecond line", b"\xff"])
def test_a_password_file_without_a_password_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pw"
    if content is not None:
        path.write_bytes(content)
    config = Config(store=StoreConfig(url="redis://cache", password_file=str(path)))
    with pytest.raises(ConfigError, match=r"^store\.password_file: .*pw$"):
        resolve_password(config, {})


def test_passwords_of_sentinels_and_keys_are_no_password_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("of the server")
    for url in ("redis+sentinel://h/calls?sentinel_password=pw", "rediss://h?ssl_certfile=/c&ssl_password=pw"):
        config = Config(store=StoreConfig(url=url, password_file=str(tmp_path / "pw")))
        assert resolve_password(config, {}) == "of the server"
    config = Config(store=StoreConfig(url="redis://h?password=pw", password_file=str(tmp_path / "pw")))
    with pytest.raises(ConfigError, match="has a password as well"):
        resolve_password(config, {})


def test_two_passwords_are_one_too_many(tmp_path: Path) -> None:
    config = Config(store=StoreConfig(url="redis://:own@cache", password_file=str(tmp_path / "pw")))
    with pytest.raises(ConfigError, match=r"^store\.password_file: store\.url has a password as well"):
        resolve_password(config, {})


# -- paths ---------------------------------------------------------------------------------------------------


def test_the_socket_is_where_clients_look_for_it(tmp_path: Path) -> None:
    runtime_dir = {"XDG_RUNTIME_DIR": str(tmp_path)}
    in_tmp = Path(f"/tmp/callstate-{os.getuid()}/callstate.sock")
    assert resolve_socket(Config(server=ServerConfig(socket="/run/x.sock")), runtime_dir) == Path("/run/x.sock")
    assert resolve_socket(Config(), runtime_dir) == tmp_path / "callstate.sock"
    assert resolve_socket(Config(), {}) == in_tmp
    assert resolve_socket(Config(), {"XDG_RUNTIME_DIR": ""}) == in_tmp
    assert resolve_socket(Config(), {"XDG_RUNTIME_DIR": "."}) == in_tmp
    assert resolve_socket(Config(), {"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == in_tmp


def test_a_relative_socket_is_made_absolute() -> None:
    assert resolve_socket(Config(server=ServerConfig(socket="x.sock")), {}) == Path.cwd() / "x.sock"


def test_a_socket_path_the_kernel_would_refuse_is_refused_by_name() -> None:
    fits = "/" + "x" * (MAX_SOCKET_PATH_BYTES - 1)
    assert resolve_socket(Config(server=ServerConfig(socket=fits)), {}) == Path(fits)
    with pytest.raises(ConfigError, match=r"^server\.socket: .*xxx$"):
        resolve_socket(Config(server=ServerConfig(socket=fits + "x")), {})
    with pytest.raises(ConfigError, match=r"^server\.socket: "):  # bytes count, not characters
        resolve_socket(Config(server=ServerConfig(socket="/" + "ü" * (MAX_SOCKET_PATH_BYTES // 2 + 1))), {})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/callstate"}, "/var/lib/callstate"),
        ({"STATE_DIRECTORY": "/var/lib/callstate:/var/lib/other"}, "/var/lib/callstate"),
        ({"STATE_DIRECTORY": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_STATE_HOME": "/b", "HOME": "/c"}, "/b/callstate"),
        ({"XDG_STATE_HOME": "b", "HOME": "/c"}, "/c/.local/state/callstate"),
        ({"HOME": "/c"}, "/c/.local/state/callstate"),
    ],
)
def test_the_state_directory(environ: dict[str, str], expected: str) -> None:
    assert resolve_state_dir(Config(), environ) == Path(expected)
    said = Config(server=ServerConfig(state_dir="/said"))
    assert resolve_state_dir(said, environ) == Path("/said")
