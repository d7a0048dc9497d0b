"""The Lua scripts that run in Redis. Each change to a session is one script, so that it is atomic.

Every script reads first and writes afterwards. Redis does not roll back a script that fails halfway, so anything
that can fail (a key of another type) is checked before the first change. The first change is always a command that
Redis refuses when it is out of memory, because it does not refuse later ones.

KEYS of a session are always document, meta, active set, heartbeats (`Layout.session`).
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script and the SHA-1 that Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # the identifier for EVALSHA; not used for security
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# TTLs only grow, because another writer may have set a longer one. `collect` is for keys of many ids, which must
# live as long as their youngest; `extend` does not touch a key without a TTL, which its writer chose to keep for
# ever.
_EXTEND = """
local function extend(key, ttl)
  local left = redis.call('PTTL', key)
  if left >= 0 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
local function collect(key, ttl)
  local left = redis.call('PTTL', key)
  if left == -1 or (left >= 0 and left < tonumber(ttl)) then redis.call('PEXPIRE', key, ttl) end
end
"""

# SET would silently replace a list or a hash.
_IS_DOCUMENT = """
local function document_type() return redis.call('TYPE', KEYS[1]).ok end
local function foreign_key() return redis.error_reply('WRONGTYPE the document key holds another type') end
"""

# What the document was when a daemon last wrote it: its length and first bytes. Software that knows no meta changes
# the document alone, so that it no longer has its stamp.
_STAMP = """
local function stamp_of(key)
  return redis.call('STRLEN', key) .. ':' .. redis.call('GETRANGE', key, 0, 511)
end
local function document_stamp() return stamp_of(KEYS[1]) end
"""

# Versions go up to 2^63 and Lua's numbers are doubles: compared as digits, the longer being the larger.
_FENCE = """
local function digits(text)
  return text and string.match(text, '^0*(%d+)$') or '0'
end
local function above(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end
local function takes(held_host, held_epoch, held_version, host, epoch, version)
  if above(epoch, held_epoch) then return true end
  return epoch == held_epoch and host == held_host and not above(held_version, version)
end
local function unseen(seen, held, held_host, held_version, host, version)
  if seen == '' then return false end
  if seen == '0' then return held or redis.call('EXISTS', KEYS[1]) == 1 end
  return held and held_host == host and above(held_version, seen) and held_version ~= version
end
"""

READ: Final = Script(
    _IS_DOCUMENT
    + """
local document = false
if document_type() == 'string' then document = redis.call('GET', KEYS[1]) end
return {document, redis.call('HGETALL', KEYS[2]), KEYS[4] and redis.call('ZSCORE', KEYS[4], ARGV[1])}
"""
)
"""ARGV: id. Returns document or nil, meta as a flat list, last beat or nil."""

SAVE: Final = Script(
    _EXTEND
    + _IS_DOCUMENT
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
    _EXTEND
    + _IS_DOCUMENT
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
"""
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
    """
local live = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    live[#live + 1] = id
  else
    redis.call('SREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return live
"""
)
"""KEYS: active set, heartbeats. ARGV: prefix, ids. Returns those whose documents exist and removes the others."""

BEATS: Final = Script(
    _EXTEND
    + """
for i = 2, #ARGV, 2 do
  if redis.call('SISMEMBER', KEYS[1], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 1], ARGV[i])
  end
end
collect(KEYS[2], ARGV[1])
return 1
"""
)
"""KEYS: active set, heartbeats. ARGV: ttl in ms, then alternating ids and times. Skips sessions that are not
active: a beat written after its session's end would never be removed."""

_INFO = """
local function info(section, field)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and string.match(reply, field .. ':([^\\r\\n]*)') or ''
end
"""

MARK: Final = Script(
    _INFO
    + """
local found = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {found or '', info('server', 'run_id'), info('memory', 'maxmemory_policy')}
"""
)
"""KEYS: mark. ARGV: its new value, its ttl in ms. Returns the value before or an empty string, the server's run id,
and its eviction policy; empty strings where the user may not run INFO."""

CHECK: Final = Script(
    _STAMP
    + _INFO
    + """
local ttl, host, shared = ARGV[1], ARGV[2], ARGV[3] == '1'
local function renew(key)
  local left = redis.call('PTTL', key)
  if left < 0 or left >= ttl * 0.75 then return false end
  redis.call('PEXPIRE', key, ttl)
  return true
end
local at, deviating, evicts = 0, {''}, true
if shared then
  renew(KEYS[2])
  at, deviating, evicts = 3, {redis.call('GET', KEYS[3]) or ''}, info('stats', 'evicted_keys') ~= '0'
end
-- An ended session is not in the active set either way: it may have been evicted, and is rather kept.
local function was_deleted(id, live)
  return shared and redis.call('SISMEMBER', KEYS[1], id) == 0 and (live or not evicts)
end
for i = 4, #ARGV, 3 do
  local document, meta, id, live = KEYS[at + 1], KEYS[at + 2], ARGV[i], ARGV[i + 2] == '1'
  at = at + 2
  local held = redis.call('HMGET', meta, 'host', 'version', 'stamp')
  local there = redis.call('TYPE', document).ok == 'string'
  local found
  if held[2] and (held[1] ~= host or held[2] ~= ARGV[i + 1]) or there and not held[2] then
    found = 'other'
  elseif not there then
    found = was_deleted(id, live) and 'deleted' or 'missing'
  elseif held[3] ~= stamp_of(document) then
    found = 'changed'
  elseif live and renew(document) then
    redis.call('PEXPIRE', meta, ttl)
    found = 'renewed'
  end
  if found then
    deviating[#deviating + 1] = (i - 4) / 3
    deviating[#deviating + 1] = found
  end
end
return deviating
"""
)
"""KEYS: on a single server the active set, the host's set and its mark; then document and meta of each session.
ARGV: ttl in ms, host, whether those three are given, then each session's id, version, and whether it is live.

Returns the mark, empty if unknown; then alternating indexes and what was found instead of that version: `missing`;
`deleted`, so that it is not in the active set either; `changed` by software that knows no meta; `other`, a version
or host; or `renewed`, as a quarter of the TTL of a live session had passed."""

