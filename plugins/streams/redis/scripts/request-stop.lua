-- Marks a stream as stopped, so that its producer finds the request even if the message is lost.
--
-- KEYS[1]  hash: meta of the stream
--
-- Returns 1.

local meta_key = KEYS[1]

if redis.call('EXISTS', meta_key) == 1 then redis.call('HSET', meta_key, 'stop', 1) end
return 1
