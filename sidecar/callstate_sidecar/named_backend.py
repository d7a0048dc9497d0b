"""The store that the configuration names, as the backend that the daemon reads and writes.

Each kind is imported only if it is used: a daemon with SQLite needs neither redis-py nor the time to import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.resolve import check_store_files, resolve_password
from callstate_sidecar.config.schema import Config
from callstate_sidecar.stores.backend import DOCUMENT_FACTOR, Backend
from callstate_sidecar.system.strict_modes import check_path


def named_backend(config: Config, state_dir: Path, host_id: str, environ: Mapping[str, str]) -> Backend:
    """The store that the configuration names; redis is imported only for Redis.

    Raises:
        ConfigError: it can't be used as it is configured.
        UnsafePathError: other users could replace the SQLite file.
    """
    store = config.store
    check_store_files(config)
    # the journal drops what the store has, so the store has to be as durable as the journal
    synced = config.journal.durability == "power"
    document_bytes = DOCUMENT_FACTOR * config.limits.session_bytes
    if store.url.startswith("sqlite:"):
        from callstate_sidecar.stores.sqlite import SqliteBackend  # noqa: PLC0415

        path = state_dir / Path(urlsplit(store.url).path or "callstate.db")
        if config.server.strict_modes:
            check_path(path, "store.url")
        return SqliteBackend(
            path, ttl_s=store.ttl_s, host_id=host_id, timeout_s=store.timeout_s, synced=synced,
            document_bytes=document_bytes,
        )  # fmt: skip
    try:
        from callstate_sidecar.stores.redis import RedisBackend  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"store.url: Redis needs {error.name}: pip install 'callstate[sidecar,redis]'") from error
    return RedisBackend(
        store.url, prefix=store.prefix, ttl_s=store.ttl_s, timeout_s=store.timeout_s, host_id=host_id,
        password=resolve_password(config, environ), synced=synced, sync_required=store.confirm == "aof",
        document_bytes=document_bytes,
    )  # fmt: skip