WRITE: Final = Script(
    _EXTEND
    + _IS_DOCUMENT
    + _STAMP
    + _FENCE
    + """
local id, prefix, host, epoch, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, active, beat = ARGV[6], ARGV[7] == '1', ARGV[8]
local deleted, document, seen, of_call, is_new =
  ARGV[9] == '1', ARGV[10], ARGV[11], ARGV[12] == '1', ARGV[13] == '1'
local seen_stamp = ARGV[14]
local shared = KEYS[3]

local held = redis.call('HMGET', KEYS[2], 'host', 'epoch', 'version', 'stamp')
local held_host, held_epoch, held_version = held[1] or '', digits(held[2]), digits(held[3])
if unseen(seen, held[3], held_host, held_version, host, version) then return {2} end
if held[3] and not takes(held_host, held_epoch, held_version, host, epoch, version) then
  return {0, held_host, held_epoch, held_version}
end
local kind = document_type()
if kind ~= 'string' and kind ~= 'none' then return foreign_key() end
local foreign = kind == 'string' and held[4] and held[4] ~= '' and held[4] ~= document_stamp()
if foreign and document_stamp() == seen_stamp then foreign = false end
if foreign and not is_new then return {2} end
local listed, ours
if shared then
  listed = redis.call('SISMEMBER', KEYS[3], id) == 1
  ours = redis.call('SISMEMBER', KEYS[5], id) == 1
  redis.call('ZSCORE', KEYS[4], id)
  redis.call('SISMEMBER', KEYS[6], id)
end

if foreign then
  redis.call('SET', string.gsub(KEYS[2], ':meta$', ':foreign'), redis.call('GET', KEYS[1]), 'PX', ttl)
end
local stamp = ''
if deleted then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], document, 'PX', ttl)
  stamp = document_stamp()
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'host', host, 'epoch', epoch, 'version', version, 'stamp', stamp,
           unpack(ARGV, 15))
redis.call('PEXPIRE', KEYS[2], ttl)
if not shared then return {1, foreign and 1 or 0} end
if active then
  if not listed then redis.call('SADD', KEYS[3], id) end
  if not ours then redis.call('SADD', KEYS[5], id) end
  collect(KEYS[5], ttl)
  if beat ~= '0' then
    redis.call('ZADD', KEYS[4], 'GT', beat, id)
    collect(KEYS[4], ttl)
  end
else
  redis.call('SREM', KEYS[3], id)
  redis.call('SREM', KEYS[5], id)
  redis.call('ZREM', KEYS[4], id)
end
if of_call then
  redis.call('SADD', KEYS[6], id)
  collect(KEYS[6], ttl)
end
if held_host ~= '' and held_host ~= host then
  redis.call('SREM', prefix .. '@host:' .. held_host .. ':sessions', id)
end
return {1, foreign and 1 or 0}
"""
)
"""KEYS: the session's, then the host's set and that of the call; on a cluster only document and meta, as the others
are in other slots. ARGV: id, prefix, host, epoch, version, ttl in ms, whether it is active, last beat in ms or 0,
whether it is a tombstone, document, `seen` or empty, whether it has a call id, whether it has changes that the
store never had, the stamp of other software's document that it takes into account, then meta's other fields.

Returns `{1, set aside}` if written, `{2}` if the store has a state to be read first, else `{0, host, epoch,
version}` of what it has. A document that other software has changed since our last write is set aside, under meta's
key with `:foreign` for `:meta`, before a change of ours replaces it."""

PATCH: Final = Script(
    _IS_DOCUMENT
    + _STAMP
    + _FENCE
    + """
local host, epoch, version, base, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local held = redis.call('HMGET', KEYS[2], 'host', 'epoch', 'version', 'stamp')
if held[1] ~= host or held[3] ~= base or above(digits(held[2]), epoch) then return {3} end
if document_type() ~= 'string' or held[4] ~= document_stamp() then return {3} end

local at = 7
for _ = 1, tonumber(ARGV[6]) do
  redis.call('SETRANGE', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local removed = tonumber(ARGV[at])
if removed > 0 then redis.call('HDEL', KEYS[2], unpack(ARGV, at + 1, at + removed)) end
redis.call('HSET', KEYS[2], 'epoch', epoch, 'version', version, 'stamp', document_stamp(),
           unpack(ARGV, at + removed + 1))
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < ttl * 0.75 then
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('PEXPIRE', KEYS[2], ttl)
end
return {1, 0}
"""
)
"""KEYS: document, meta. ARGV: host, epoch, version, the version it was made for, ttl in ms, the number of changes,
their offsets and bytes, the number of meta's fields to remove, these, then the fields that changed. Returns `{1,
0}` if written, `{3}` if the store does not have what it was made for. A live session stays in the active set and in
its call's, so the shared keys are not touched. Its TTL is renewed when a quarter of it has passed."""
