"""The Lua scripts of leases, and of taking sessions over from another host; see scripts.py."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.redis.scripts import Script

RAISE: Final = Script(
    """
local instance, ttl, seize, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local counter = redis.call('GET', KEYS[1]) or '0'
local held = redis.call('HMGET', KEYS[2], 'instance', 'raised_ms')
if held[1] and held[1] ~= instance and not (held[1] == seize and counter == seen) then
  return {held[1], counter, ''}
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
counter = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('HSET', KEYS[2], 'instance', instance, 'raised_ms', string.format('%.0f', now_ms))
redis.call('PEXPIRE', KEYS[2], ttl)
return {instance, counter, held[2] and string.format('%.0f', math.max(0, now_ms - held[2])) or ''}
"""
)
"""KEYS: counter, holder. ARGV: instance, ttl in ms, the instance to take it from and the counter that it was seen
to have. Returns the instance that holds it, the counter, and how long ago it was raised before, in ms, or empty."""

TAKE: Final = Script(
    """
local host, seen_host, seen_epoch, epoch = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local owner, force, ttl = ARGV[6], ARGV[7] == '1', ARGV[8]
local held = redis.call('HMGET', KEYS[2], 'host', 'epoch', 'owner', 'state', 'deleted', 'ended_at', 'reaped',
                        'status_before', 'ended_reason')
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return {2} end
if held[1] ~= seen_host or held[2] ~= seen_epoch or held[5] == '1' then return {2} end
local has_ended = held[4] == 'ended' or (held[6] and held[6] ~= '')
local has_status = held[7] == '1' and held[8] and held[8] ~= ''
if has_ended and not (ARGV[10] == '1' and has_status) then return {2} end
local is_held = not has_ended and held[3] and held[3] ~= '' and held[4] ~= 'suspect' and held[4] ~= 'orphan'
if is_held and not force then return {0} end
local fields = redis.call('HGETALL', KEYS[2])
redis.call('HSET', KEYS[2], 'host', host, 'epoch', epoch, 'owner', owner,
           'state', owner == '' and 'orphan' or 'live', 'orphan', owner == '' and ARGV[9] or '')
if has_ended then
  redis.call('HSET', KEYS[2], 'ended_reason', '', 'ended_detail', '', 'ended_at', '', 'reaped', '0')
  if held[9] == 'max_duration' then redis.call('HSET', KEYS[2], 'max_duration_s', '') end
end
for _, key in ipairs({KEYS[1], KEYS[2]}) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
return {1, redis.call('GET', KEYS[1]), fields}
"""
)
"""KEYS: document, meta. ARGV: id, the host that takes it, the host and epoch it was seen to have, its new epoch,
its new owner or empty, whether to take it from an owner that is alive, ttl in ms, why it becomes an orphan, whether
to revive it where it was reaped. Returns `{1, document, meta before}`, `{0}` where it is held, `{2}` where it has
changed, ended or gone.

The document of a revived session says that it has ended until its new host writes it; `status_before` stays for
those who read it before that."""

POSSESSION: Final = Script(
    """
return redis.call('HMGET', KEYS[1], 'host', 'epoch', 'state', 'deleted', 'version')
""",
    repeatable=True,
)
"""KEYS: meta."""

NOTE_DEAD: Final = Script(
    """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms - ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""",
    repeatable=True,
)
"""KEYS: the dead hosts. ARGV: one of them, how long to remember it, ms."""

BEGIN_DUTY: Final = Script(
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
    repeatable=True,
)
"""KEYS: the duty's. ARGV: instance, ms. Returns 1 where this instance has it for so long from now on."""
