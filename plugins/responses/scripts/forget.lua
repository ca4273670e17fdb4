-- Takes a response out of the index of its owner.
--
-- KEYS[1]  sorted set: responses of the owner, as `<id> <bytes>`, by the microsecond in which they were saved
-- KEYS[2]  string: bytes of all of them
-- ARGV[1]  id of the response
-- ARGV[2]  its size in bytes

local index_key, bytes_key = KEYS[1], KEYS[2]
local id, bytes = ARGV[1], ARGV[2]

if redis.call('ZREM', index_key, id .. ' ' .. bytes) == 1 then redis.call('INCRBY', bytes_key, -bytes) end
