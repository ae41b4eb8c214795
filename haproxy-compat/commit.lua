-- One commit: all of it, or a word why not. KEYS and texts come from redis-store.ts; nobody reads the
-- texts here. What a commit does not have is ''.
--   KEYS[1]  the session, a hash     KEYS[2]  ages, a sorted set: until when the fields that age are kept
--   ARGV[1]  time to live in ms      ARGV[2]  now in ms     ARGV[3]  until when an ended stream is kept
--   ARGV[4]  begin                   ARGV[5]  the version that is changed     ARGV[6]  the new state
--   ARGV[7]  settings                ARGV[8]  a reply's field     ARGV[9]  until when it is kept
--   ARGV[10] the reply               ARGV[11] how many replies and ended streams are kept
--   ARGV[12] and on: for each stream its id, the place of the first entry, 'begins', 'ends', both or '',
--            how many entries, and these
local session, ages = KEYS[1], KEYS[2]
local begin, from, reply = ARGV[4], ARGV[5], ARGV[8]

local appends = {}
local at = 12
while at <= #ARGV do
  local count = tonumber(ARGV[at + 3])
  appends[#appends + 1] = { stream = ARGV[at], place = tonumber(ARGV[at + 1]), mark = ARGV[at + 2], first = at + 4, count = count }
  at = at + 4 + count
end

local function last(stream)
  return tonumber(redis.call('HGET', session, 'last:' .. stream) or '0')
end

-- Why not. The order matters: a known key is answered whatever the version is by now.
local stored = redis.call('HMGET', session, 'version', reply)
local version = tonumber(stored[1])
if begin ~= '' then
  if version then return { 'conflict' } end
  version = 0
elseif not version then
  return { 'gone' }
end
if stored[2] then
  local kept = redis.call('ZSCORE', ages, reply)
  if kept and tonumber(kept) > tonumber(ARGV[2]) then
    -- A use, and a write: who waits for replicas on this connection waits for the record, too.
    redis.call('PEXPIRE', session, ARGV[1])
    redis.call('PEXPIRE', ages, ARGV[1])
    return { 'answered', stored[2] }
  end
end
if from ~= '' and tonumber(from) ~= version then return { 'conflict' } end
for _, part in ipairs(appends) do
  if part.place ~= last(part.stream) + 1 then return { 'conflict' } end
end

-- All of it.
local fields = {}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if begin ~= '' then
  set('begin', begin)
  set('state', '{}')
end
if from ~= '' then
  version = version + 1
  set('state', ARGV[6])
  redis.call('SPUBLISH', session, 'changed ' .. version)
end
set('version', version)
if ARGV[7] ~= '' then set('settings', ARGV[7]) end
if reply ~= '' then
  set(reply, ARGV[10])
  redis.call('ZADD', ages, ARGV[9], reply)
end
redis.call('HSET', session, unpack(fields))
local grown = 0
for _, part in ipairs(appends) do
  for offset = 0, part.count - 1 do
    redis.call('HSET', session, 'entry:' .. part.stream .. '.' .. (part.place + offset), ARGV[part.first + offset])
  end
  local place = part.place + part.count - 1
  redis.call('HSET', session, 'last:' .. part.stream, place)
  if string.find(part.mark, 'begins') then redis.call('ZADD', ages, '+inf', 'stream:' .. part.stream) end
  if string.find(part.mark, 'ends') then redis.call('ZADD', ages, ARGV[3], 'stream:' .. part.stream) end
  redis.call('SPUBLISH', session, 'grown ' .. part.stream .. ' ' .. place)
  grown = grown + place
end

-- What has aged goes in passing, some with each sixteenth commit; and if there is too much, what ages next.
local function forget(latest, count)
  local gone = redis.call('ZRANGE', ages, '-inf', latest, 'BYSCORE', 'LIMIT', 0, count)
  for _, field in ipairs(gone) do
    local stream = string.match(field, '^stream:(.*)')
    if stream then
      for place = 1, last(stream) do redis.call('HDEL', session, 'entry:' .. stream .. '.' .. place) end
      redis.call('HDEL', session, 'last:' .. stream)
    end
  end
  if #gone > 0 then
    redis.call('HDEL', session, unpack(gone))
    redis.call('ZREM', ages, unpack(gone))
  end
end
if (version + grown) % 16 == 0 then
  forget(ARGV[2], 64)
  local over = redis.call('ZCARD', ages) - ARGV[11]
  if over > 0 then forget('(+inf', math.min(over, 64)) end
end
redis.call('PEXPIRE', session, ARGV[1])
redis.call('PEXPIRE', ages, ARGV[1])
return { 'committed', version }
