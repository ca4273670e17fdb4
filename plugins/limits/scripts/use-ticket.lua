-- Counts a question that a ticket starts. The same question counts once, as long as its stream can be kept.
--
-- KEYS[1]  hash: `count` of the questions, and by id of a question the time in milliseconds when it was started
-- ARGV[1]  id of the question
-- ARGV[2]  most questions
-- ARGV[3]  milliseconds for which a question may be started again
-- ARGV[4]  time to live of the hash in milliseconds
--
-- Returns 1 if the ticket may start the question, else 0.

local use_key, id = KEYS[1], ARGV[1]
local max, repeat_ms, ttl_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', use_key, 'count', id)
local count, started = tonumber(stored[1]) or 0, tonumber(stored[2])
if started and now < started + repeat_ms then return 1 end
if count >= max then return 0 end
redis.call('HSET', use_key, 'count', count + 1, id, now)
redis.call('PEXPIRE', use_key, ttl_ms)
return 1
