-- Returns the ids of webhooks that are due, and makes them due again later: the replica that asks for them may die.
--
-- KEYS[1]  sorted set: ids of webhooks by the millisecond in which they are due
-- ARGV[1]  most ids
-- ARGV[2]  milliseconds after which they are due again

local schedule_key = KEYS[1]
local count, pause_ms = ARGV[1], ARGV[2]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', schedule_key, '-inf', now, 'LIMIT', 0, count)
for _, id in ipairs(ids) do redis.call('ZADD', schedule_key, now + pause_ms, id) end
return ids
