"""The Lua scripts that run in Redis: what they have in common, and the one that reads.

Each change to a session is one script, so that it is atomic. Those of the daemon are in write_scripts.py, those of
RedisStore in store_scripts.py.

Every script reads first and writes afterwards. Redis does not roll back a script that fails halfway, so anything
that can fail (a key of another type) is checked before the first change. The first change is always a command that
Redis refuses when it is out of memory, because it does not refuse later ones.

KEYS of a session are always document, meta, active set, heartbeats (`Layout.session`).
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script and the SHA-1 that Redis knows it by.

    Args:
        text: in Lua.
        repeatable: run twice in a row, it leaves the same behind as run once, and the second reply does for both.
    """

    __slots__ = ("repeatable", "sha", "text")

    def __init__(self, text: str, *, repeatable: bool = False) -> None:
        self.text = text
        self.repeatable = repeatable
        # the identifier for EVALSHA; not used for security
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# TTLs only grow, because another writer may have set a longer one. `collect` is for keys of many ids, which must
# live as long as their youngest; `extend` does not touch a key without a TTL, which its writer chose to keep for
# ever.
EXTEND: Final = """
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
IS_DOCUMENT: Final = """
local function document_type() return redis.call('TYPE', KEYS[1]).ok end
local function foreign_key() return redis.error_reply('WRONGTYPE the document key holds another type') end
"""

# A document may be lost, evicted for example, while its session lives in a daemon's memory: meta is there still,
# and no tombstone. The id has to stay in the active set, or the daemon would take the loss for a deletion.
IS_KEPT: Final = """
local function is_kept(document)
  local held = redis.call('HMGET', '{' .. document .. '}:meta', 'version', 'deleted')
  return held[1] and held[2] ~= '1'
end
"""

# What the document was when a daemon last wrote it: its length and first bytes. Software that knows no meta changes
# the document alone, so that it no longer has its stamp.
STAMP: Final = """
local function stamp_of(key)
  return redis.call('STRLEN', key) .. ':' .. redis.call('GETRANGE', key, 0, 511)
end
local function document_stamp() return stamp_of(KEYS[1]) end
"""

# Versions go up to 2^63 and Lua's numbers are doubles: compared as digits, the longer being the larger.
# `unreadable` is the opposite of `is_readable` (engine/sessions/stored_meta.py).
FENCE: Final = """
local function digits(text)
  return text and string.match(text, '^0*(%d+)$') or '0'
end
local function above(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end
local function is_number(text)
  return not text or string.match(text, '^%d+$') and not above(digits(text), '9223372036854775807')
end
local function unreadable(held)
  return not (is_number(held[2]) and is_number(held[3]) and #(held[1] or '') <= 64)
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

INFO: Final = """
local function info(section, field)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and string.match(reply, field .. ':([^\\r\\n]*)') or ''
end
"""

READ: Final = Script(
    IS_DOCUMENT
    + """
local document, meta, kind, meta_kind = false, {}, document_type(), redis.call('TYPE', KEYS[2]).ok
local unread = 0
if kind == 'string' then
  unread = redis.call('STRLEN', KEYS[1])
  if not ARGV[2] or unread <= tonumber(ARGV[2]) then document, unread = redis.call('GET', KEYS[1]), 0 end
end
if meta_kind == 'hash' then meta = redis.call('HGETALL', KEYS[2]) end
local beat = KEYS[4] and redis.call('ZSCORE', KEYS[4], ARGV[1]) or false
local foreign = kind ~= 'string' and kind ~= 'none' or meta_kind ~= 'hash' and meta_kind ~= 'none'
return {document, meta, beat, foreign and 1 or 0, unread}
""",
    repeatable=True,
)
"""ARGV: id, most bytes (left out: any number). Returns document or nil, meta as a flat list, last beat or nil,
whether one of the keys holds another type, so that nothing can be written in its place, and the length of a
document that has more bytes, which is not read."""
