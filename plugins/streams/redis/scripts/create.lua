-- Creates the log of a stream. Its idempotency key and its conversation are linked afterwards: they are in other slots.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- ARGV[1]  info of the stream as JSON
-- ARGV[2]  id of the replica that produces it
-- ARGV[3]  time to live in milliseconds
-- ARGV[4]  prompt as JSON, or '' if the answer is never continued
-- ARGV[5]  version of the format
--
-- Returns 1.

local meta_key, log_key = KEYS[1], KEYS[2]
local info, replica, ttl_ms, prompt, format = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

redis.call('HSET', meta_key, 'info', info, 'producer', replica, 'epoch', 1, 'format', format)
if prompt ~= '' then redis.call('HSET', meta_key, 'question', prompt) end
redis.call('PEXPIRE', meta_key, ttl_ms)
redis.call('XADD', log_key, '1-0', 'b', replica)
redis.call('PEXPIRE', log_key, ttl_ms)
return 1
