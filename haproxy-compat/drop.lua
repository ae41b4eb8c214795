-- Ends a session, and tells those who listen.
--   KEYS[1]  the session   KEYS[2]  ages
redis.call('DEL', KEYS[2])
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('SPUBLISH', KEYS[1], 'ended')
return 1
