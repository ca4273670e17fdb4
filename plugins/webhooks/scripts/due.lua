-- Returns the ids of webhooks that are due, and makes them due again later: the replica that asks for them may die.
--
-- KEYS[1]  sorted set: ids of webhooks by the millisecond in which they are due
-- ARGV[1]  most ids
-- ARGV[2]  milliseconds after which they are due again
-- ARGV[3]  milliseconds after which the schedule expires if it is not used
--
-- Returns the ids.

local schedule_key = KEYS[1]
local count, pause_ms, life_ms = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', schedule_key, '-inf', now, 'LIMIT', 0, count)
for _, id in ipairs(ids) do redis.call('ZADD', schedule_key, now + pause_ms, id) end
if #ids > 0 then redis.call('PEXPIRE', schedule_key, life_ms) end
return ids
