-- Gives an idempotency key to a stream, unless another stream has it.
--
-- KEYS[1]  string: id and fingerprint of the stream that has the key
-- ARGV[1]  id of the stream
-- ARGV[2]  fingerprint of its question
-- ARGV[3]  time to live in milliseconds
-- ARGV[4]  id of a stream that loses the key, because it has failed or is missing, or ''
--
-- Returns false if the stream has the key now, else the value of the key.

local idempotency_key = KEYS[1]
local id, fingerprint, ttl_ms, replaced = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local known = redis.call('GET', idempotency_key)
if known and string.match(known, '^%S+') ~= replaced then return known end
redis.call('SET', idempotency_key, id .. ' ' .. fingerprint, 'PX', ttl_ms)
return false
