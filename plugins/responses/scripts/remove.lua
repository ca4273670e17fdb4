-- Removes a response. The log of an ended answer then lives no longer than that of any other stream; the answer of a
-- running one will not be kept.
--
-- KEYS[1]  hash: stored response of the stream
-- KEYS[2]  hash: meta of the stream
-- KEYS[3]  stream: log of the stream
-- ARGV[1]  reason: `deleted` or `evicted`
-- ARGV[2]  time to live in milliseconds of the log of an ended stream

local response_key, meta_key, log_key = KEYS[1], KEYS[2], KEYS[3]
local reason, ttl_ms = ARGV[1], ARGV[2]

redis.call('DEL', response_key)
if redis.call('EXISTS', meta_key) == 0 then return end
redis.call('HSET', meta_key, 'removed', reason)
if not redis.call('HGET', meta_key, 'ended') then return end
for _, key in ipairs({meta_key, log_key}) do
  if redis.call('PTTL', key) > tonumber(ttl_ms) then redis.call('PEXPIRE', key, ttl_ms) end
end
