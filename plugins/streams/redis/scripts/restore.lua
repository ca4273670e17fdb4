-- Tells a producer that could not write for a while what Redis has of its log. Creates again what is missing.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- ARGV[1]  info of the stream as JSON
-- ARGV[2]  id of the replica that produces it
-- ARGV[3]  time to live in milliseconds
-- ARGV[4]  epoch of the producer
-- ARGV[5]  version of the format
--
-- Returns the position of the last entry as text (a large number does not survive Lua), 0 if the log was
-- created again, or -1 if another replica is the producer now.

local meta_key, log_key = KEYS[1], KEYS[2]
local info, replica, ttl_ms, epoch, format = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local meta = redis.call('HMGET', meta_key, 'producer', 'epoch', 'format')
local producer = meta[1]
if producer and (producer ~= replica or meta[2] ~= epoch) then return -1 end
-- A newer version owns the stream, whatever else it has stored.
if meta[3] and tonumber(meta[3]) > tonumber(format) then return -1 end
if producer and redis.call('EXISTS', log_key) == 1 then
  local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  return string.match(last[1], '%-(%d+)$')
end

redis.call('DEL', meta_key, log_key)
redis.call('HSET', meta_key, 'info', info, 'producer', replica, 'epoch', epoch, 'format', format)
redis.call('PEXPIRE', meta_key, ttl_ms)
redis.call('XADD', log_key, epoch .. '-0', 'b', replica)
redis.call('PEXPIRE', log_key, ttl_ms)
return 0
