-- Reserves one more generation for an owner if the sum over all live replicas allows it.
--
-- KEYS[1]  hash: running generations of the owner, by replica
-- ARGV[1]  id of this replica
-- ARGV[2]  running generations of the owner on this replica, including the new one
-- ARGV[3]  limit of the owner on all replicas
-- ARGV[4]  prefix of lease keys; a replica without a lease is dead and does not count
-- ARGV[5]  time to live of the hash in milliseconds
--
-- Returns 1 if the generation is reserved, 0 if the limit is reached.

local counts_key = KEYS[1]
local replica, own_count, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local lease_prefix, ttl_ms = ARGV[4], ARGV[5]

local sum = own_count
local counts = redis.call('HGETALL', counts_key)
for i = 1, #counts, 2 do
  local other, count = counts[i], tonumber(counts[i + 1])
  if other ~= replica then
    if redis.call('EXISTS', lease_prefix .. other) == 1 then
      sum = sum + count
    else
      redis.call('HDEL', counts_key, other)
    end
  end
end
if sum > limit then return 0 end

redis.call('HSET', counts_key, replica, own_count)
redis.call('PEXPIRE', counts_key, ttl_ms)
return 1
