"""The Lua scripts: whatever must happen as a whole, or by Redis' own clock, is one of these.

Rules they keep:

* A message is in exactly one place. Whoever moves one out of ``unacked`` first deletes its tag there, and goes on only
  if it was there to delete: so an ack, a replacement and a restore of the same delivery exclude each other.
* Messages are never decoded here, for cjson turns ``[]`` into ``{}``: their text is put between other text.
* The first write is one that frees memory. Redis refuses a script that begins with one that may grow when its memory is
  full, but lets a script that has written go on: consuming, which makes room, must not stop then. Publishing must.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Argument = str | bytes | int | float


@dataclass(frozen=True)
class Script:
    """A script's text."""

    text: str

    @cached_property
    def sha(self) -> str:
        """What Redis knows it by, once it was sent."""
        return hashlib.sha1(self.text.encode()).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: Argument) -> ScriptCall:
        """A call of it, for ``Link.call``."""
        return ScriptCall(self, (len(keys), *keys, *arguments))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A script with its keys and arguments."""

    script: Script
    arguments: tuple[Argument, ...]

    @property
    def by_sha(self) -> tuple[Argument, ...]:
        return ("EVALSHA", self.script.sha, *self.arguments)

    @property
    def by_text(self) -> tuple[Argument, ...]:
        return ("EVAL", self.script.text, *self.arguments)


SESSION_OVER = "SESSIONOVER"  # the code of the error that says so

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_USABLE = """
local function usable(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'list' or kind == 'none'
end
"""
_FREE = "redis.call('ZREM', KEYS[1], '')\n"  # frees nothing, but counts as a write that might

# KEYS: sessions. ARGV: session, lease (ms). Begins a session.
BEGIN = Script(_CLOCK + _FREE + "redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])")

# KEYS: sessions, held. ARGV: session. Ends a session that holds nothing any more; what it holds is swept otherwise.
END = Script("""
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
""")

# KEYS: sessions, unacked_index, parked. ARGV: session, lease (ms), visibility timeout (s).
# Renews the session's lease. Returns: whether the session is still there; whether there are dead sessions; whether
# there are messages whose visibility timeout is over; in how many milliseconds a parked message is due, -1: none is.
RENEW = Script(
    _CLOCK
    + _FREE
    + """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {0, 0, 0, -1} end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)
