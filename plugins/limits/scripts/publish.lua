-- Publishes how many generations of an owner run on one replica, after one has ended.
--
-- KEYS[1]  hash: running generations of the owner, by replica
-- ARGV[1]  id of this replica
-- ARGV[2]  running generations of the owner on this replica
--
-- Returns 1.

local counts_key = KEYS[1]
local replica, own_count = ARGV[1], tonumber(ARGV[2])

if own_count == 0 then
  redis.call('HDEL', counts_key, replica)
elseif redis.call('EXISTS', counts_key) == 1 then -- Otherwise the hash would never expire.
  redis.call('HSET', counts_key, replica, own_count)
end
return 1
