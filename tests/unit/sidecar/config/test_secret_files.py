"""Secrets in files that others can read are warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.secret_files import readable_secrets


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret file"
    path.write_text("hunter2\n")
    return path


def warnings(*argv: str) -> list[str]:
    config, args = load_config(argv, {})
    return readable_secrets(config, args.config)


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o444])
def test_a_password_file_that_others_can_read_is_named_with_what_mends_it(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    (said,) = warnings("--set", f"store.password_file={secret}")
    assert said.startswith("store.password_file: ")
    assert f"mode {mode:04o}" in said
    assert f"chmod go= '{secret}'" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_one_that_only_its_owner_can_read_is_not(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    assert warnings("--set", f"store.password_file={secret}") == []


def test_a_configuration_with_a_password_is_one_and_without_one_is_not(secret: Path) -> None:
    secret.chmod(0o644)
    secret.write_text('[store]\nurl = "redis://:hunter2@localhost:1/0"\n')
    (said,) = warnings("--config", str(secret))
    assert said.startswith("--config: ")
    assert "hunter2" not in said
    secret.write_text('[store]\nurl = "redis://localhost:1/0"\n')
    assert warnings("--config", str(secret)) == []


def test_the_key_of_a_certificate_is_one(secret: Path) -> None:
    secret.chmod(0o644)
    url = f"rediss://localhost:1/?ssl_certfile=/cert.pem&ssl_keyfile={str(secret).replace(' ', '%20')}"
    (said,) = warnings("--store", url)
    assert said.startswith("store.url: ssl_keyfile: ")


def test_a_file_that_is_absent_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    assert warnings("--set", f"store.password_file={tmp_path}/absent") == []
