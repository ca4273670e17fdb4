-- Sets the time at which a webhook is due.
--
-- KEYS[1]  sorted set: ids of webhooks by the millisecond in which they are due
-- ARGV[1]  id of the stream
-- ARGV[2]  milliseconds from now
-- ARGV[3]  milliseconds after which the schedule expires if it is not used

local schedule_key = KEYS[1]
local id, ms, life_ms = ARGV[1], ARGV[2], ARGV[3]

local time = redis.call('TIME')
redis.call('ZADD', schedule_key, time[1] * 1000 + math.floor(time[2] / 1000) + ms, id)
redis.call('PEXPIRE', schedule_key, life_ms)
