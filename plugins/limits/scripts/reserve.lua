-- Reserves one more generation for an owner if the sum over all live replicas allows it. The leases are in another slot,
-- so the caller reads them: only when the limit is reached, and a dead replica may be among those that count.
--
-- KEYS[1]   hash: running generations of the owner, by replica
-- ARGV[1]   id of this replica
-- ARGV[2]   running generations of the owner on this replica, including the new one
-- ARGV[3]   limit of the owner on all replicas
-- ARGV[4]   time to live of the hash in milliseconds
-- ARGV[5…]  ids of dead replicas, which do not count
--
-- Returns 1 if the generation is reserved, or the ids of the other replicas whose generations leave no room for it.

local counts_key = KEYS[1]
local replica, own_count, limit, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

for i = 5, #ARGV do redis.call('HDEL', counts_key, ARGV[i]) end

local sum = own_count
local others = {}
local counts = redis.call('HGETALL', counts_key)
for i = 1, #counts, 2 do
  if counts[i] ~= replica then
    sum = sum + tonumber(counts[i + 1])
    table.insert(others, counts[i])
  end
end
if sum > limit then return others end

redis.call('HSET', counts_key, replica, own_count)
redis.call('PEXPIRE', counts_key, ttl_ms)
return 1
