-- Reserves one more generation for an owner if the sum over all live replicas allows it.
--
-- KEYS[1]   hash: running generations of the owner, by replica
-- KEYS[2…]  strings: leases of other replicas; a replica without a lease is dead and does not count
-- ARGV[1]   id of this replica
-- ARGV[2]   running generations of the owner on this replica, including the new one
-- ARGV[3]   limit of the owner on all replicas
-- ARGV[4]   time to live of the hash in milliseconds
-- ARGV[5…]  ids of the replicas of KEYS[2…]
--
-- Returns 1 if the generation is reserved, 0 if the limit is reached, or the ids of all other replicas if the lease
-- of one is not among the keys: call again with all of them.

local counts_key = KEYS[1]
local replica, own_count, limit, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local lease_keys = {}
for i = 2, #KEYS do lease_keys[ARGV[i + 3]] = KEYS[i] end

local sum = own_count
local others, dead, is_unknown = {}, {}, false
local counts = redis.call('HGETALL', counts_key)
for i = 1, #counts, 2 do
  local other, count = counts[i], tonumber(counts[i + 1])
  if other ~= replica then
    table.insert(others, other)
    if not lease_keys[other] then
      is_unknown = true
    elseif redis.call('EXISTS', lease_keys[other]) == 1 then
      sum = sum + count
    else
      table.insert(dead, other)
    end
  end
end
if is_unknown then return others end

for _, other in ipairs(dead) do redis.call('HDEL', counts_key, other) end
if sum > limit then return 0 end

redis.call('HSET', counts_key, replica, own_count)
redis.call('PEXPIRE', counts_key, ttl_ms)
return 1
