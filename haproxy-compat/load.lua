-- The session, and one of its replies: a use, so both keys live on.
--   KEYS[1]  the session   KEYS[2]  ages   ARGV[1]  time to live in ms   ARGV[2]  the reply's field
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return nil end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('HMGET', KEYS[1], 'begin', 'settings', 'state', 'version', ARGV[2])
