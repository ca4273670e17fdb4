-- Publishes how many generations of an owner run on one replica, after one has ended or Redis was unavailable.
--
-- KEYS[1]  hash: running generations of the owner, by replica
-- ARGV[1]  id of this replica
-- ARGV[2]  running generations of the owner on this replica
-- ARGV[3]  time to live of the hash in milliseconds
--
-- Returns 1.

local counts_key = KEYS[1]
local replica, own_count, ttl_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if own_count == 0 then
  redis.call('HDEL', counts_key, replica)
else
  redis.call('HSET', counts_key, replica, own_count)
  redis.call('PEXPIRE', counts_key, ttl_ms)
end
return 1
