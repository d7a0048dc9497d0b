"""The scripts of the daemon: fenced writes, heartbeats, and comparing what the server has."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.redis.scripts import EXTEND, FENCE, INFO, IS_DOCUMENT, STAMP, Script

BEATS: Final = Script(
    EXTEND
    + """
for i = 2, #ARGV, 2 do
  if redis.call('SISMEMBER', KEYS[1], ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[2], 'GT', ARGV[i + 1], ARGV[i])
  end
end
collect(KEYS[2], ARGV[1])
return 1
""",
    repeatable=True,
)
"""KEYS: active set, heartbeats. ARGV: ttl in ms, then alternating ids and times. Skips sessions that are not
active: a beat written after its session's end would never be removed."""

MARK: Final = Script(
    INFO
    + """
local function parts(value) return string.match(value or '', '^(.*):(%d+)$') end
local found = redis.call('GET', KEYS[1])
local token, number = parts(found)
local new_token, new_number = parts(ARGV[1])
if token ~= new_token or tonumber(number) < tonumber(new_number) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
local run_id = ARGV[3] and info('server', 'run_id') or ''
return {found or '', run_id, run_id ~= ARGV[3] and run_id ~= '' and info('memory', 'maxmemory_policy') or ''}
""",
    repeatable=True,
)
"""A batch that timed out may be executed after those that came later, over other connections: the value never goes
back.

KEYS: mark. ARGV: its new value, its ttl in ms; then the run id that the server had, to look at it, which takes
longer than all the rest. Returns the value before, the server's run id and, if that is another one, its eviction
policy; empty texts for what is not known or not asked for, and where the user may not run INFO."""

CHECK: Final = Script(
    STAMP
    + INFO
    + """
local ttl, host, shared = ARGV[1], ARGV[2], ARGV[3] == '1'
local function renew(key)
  local left = redis.call('PTTL', key)
  if left < 0 or left >= ttl * 0.75 then return false end
  redis.call('PEXPIRE', key, ttl)
  return true
end
local at, deviating = 0, {''}
if shared then
  renew(KEYS[2])
  at, deviating = 3, {redis.call('GET', KEYS[3]) or ''}
end
-- An ended session is not in the active set either way: it may have been evicted, and is rather kept.
local function was_deleted(id, live)
  if not shared or redis.call('SISMEMBER', KEYS[1], id) == 1 then return false end
  return live or info('stats', 'evicted_keys') == '0'
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
""",
    repeatable=True,
)
"""KEYS: on a single server the active set, the host's set and its mark; then document and meta of each session.
ARGV: ttl in ms, host, whether those three are given, then each session's id, version, and whether it is live.

Returns the mark, empty if unknown; then alternating indexes and what was found instead of that version: `missing`;
`deleted`, so that it is not in the active set either; `changed` by software that knows no meta; `other`, a version
or host; or `renewed`, as a quarter of the TTL of a live session had passed."""

WRITE: Final = Script(
    EXTEND
    + IS_DOCUMENT
    + STAMP
    + FENCE
    + """
local id, prefix, host, epoch, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl, active, beat = ARGV[6], ARGV[7] == '1', ARGV[8]
local deleted, document, seen, of_call, is_new =
  ARGV[9] == '1', ARGV[10], ARGV[11], ARGV[12] == '1', ARGV[13] == '1'
local seen_stamp = ARGV[14]
local shared = KEYS[3]

local held = redis.call('HMGET', KEYS[2], 'host', 'epoch', 'version', 'stamp')
if unreadable(held) then
  if seen == '0' then return {2} end
  held = {}
end
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
key with `:foreign` for `:meta`, before a change of ours replaces it. A host, epoch or version that
can't be read counts as none, except for what must not replace anything: whoever replaces that has looked at it."""

PATCH: Final = Script(
    STAMP
    + FENCE
    + """
local ttl = ARGV[1]
local function patch(document, meta, at)
  local host, epoch, version, base = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local held = redis.call('HMGET', meta, 'host', 'epoch', 'version', 'stamp')
  if held[1] ~= host or held[3] ~= base or above(digits(held[2]), epoch) then return {3} end
  if redis.call('TYPE', document).ok ~= 'string' or held[4] ~= stamp_of(document) then return {3} end

  local length
  local changes = tonumber(ARGV[at + 4])
  local last = at + ARGV[at - 1] - 1
  at = at + 5
  for _ = 1, changes do
    length = redis.call('SETRANGE', document, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  local removed = tonumber(ARGV[at])
  if removed > 0 then redis.call('HDEL', meta, unpack(ARGV, at + 1, at + removed)) end
  local stamp = length .. ':' .. redis.call('GETRANGE', document, 0, 511)
  redis.call('HSET', meta, 'epoch', epoch, 'version', version, 'stamp', stamp,
             unpack(ARGV, at + removed + 1, last))
  local left = redis.call('PTTL', document)
  if left >= 0 and left < ttl * 0.75 then
    redis.call('PEXPIRE', document, ttl)
    redis.call('PEXPIRE', meta, ttl)
  end
  return {1, 0}
end

local replies, at = {}, 3
for i = 1, #KEYS, 2 do
  local ran, reply = pcall(patch, KEYS[i], KEYS[i + 1], at)
  if not ran then reply = type(reply) == 'table' and reply or {err = tostring(reply)} end
  replies[#replies + 1] = reply
  at = at + ARGV[at - 1] + 1
end
return replies
"""
)
"""KEYS: document and meta of each session. ARGV: ttl in ms; then for each session the number of words that follow:
host, epoch, version, the version it was made for, the number of changes (at least one), their offsets and bytes,
the number of meta's fields to remove, these, then the fields that changed.

Returns for each session `{1, 0}` if written, `{3}` if the store does not have what it was made for, or the error
that it failed with, which is no other session's. A live session stays in the active set and in its call's, so the
shared keys are not touched. Its TTL is renewed when a quarter of it has passed."""
