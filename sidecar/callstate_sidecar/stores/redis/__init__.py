"""Sessions in Redis (or Valkey), in the Go package's layout. Only this package imports `redis`."""

from __future__ import annotations

try:
    import redis as _redis
except ImportError as error:  # a bare install: name the extra, not the module
    raise ImportError("RedisStore needs redis-py: pip install 'callstate[redis]'", name="redis") from error

from callstate_sidecar.stores.redis.backend import RedisBackend
from callstate_sidecar.stores.redis.store import RedisStore

__all__ = ["RedisBackend", "RedisStore"]

del _redis
