-- One commit: all of it, or a word why not. KEYS and texts come from redis-store.ts.
--   KEYS[1]  the session, a hash     KEYS[2]  ages, a sorted set: until when the fields that age are kept
--   ARGV[1]  time to live in ms      ARGV[2]  now in ms     ARGV[3]  for how long an ended stream is kept
--   ARGV[4]  the commit as JSON; its states, replies and entries are texts that nobody reads here
local session, ages = KEYS[1], KEYS[2]
local ttl, now, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local commit = cjson.decode(ARGV[4])

local function place(stream)
  return tonumber(redis.call('HGET', session, 'last:' .. stream) or '0')
end

-- Why not. The order matters: a known key is answered whatever the version is by now.
local reply = commit.reply and 'reply:' .. commit.reply.key
local stored = redis.call('HMGET', session, 'version', reply or 'version')
local version = tonumber(stored[1])
if commit.begin then
  if version then return { 'conflict' } end
  version = 0
elseif not version then
  return { 'gone' }
end
if reply and stored[2] then
  local kept = redis.call('ZSCORE', ages, reply)
  if kept and tonumber(kept) > now then return { 'answered', stored[2] } end
end
if commit.change and commit.change.from ~= version then return { 'conflict' } end
for _, part in ipairs(commit.append or {}) do
  if part.at ~= place(part.stream) + 1 then return { 'conflict' } end
end

-- All of it.
local fields = {}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if commit.begin then
  set('begin', commit.begin)
  set('state', '{}')
end
if commit.change then
  version = version + 1
  set('state', commit.change.state)
end
set('version', version)
if commit.settings then set('settings', commit.settings) end
if reply then
  set(reply, commit.reply.text)
  redis.call('ZADD', ages, now + commit.reply.keep, reply)
end
redis.call('HSET', session, unpack(fields))
for _, part in ipairs(commit.append or {}) do
  for offset, text in ipairs(part.entries) do
    redis.call('HSET', session, 'entry:' .. part.stream .. '.' .. (part.at + offset - 1), text)
  end
  local last = part.at + #part.entries - 1
  redis.call('HSET', session, 'last:' .. part.stream, last)
  if part.begins then redis.call('ZADD', ages, '+inf', 'stream:' .. part.stream) end
  if part.ends then redis.call('ZADD', ages, now + retention, 'stream:' .. part.stream) end
  redis.call('SPUBLISH', session, 'grown ' .. part.stream .. ' ' .. last)
end

-- What has aged goes in passing, a little with each commit.
for _, field in ipairs(redis.call('ZRANGE', ages, '-inf', now, 'BYSCORE', 'LIMIT', 0, 16)) do
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
