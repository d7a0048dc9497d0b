"""The scripts of RedisStore, which writes as the Go package does: the last write wins."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.redis.scripts import EXTEND, IS_DOCUMENT, IS_KEPT, Script

SAVE: Final = Script(
    EXTEND
    + IS_DOCUMENT
    + """
local id, document, ttl, active, of_call = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local kind = document_type()
if kind ~= 'string' and kind ~= 'none' then return foreign_key() end
local listed = redis.call('SISMEMBER', KEYS[3], id) == 1
redis.call('SET', KEYS[1], document, 'PX', ttl)
extend(KEYS[2], ttl)
if active then
  if not listed then redis.call('SADD', KEYS[3], id) end
else
  redis.call('SREM', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
end
if of_call then
  redis.call('SADD', KEYS[5], id)
  collect(KEYS[5], ttl)
end
return 1
"""
)
"""KEYS: the session's, then the set of its call. ARGV: id, document, ttl in ms, whether it is active, whether it
has a call id. Last write wins, as in the Go package."""

BEAT: Final = Script(
    EXTEND
    + IS_DOCUMENT
    + """
local id, at, ttl = ARGV[1], ARGV[2], ARGV[3]
if document_type() ~= 'string' then return {'missing'} end
if redis.call('SISMEMBER', KEYS[3], id) == 0 then
  -- ended, or the active set lost it (restored from elsewhere): only the document can tell
  local document = redis.call('GET', KEYS[1])
  if document ~= ARGV[4] then
    local ended = redis.call('HMGET', KEYS[2], 'ended_at', 'ended_reason')
    return {'unlisted', document, ended[1] or '', ended[2] or ''}
  end
  redis.call('SADD', KEYS[3], id)
end
redis.call('ZADD', KEYS[4], 'GT', at, id)
collect(KEYS[4], ttl)
extend(KEYS[1], ttl)
extend(KEYS[2], ttl)
return {'noted'}
""",
    repeatable=True,
)
"""ARGV: id, time in ms, ttl in ms, a document known not to have ended. The document is not rewritten, so a
concurrent turn can't be lost. Returns `unlisted` with the document if the session is not in the active set: the
caller has to parse it, because cjson can't parse everything that Go writes."""

DELETE: Final = Script(
    """
local id, prefix = ARGV[1], ARGV[2]
local host = redis.call('HGET', KEYS[2], 'host')
local found = redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[3], id)
redis.call('ZREM', KEYS[4], id)
if found == 0 then return 0 end -- a daemon's tombstone stays
redis.call('DEL', KEYS[2])
if host then redis.call('SREM', prefix .. '@host:' .. host .. ':sessions', id) end
return 1
"""
)
"""ARGV: id, prefix. Leaves nothing behind, not even a tombstone."""

LIVE: Final = Script(
    IS_KEPT
    + """
local live = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    live[#live + 1] = id
  elseif not is_kept(ARGV[1] .. id) then
    redis.call('SREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return live
""",
    repeatable=True,
)
"""KEYS: active set, heartbeats. ARGV: prefix, ids. Returns those whose documents exist and removes the
others, unless their daemon is about to write them again."""
