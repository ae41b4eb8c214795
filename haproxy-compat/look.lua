-- All that the board shows, at one moment. By Redis' own clock. KEYS as in report.lua.
--   ARGV[1]  how many sessions are shown     ARGV[2]  how many failovers
-- Answers the time, the instances (name, when it has reported, JSON), the sessions (name, JSON), how
-- many there are, and the failovers (JSON).
local instances, reported, sessions, used, failovers = unpack(KEYS)
local time = redis.call('TIME')

local function texts(hash, names)
  if #names == 0 then return {} end
  return redis.call('HMGET', hash, unpack(names))
end

local names = redis.call('ZRANGE', reported, 0, -1)
local shown = {}
for at, text in ipairs(texts(instances, names)) do
  if text then
    for _, part in ipairs({ names[at], redis.call('ZSCORE', reported, names[at]), text }) do shown[#shown + 1] = part end
  end
end
local latest = redis.call('ZRANGE', used, 0, ARGV[1] - 1, 'REV')
local seen = {}
for at, text in ipairs(texts(sessions, latest)) do
  if text then
    seen[#seen + 1] = latest[at]
    seen[#seen + 1] = text
  end
end
local failed = redis.call('ZRANGE', failovers, 0, ARGV[2] - 1, 'REV')
return { time[1] * 1000 + math.floor(time[2] / 1000), shown, seen, redis.call('ZCARD', used), failed }
