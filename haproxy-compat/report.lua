-- Takes in what one instance has to say of itself and of its sessions. By Redis' own clock.
--   KEYS[1]  instances, a hash of JSON       KEYS[2]  when each has reported, a sorted set
--   KEYS[3]  sessions, a hash of JSON        KEYS[4]  when each was used last, a sorted set
--   KEYS[5]  what went on elsewhere, a sorted set of JSON by when    KEYS[6]  who is drained, a hash
--   KEYS[7]  sessions that have ended, a sorted set by when
--   ARGV[1]  the report (board-store.ts)     ARGV[2]  what it says of the instance, as it is shown
--   ARGV[3]  how long an unused session lives, in ms
-- Answers 1 if the instance is to take no more calls.
local instances, reported, sessions, used, failovers, drained, ended = unpack(KEYS)
local report = cjson.decode(ARGV[1])
local me, run = report.instance, report.run
local ttl = tonumber(ARGV[3])
local MOST_SESSIONS, MOST_FAILOVERS = 1000, 50
local HOUR, DAY = 3600000, 86400000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function known(name)
  local text = redis.call('HGET', sessions, name)
  return text and cjson.decode(text)
end

-- Drops members of a sorted set, and their fields in the hash beside it.
local function forget(set, hash, names)
  if #names == 0 then return end
  redis.call('ZREM', set, unpack(names))
  if hash then redis.call('HDEL', hash, unpack(names)) end
end

-- First of all, while it is known who had them. A session that the same process restores was only idle.
for _, failover in ipairs(report.failovers) do
  local before = known(failover.name)
  local same = before and before.holder == me and before.run == run
  if not (same and failover.kind == 'restored') then
    local shown = { at = failover.at, kind = failover.kind, id = failover.id, tookMs = failover.tookMs }
    shown.instance = me
    if before then shown.from = before.holder end
    redis.call('ZADD', failovers, failover.at, cjson.encode(shown))
    redis.call('PEXPIRE', failovers, HOUR)
  end
end
forget(failovers, nil, redis.call('ZRANGE', failovers, 0, -1 - MOST_FAILOVERS))

for _, seen in ipairs(report.sessions) do
  local session = known(seen.name)
  local use = seen.use
  -- Who used it last may report that after another has ended it.
  if use and not session and not redis.call('ZSCORE', ended, seen.name) then
    session = { openedAt = use.openedAt, usedAt = 0, calls = 0, busy = {} }
  end
  if session then
    session.calls = session.calls + seen.calls
    session.busy[me] = nil
    if seen.streams + seen.running > 0 then
      session.busy[me] = { run = run, streams = seen.streams, running = seen.running }
    end
    if use then
      session.openedAt = math.min(session.openedAt, use.openedAt)
      session.id, session.principal = use.id, use.principal
      session.client, session.revision = use.client, use.revision
      if use.usedAt >= session.usedAt then
        session.usedAt, session.holder, session.run = use.usedAt, me, run
      end
      redis.call('ZADD', used, session.usedAt, seen.name)
    end
    redis.call('HSET', sessions, seen.name, cjson.encode(session))
  end
end
if #report.sessions > 0 then
  redis.call('PEXPIRE', sessions, ttl)
  redis.call('PEXPIRE', used, ttl)
end
forget(used, sessions, report.ended)
for _, name in ipairs(report.ended) do
  redis.call('ZADD', ended, now, name)
  redis.call('PEXPIRE', ended, ttl)
end
forget(ended, nil, redis.call('ZRANGE', ended, 0, -1 - MOST_SESSIONS))
forget(used, sessions, redis.call('ZRANGE', used, '-inf', now - ttl, 'BYSCORE', 'LIMIT', 0, MOST_SESSIONS))
forget(used, sessions, redis.call('ZRANGE', used, 0, -1 - MOST_SESSIONS))

redis.call('HSET', instances, me, ARGV[2])
redis.call('ZADD', reported, now, me)
forget(reported, instances, redis.call('ZRANGE', reported, '-inf', now - HOUR, 'BYSCORE'))
redis.call('PEXPIRE', instances, HOUR)
redis.call('PEXPIRE', reported, HOUR)

if not redis.call('HGET', drained, me) then return 0 end
redis.call('PEXPIRE', drained, DAY)
return 1
