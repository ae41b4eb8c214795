-- One commit: all of it, or a word why not. KEYS and texts come from redis-store.ts; nobody reads the
-- texts here. What a commit does not have is ''.
--   KEYS[1]  the session, a hash     KEYS[2]  ages, a sorted set: until when the fields that age are kept
--   ARGV[1]  time to live in ms      ARGV[2]  now in ms     ARGV[3]  until when an ended stream is kept
--   ARGV[4]  begin                   ARGV[5]  the version that is changed     ARGV[6]  the new state
--   ARGV[7]  settings                ARGV[8]  a reply's field     ARGV[9]  until when it is kept: a time, or
--                                                                     'stream:' and the stream it goes with
--   ARGV[10] the attempt's number    ARGV[11] the reply
--   ARGV[12] how many replies and ended streams are kept
--   ARGV[13] and on: for each stream its id, the place of the first entry, 'begins', 'ends', both or '',
--            how many entries, and these
-- Most commits are one change with its reply. For these, what is not needed is not made.
local call, session, ages = redis.call, KEYS[1], KEYS[2]
local begin, from, reply = ARGV[4], ARGV[5], ARGV[8]

local function last(stream)
  return tonumber(call('HGET', session, 'last:' .. stream) or '0')
end

-- A use: both keys live on, and end together. (To Redis 7.0 it is later with each command.)
local function live_on()
  call('PEXPIRE', session, ARGV[1])
  call('PEXPIREAT', ages, call('PEXPIRETIME', session))
end

local appends = {}
local at = 13
while ARGV[at] do
  local count = tonumber(ARGV[at + 3])
  appends[#appends + 1] = { stream = ARGV[at], place = tonumber(ARGV[at + 1]), mark = ARGV[at + 2], first = at + 4, count = count }
  at = at + 4 + count
end

-- Why not. The order matters: a known key is answered whatever the version is by now.
local stored = call('HMGET', session, 'version', reply)
local version, known = stored[1], stored[2]
if begin ~= '' then
  if version then return { 'conflict' } end
  version = '0'
elseif not version then
  return { 'gone' }
end
local kept
if known then
  local number
  kept, number = string.match(known, '^(%S+) (%d+) ')
  local ahead = number - ARGV[10]
  if ahead >= 0 and (tonumber(kept) or math.huge) > tonumber(ARGV[2]) then
    -- Its router has gone on since: the reply could reach nobody.
    if ahead > 0 then return { 'conflict' } end
    -- A use, and a write: who waits for replicas on this connection waits for the record, too.
    live_on()
    return { 'answered', known }
  end
end
if from ~= '' and from ~= version then return { 'conflict' } end
for _, part in ipairs(appends) do
  if part.place ~= last(part.stream) + 1 then return { 'conflict' } end
end

-- All of it.
if begin ~= '' then call('HSET', session, 'begin', begin, 'state', '{}', 'version', version) end
if ARGV[7] ~= '' then call('HSET', session, 'settings', ARGV[7]) end
if from ~= '' then
  version = version + 1
  call('HSET', session, 'state', ARGV[6], 'version', version)
  call('SPUBLISH', session, 'changed ' .. version)
end
if reply ~= '' then
  call('HSET', session, reply, ARGV[9] .. ' ' .. ARGV[10] .. ' ' .. ARGV[11])
  if string.find(ARGV[9], '^stream:') then
    call('HSET', session, 'on:' .. ARGV[9], reply)
    call('ZREM', ages, reply)
  elseif kept ~= ARGV[9] then
    call('ZADD', ages, ARGV[9], reply)
  end
end
local grown = 0
for _, part in ipairs(appends) do
  for offset = 0, part.count - 1 do
    call('HSET', session, 'entry:' .. part.stream .. '.' .. (part.place + offset), ARGV[part.first + offset])
  end
  local place = part.place + part.count - 1
  call('HSET', session, 'last:' .. part.stream, place)
  if string.find(part.mark, 'begins') then call('ZADD', ages, '+inf', 'stream:' .. part.stream) end
  if string.find(part.mark, 'ends') then call('ZADD', ages, ARGV[3], 'stream:' .. part.stream) end
  -- Of what is said outside calls the last 1024 are kept. The streams of calls are among the ages.
  if place > 1024 and not call('ZSCORE', ages, 'stream:' .. part.stream) then
    for gone = math.max(part.place - 1024, 1), place - 1024 do
      call('HDEL', session, 'entry:' .. part.stream .. '.' .. gone)
    end
  end
  call('SPUBLISH', session, 'grown ' .. part.stream .. ' ' .. place)
  grown = grown + place
end

-- What has aged goes in passing, some with each sixteenth commit; and if there is too much, what ages next.
if (version + grown) % 16 == 0 then
  local function forget(latest, count)
    local gone = call('ZRANGE', ages, '-inf', latest, 'BYSCORE', 'LIMIT', 0, count)
    for _, field in ipairs(gone) do
      local stream = string.match(field, '^stream:(.*)')
      if stream then
        for place = 1, last(stream) do call('HDEL', session, 'entry:' .. stream .. '.' .. place) end
        local on = call('HGET', session, 'on:' .. field)
        if on then call('HDEL', session, on, 'on:' .. field) end
        call('HDEL', session, 'last:' .. stream)
      end
    end
    if #gone > 0 then
      call('HDEL', session, unpack(gone))
      call('ZREM', ages, unpack(gone))
    end
  end
  forget(ARGV[2], 64)
  local over = call('ZCARD', ages) - ARGV[12]
  if over > 0 then forget('(+inf', math.min(over, 64)) end
end
live_on()
return { 'committed', version }
