-- What a stream holds behind a place, the latest first, after the session's `begin` and the stream's last
-- place, which is 0 for a stream that nothing was ever said on; nothing if there is no session.
--   KEYS[1]  the session   ARGV[1]  stream id   ARGV[2]  the place
local begin = redis.call('HGET', KEYS[1], 'begin')
if not begin then return nil end
local last = tonumber(redis.call('HGET', KEYS[1], 'last:' .. ARGV[1]) or '0')
local found = { begin, tostring(last) }
for at = last, tonumber(ARGV[2]) + 1, -1 do
  local entry = redis.call('HGET', KEYS[1], 'entry:' .. ARGV[1] .. '.' .. at)
  -- Those before it are not kept any more.
  if not entry then break end
  found[#found + 1] = entry
end
return found
