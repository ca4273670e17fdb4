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

local value = id .. ' ' .. fingerprint
if redis.call('SET', idempotency_key, value, 'PX', ttl_ms, 'NX') then return false end
local known = redis.call('GET', idempotency_key)
if string.match(known, '^%S+') ~= replaced then return known end
redis.call('SET', idempotency_key, value, 'PX', ttl_ms)
return false
