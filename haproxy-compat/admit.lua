-- Makes room for one more session of a source, or says that there is none. By Redis' own clock.
--   KEYS[1]  the source's sessions, a sorted set of ids by when they expire
--   KEYS[2]  when its next session would be due, if they came evenly
--   ARGV[1]  session id      ARGV[2]  for how long it is counted, in ms    ARGV[3]  how many there may be
--   ARGV[4]  how far apart they come, in ms      ARGV[5]  how much sooner than due one may come, in ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
local due = math.max(now, tonumber(redis.call('GET', KEYS[2]) or '0'))
if due - now > tonumber(ARGV[5]) then return 0 end

due = due + tonumber(ARGV[4])
redis.call('SET', KEYS[2], tostring(due), 'PX', math.ceil(due - now))
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
