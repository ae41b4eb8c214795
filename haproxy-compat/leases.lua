-- Keeps leases on running calls, and takes over those that ran out. By Redis' own clock, the same for all.
--   KEYS[1]  leases, a sorted set: <session id>/<stream id>, by when it runs out
--   ARGV[1]  how long a lease lasts, in ms     ARGV[2]  how many to take over at most
--   ARGV[3]  a call to take over if nobody has it, or ''      ARGV[4…]  calls that run here
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ = now + ARGV[1]

for at = 4, #ARGV do redis.call('ZADD', KEYS[1], until_, ARGV[at]) end
local taken = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
if ARGV[3] ~= '' and tonumber(redis.call('ZSCORE', KEYS[1], ARGV[3]) or '0') <= now then
  taken[#taken + 1] = ARGV[3]
end
for _, call in ipairs(taken) do redis.call('ZADD', KEYS[1], until_, call) end
return taken
