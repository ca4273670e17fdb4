-- Adds a response to the index of its owner, and takes the oldest ones out if there are too many.
--
-- KEYS[1]  sorted set: responses of the owner, as `<id> <bytes>`, by the microsecond in which they were saved
-- KEYS[2]  string: bytes of all of them
-- ARGV[1]  id of the response
-- ARGV[2]  its size in bytes
-- ARGV[3]  longest life of a response in milliseconds
-- ARGV[4]  most responses of one owner
-- ARGV[5]  most bytes of one owner
--
-- Returns the ids that were taken out, at most a thousand.

local index_key, bytes_key = KEYS[1], KEYS[2]
local id, bytes, life_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_count, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function remove(member)
  redis.call('ZREM', index_key, member)
  redis.call('INCRBY', bytes_key, -tonumber(string.match(member, ' (%d+)$')))
end

-- At most a thousand: the rest goes with the next responses.
local expired = redis.call('ZRANGEBYSCORE', index_key, '-inf', now - life_ms * 1000, 'LIMIT', 0, 1000)
for _, member in ipairs(expired) do remove(member) end

local member = id .. ' ' .. bytes
if redis.call('ZADD', index_key, 'NX', now, member) == 1 then redis.call('INCRBY', bytes_key, bytes) end

local taken = {}
local count = redis.call('ZCARD', index_key)
local total = tonumber(redis.call('GET', bytes_key) or 0)
while (count > max_count or total > max_bytes) and count > 0 and #taken < 1000 do
  local oldest = redis.call('ZRANGE', index_key, 0, 0)[1]
  remove(oldest)
  local oldest_id, oldest_bytes = string.match(oldest, '^(%S+) (%d+)$')
  table.insert(taken, oldest_id)
  count = count - 1
  total = total - oldest_bytes
end
redis.call('PEXPIRE', index_key, life_ms)
redis.call('PEXPIRE', bytes_key, life_ms)
return taken
