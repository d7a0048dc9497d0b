"""The Lua scripts that look at what Redis has without changing it; see scripts.py."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.redis.scripts import IS_KEPT, Script

EXAMINE: Final = Script(
    """
local active = ARGV[1] == '1' and KEYS[1]
local at, flawed = active and 1 or 0, {}
local kind = active and redis.call('TYPE', active).ok
local listable = kind == 'set' or kind == 'none'
for i = 2, #ARGV, 2 do
  local document, meta, live = KEYS[at + 1], KEYS[at + 2], ARGV[i + 1] == '1'
  at = at + 2
  local document_type, meta_type = redis.call('TYPE', document).ok, redis.call('TYPE', meta).ok
  local flaw
  if document_type ~= 'string' and document_type ~= 'none' or meta_type ~= 'hash' and meta_type ~= 'none' then
    flaw = 'wrong_type'
  elseif redis.call('PTTL', document) == -1 or redis.call('PTTL', meta) == -1 then
    flaw = 'no_ttl'
  elseif listable and (redis.call('SISMEMBER', active, ARGV[i]) == 1) ~= live then
    flaw = live and 'unlisted' or 'listed'
  end
  if flaw then
    flawed[#flawed + 1] = (i - 2) / 2
    flawed[#flawed + 1] = flaw
  end
end
return flawed
""",
    repeatable=True,
)
"""KEYS: the active set on a single server, then document and meta of each session. ARGV: whether the active set is
given, then each session's id and whether it is live. Returns alternating indexes and flaws (`Flaw`)."""

ABSENT: Final = Script(
    IS_KEPT
    + """
local absent = {}
for i = 2, #ARGV do
  local document = ARGV[1] .. ARGV[i]
  if redis.call('EXISTS', document) == 0 and not is_kept(document) then absent[#absent + 1] = ARGV[i] end
end
return absent
""",
    repeatable=True,
)
"""KEYS: active set. ARGV: prefix, ids. Returns those without a document, unless their daemon is about to write
them again. Not for a cluster."""

PROBE: Final = Script(
    """
local denied = {}
local function try(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  local text = type(reply) == 'table' and reply.err or ''
  if string.find(text, 'ACL failure') or string.find(text, 'executing the script') then
    denied[#denied + 1] = command
  end
end
for _, key in ipairs(KEYS) do
  try(key, 'SET', '', 'PX', 1000)
  for _, command in ipairs({'GET', 'STRLEN', 'EXISTS', 'TYPE', 'PTTL', 'INCR', 'HGETALL'}) do try(key, command) end
  try(key, 'GETRANGE', 0, 0)
  try(key, 'SETRANGE', 0, 'x')
  try(key, 'HSET', 'f', 'x')
  try(key, 'HMGET', 'f')
  try(key, 'HDEL', 'f')
  for _, command in ipairs({'SADD', 'SREM', 'SISMEMBER', 'ZSCORE', 'ZREM'}) do try(key, command, 'x') end
  try(key, 'ZADD', 1, 'x')
  try(key, 'ZRANGE', 0, 0)
  try(key, 'ZREMRANGEBYSCORE', 0, 0)
  try(key, 'PEXPIRE', 1000)
  try(key, 'DEL')
end
for _, command in ipairs({'TIME', 'INFO'}) do
  local reply = redis.pcall(command)
  if type(reply) == 'table' and reply.err then denied[#denied + 1] = command end
end
return denied
""",
    repeatable=True,
)
"""KEYS: keys that hold nothing. Tries each command of the scripts on each of them, whose types need not fit, as
rights are checked first. Returns the commands that the user may not run."""
