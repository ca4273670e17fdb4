-- Marks a stream as stopped, so that its producer finds the request even if the message is lost.
--
-- KEYS[1]  hash: meta of the stream
--
-- Returns the id of the producer, or false if the stream is missing.

local meta_key = KEYS[1]

if redis.call('EXISTS', meta_key) == 0 then return false end
redis.call('HSET', meta_key, 'stop', 1)
return redis.call('HGET', meta_key, 'producer')
