-- Shortens the life of a link to a stream, or deletes it. A link to a later stream stays as it is.
--
-- KEYS[1]  string: idempotency key or conversation; its value begins with the id of a stream
-- ARGV[1]  id of the stream
-- ARGV[2]  time to live in milliseconds, or 0 to delete the link
--
-- Returns 1, or 0 if the link leads to another stream.

local link_key = KEYS[1]
local id, ttl_ms = ARGV[1], tonumber(ARGV[2])

local known = redis.call('GET', link_key)
if not known or string.match(known, '^%S+') ~= id then return 0 end
if ttl_ms == 0 then redis.call('DEL', link_key) else redis.call('PEXPIRE', link_key, ttl_ms) end
return 1