local stale = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1] - ARGV[3], 'LIMIT', 0, 1)
local parked = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local due = -1
if parked[2] then due = math.max(0, parked[2] - now) end
return {1, #dead, #stale, due}
"""
)

# KEYS: unacked_index, held. ARGV: first and last rank in held. Tells Celery's workers that these messages are in hand.
# Returns how many there were.
TOUCH = Script(
    _CLOCK
    + _FREE
    + """
local tags = redis.call('ZRANGE', KEYS[2], ARGV[1], ARGV[2])
for _, tag in ipairs(tags) do redis.call('ZADD', KEYS[1], 'XX', time[1], tag) end
return #tags
"""
)

# KEYS: sessions, held, unacked, unacked_index, then four lists a queue.
# ARGV: session, prefix of its tags, number of the first tag, how many at most, in strict order (1) or by weight (0);
# then for each queue: its weight and credit, how many at most, and what stands behind its messages in unacked.
# Takes messages: in strict order from the first queue that has any, and from none behind one that may have more than
# may be taken from it, or those would fill the slots meanwhile; by weight in smooth weighted round robin (each pick
# every queue gains its weight, the richest is picked and pays the sum of all), where the credit lives on from take to
# take, and an empty queue has none. Returns queue and message of each in the order of delivery, the queues' credits,
# and what is wrong with a queue's key. If unacked cannot be written to (rights, a key of another kind), all goes back.
# Times in unacked_index are whole seconds: Redis keeps a short sorted set as a list, reads the scores in it one by one
# for each member that is added, and is slow at reading fractions.
TAKE = Script(
    _CLOCK
    + _FREE
    + f"""
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return redis.error_reply('{SESSION_OVER} its lease ran out') end
"""
    + """
local number, room, strict = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local open, weight, credit, most, list, taken, problem = {}, {}, {}, {}, {}, {}, ''
local tags, lists, entries, index, held = {}, {}, {}, {}, {}
for queue = 1, (#KEYS - 4) / 4 do
  open[queue], list[queue] = queue, queue * 4 + 1
  weight[queue], credit[queue] = tonumber(ARGV[queue * 4 + 2]), tonumber(ARGV[queue * 4 + 3])
  most[queue] = tonumber(ARGV[queue * 4 + 4])
end
local function pop(queue)
  while list[queue] <= queue * 4 + 4 and most[queue] > 0 do
    local message = redis.pcall('RPOP', KEYS[list[queue]])
    if type(message) == 'string' then return message end
    if message then problem = KEYS[list[queue]] .. ': ' .. message.err end
    list[queue] = list[queue] + 1
  end
end
local function richest()
  local best = 1
  for index, queue in ipairs(open) do
    if credit[queue] + weight[queue] > credit[open[best]] + weight[open[best]] then best = index end
  end
  return best
end
local function pay(payer)
  for _, queue in ipairs(open) do
    credit[queue] = credit[queue] + weight[queue]
    credit[payer] = credit[payer] - weight[queue]
  end
end
local function add(values, first, second) values[#values + 1], values[#values + 2] = first, second end
while room > 0 and #open > 0 do
  local best = strict and 1 or richest()
  local queue = open[best]
  local message = pop(queue)
  if message then
    local tag = ARGV[2] .. number
    tags[#tags + 1], lists[#lists + 1] = tag, KEYS[list[queue]]
    add(taken, queue - 1, message)
    add(entries, tag, '[' .. message .. ARGV[queue * 4 + 5])
    add(index, time[1], tag)
    add(held, number, tag)
    number, room, most[queue] = number + 1, room - 1, most[queue] - 1
    pay(queue)
    if strict and most[queue] == 0 then break end
  else
    credit[queue] = 0
    table.remove(open, best)
  end
end
if #tags == 0 then return {taken, credit, problem} end
for _, write in ipairs({{'HSET', KEYS[3], entries}, {'ZADD', KEYS[4], index}, {'ZADD', KEYS[2], held}}) do
  local reply = redis.pcall(write[1], write[2], unpack(write[3]))
  if type(reply) == 'table' and reply.err then
    for _, undo in ipairs({{'HDEL', KEYS[3]}, {'ZREM', KEYS[4]}, {'ZREM', KEYS[2]}}) do
      redis.pcall(undo[1], undo[2], unpack(tags))
    end
    for number = #lists, 1, -1 do redis.call('RPUSH', lists[number], taken[number * 2]) end
    return reply
  end
end
return {taken, credit, problem}
"""
)

# KEYS: unacked, unacked_index, held. ARGV: tags. Returns how many of them were there.
ACK = Script("""
redis.call('ZREM', KEYS[2], unpack(ARGV))
redis.call('ZREM', KEYS[3], unpack(ARGV))
return redis.call('HDEL', KEYS[1], unpack(ARGV))
""")

# KEYS: sessions, unacked, unacked_index, sweeper. ARGV: prefix of held keys, how many at most, visibility timeout (s),
# how long nobody else sweeps (ms), prefix of sessions' tags.
# Finds messages whose consumer is dead. Returns the dead session, tags, and what stands in unacked of each; the session
# is '' for Celery's messages. Nothing if somebody else sweeps.
LOOK = Script(
    _CLOCK
    + _FREE
    + """
if not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[4]) then return {} end
local session = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1] or ''
local tags = {}
if session ~= '' then
  tags = redis.call('ZRANGE', ARGV[1] .. session, -ARGV[2], -1)
  if #tags == 0 then redis.call('ZREM', KEYS[1], session) end
else
  for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', time[1] - ARGV[3], 'LIMIT', 0, ARGV[2])) do
    local owner = string.match(tag, '^' .. ARGV[5] .. '([^:]*):')
    if not owner or not redis.call('ZSCORE', KEYS[1], owner) then tags[#tags + 1] = tag end
  end
end
if #tags == 0 then
  redis.call('DEL', KEYS[4])
  return {}
end
return {session, tags, redis.call('HMGET', KEYS[2], unpack(tags))}
"""
)

# KEYS: sessions, unacked, unacked_index, sweeper, held, then lists, in the order in which the messages name them.
# ARGV: "own", "dead" or "stale"; the session; visibility timeout (s); then for each message: tag, message, how many
# lists.
# Puts messages back where they are taken next: all of our own; others if the session is still dead, or the tag still
# stale. Returns how many went back, and a key that can take none: its messages stay where they are.
RESTORE = Script(
    _CLOCK
    + _USABLE
    + """
local problem = ''
local session = ARGV[1] == 'dead' and redis.call('ZSCORE', KEYS[1], ARGV[2])
local restored, list = 0, 6
for index = 4, #ARGV, 3 do
  local tag, message, lists = ARGV[index], ARGV[index + 1], tonumber(ARGV[index + 2])
  local may = not session or tonumber(session) <= now
  if ARGV[1] == 'stale' then
    local taken = redis.call('ZSCORE', KEYS[3], tag)
    may = taken and tonumber(taken) <= time[1] - ARGV[3]
  end
  for key = list, list + lists - 1 do
    if may and not usable(KEYS[key]) then may, problem = false, KEYS[key] .. ' is no list' end
  end
  if may then
    redis.call('ZREM', KEYS[3], tag)
    redis.call('ZREM', KEYS[5], tag)
    if redis.call('HDEL', KEYS[2], tag) == 1 then
      restored = restored + 1
      for key = list, list + lists - 1 do redis.call('RPUSH', KEYS[key], message) end
    end
  end
  list = list + lists
end
if ARGV[1] ~= 'own' then redis.call('DEL', KEYS[4]) end
return {restored, problem}
"""
)

# KEYS: published, parked, unacked, unacked_index, then lists, in the order in which the messages name them.
# ARGV: how long published is kept (s), then for each message: held key and tag of the delivery that it replaces, or '';
# how long it is parked (ms); when its lists expire (ms, 0: never); the message; how many lists.
# Publishes all, once: called again it only says again what came of it, a digit a message, 0: the delivery that it was
# to replace is not ours any more. Publishes nothing if one of the lists is something else.
PUBLISH = Script(
    _CLOCK
    + _USABLE
    + """
local before = redis.call('GET', KEYS[1])
if before then return before end
for list = 5, #KEYS do
  if KEYS[list] ~= KEYS[list - 1] and not usable(KEYS[list]) then
    return redis.error_reply('WRONGTYPE ' .. KEYS[list] .. ' is no list')
  end
end
redis.call('SET', KEYS[1], '', 'EX', ARGV[1])
local result, list = '', 5
local function put(key, message, delay, expires)
  if delay > 0 then return redis.call('ZADD', KEYS[2], now + delay, key .. '\\0' .. message) end
  redis.call('LPUSH', key, message)
  if expires > 0 then redis.call('PEXPIRE', key, expires) end
end
for index = 2, #ARGV, 6 do
  local held, tag, lists = ARGV[index], ARGV[index + 1], tonumber(ARGV[index + 5])
  local ours = tag == '' or redis.call('HDEL', KEYS[3], tag) == 1
  if ours and tag ~= '' then
    redis.call('ZREM', KEYS[4], tag)
    redis.call('ZREM', held, tag)
  end
  for key = list, list + lists - 1 do
    if ours then put(KEYS[key], ARGV[index + 4], tonumber(ARGV[index + 2]), tonumber(ARGV[index + 3])) end
  end
  list = list + lists
  result = result .. (ours and '1' or '0')
end
redis.call('SET', KEYS[1], result, 'EX', ARGV[1])
return result
"""
)

# KEYS: parked. ARGV: how many at most, after how long to try again (ms). Moves what is due to its list. Returns how
# many, and a key that can take none: its messages stay parked.
PROMOTE = Script(
    _CLOCK
    + _USABLE
    + """
local moved, problem = 0, ''
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local cut = string.find(member, '\\0', 1, true)
  local list = string.sub(member, 1, cut - 1)
  if usable(list) then
    redis.call('ZREM', KEYS[1], member)
    redis.call('LPUSH', list, string.sub(member, cut + 1))
    moved = moved + 1
  else
    redis.call('ZADD', KEYS[1], now + ARGV[2], member)
    problem = list .. ' is no list'
  end
end
return {moved, problem}
"""
)

# KEYS: bindings and permanent bindings of an exchange. ARGV: the binding.
BIND = Script("""
redis.call('SREM', KEYS[1], '')
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
""")
