-- The session, and what is kept under a reply's field: a use, so both keys live on. Nothing, and no use, if
-- it is not that of who asks.
--   KEYS[1]  the session   KEYS[2]  ages
--   ARGV[1]  time to live in ms   ARGV[2]  the reply's field   ARGV[3]  how the begin of who asks starts, or ''
-- The rest of it is a client's: JSON that this cjson may not take.
if ARGV[3] ~= '' then
  local begin = redis.call('HGET', KEYS[1], 'begin')
  if not begin or string.sub(begin, 1, #ARGV[3]) ~= ARGV[3] then return nil end
end
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return nil end
redis.call('PEXPIREAT', KEYS[2], redis.call('PEXPIRETIME', KEYS[1]))
return redis.call('HMGET', KEYS[1], 'begin', 'settings', 'state', 'version', ARGV[2])
