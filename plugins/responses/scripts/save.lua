-- Keeps the question of a response.
--
-- KEYS[1]  hash: stored response of the stream
-- KEYS[2]  hash: meta of the stream
-- ARGV[1]  question as JSON
-- ARGV[2]  time to live in milliseconds while the answer is written
-- ARGV[3]  time to live in milliseconds after its end
--
-- Returns 1, or 0 if the response was removed.

local response_key, meta_key = KEYS[1], KEYS[2]
local question, active_ttl_ms, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', meta_key, 'removed') then return 0 end
redis.call('HSET', response_key, 'format', 1)
-- A repeated request has the stream of the first one, whose time of creation stays.
if not redis.call('HGET', response_key, 'question') then redis.call('HSET', response_key, 'question', question) end
local ended = redis.call('HGET', response_key, 'endedAt')
redis.call('PEXPIRE', response_key, ended and ttl_ms or active_ttl_ms)
return 1
