-- One commit: all of it, or a word why not. KEYS and texts come from redis-store.ts.
--   KEYS[1]  the session, a hash     KEYS[2]  ages, a sorted set: when the fields that age were written
--   ARGV[1]  time to live in ms      ARGV[2]  now in ms     ARGV[3]  what is older than this may go
--   ARGV[4]  the commit as JSON; its states, replies and entries are texts that nobody reads here
local session, ages = KEYS[1], KEYS[2]
local ttl, now, old = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local commit = cjson.decode(ARGV[4])

local function place(stream)
  return tonumber(redis.call('HGET', session, 'last:' .. stream) or '0')
end

-- Why not. The order matters: a known key is answered whatever the version is by now.
local known = redis.call('EXISTS', session) == 1
if commit.begin then
  if known then return { 'conflict' } end
elseif not known then
  return { 'gone' }
end
if commit.reply then
  local field = 'reply:' .. commit.reply.key
  local written = redis.call('ZSCORE', ages, field)
  if written and tonumber(written) > tonumber(old) then
    return { 'answered', redis.call('HGET', session, field) }
  end
end
local version = tonumber(redis.call('HGET', session, 'version') or '0')
if commit.change and commit.change.from ~= version then return { 'conflict' } end
for _, part in ipairs(commit.append or {}) do
  if part.at ~= place(part.stream) + 1 then return { 'conflict' } end
end

-- All of it.
if commit.begin then
  redis.call('HSET', session, 'begin', commit.begin, 'version', 0, 'state', '{}')
end
if commit.change then
  version = version + 1
  redis.call('HSET', session, 'version', version, 'state', commit.change.state)
end
if commit.settings then redis.call('HSET', session, 'settings', commit.settings) end
if commit.reply then
  local field = 'reply:' .. commit.reply.key
  redis.call('HSET', session, field, commit.reply.text)
  redis.call('ZADD', ages, now, field)
end
for _, part in ipairs(commit.append or {}) do
  for offset, text in ipairs(part.entries) do
    redis.call('HSET', session, 'entry:' .. part.stream .. '.' .. (part.at + offset - 1), text)
  end
  local last = part.at + #part.entries - 1
  redis.call('HSET', session, 'last:' .. part.stream, last)
  if part.ends then redis.call('ZADD', ages, now, 'stream:' .. part.stream) end
end

-- What has aged goes in passing, a little with each commit.
for _, field in ipairs(redis.call('ZRANGE', ages, '-inf', old, 'BYSCORE', 'LIMIT', 0, 16)) do
  redis.call('ZREM', ages, field)
  local stream = string.match(field, '^stream:(.*)')
  if stream then
    for at = 1, place(stream) do redis.call('HDEL', session, 'entry:' .. stream .. '.' .. at) end
    redis.call('HDEL', session, 'last:' .. stream)
  else
    redis.call('HDEL', session, field)
  end
end
redis.call('PEXPIRE', session, ttl)
redis.call('PEXPIRE', ages, ttl)
return { 'committed', version }
