-- Makes a replica the producer of a log whose producer is dead or has released it. Of several replicas exactly one succeeds.
-- Redis then rejects entries of the old producer, because their epoch is lower. A replica that did not get the reply
-- repeats the script with itself as the old producer.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- ARGV[1]  id of the replica that takes over
-- ARGV[2]  id of the old producer
-- ARGV[3]  epoch of the old producer
-- ARGV[4]  '1' if the old producer has no lease, or ''. The lease is in another slot, so the caller reads it before. A
--          producer that gets a lease in between is fenced, as one that was paused
-- ARGV[5]  version of the format
--
-- Returns {epoch, position as text, prompt or false, 1 if a stop is requested or false}, or false if the old producer
-- is alive and has not released the log, the log has ended, another replica was first, or the format is newer.

local meta_key, log_key = KEYS[1], KEYS[2]
local replica, old_replica, old_epoch, is_dead, format = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5]

local meta = redis.call('HMGET', meta_key, 'producer', 'epoch', 'ended', 'released', 'stop', 'format')
local producer, epoch, ended, released, stop = meta[1], meta[2], meta[3], meta[4], meta[5]
if producer ~= old_replica or epoch ~= old_epoch or ended then return false end
if meta[6] and tonumber(meta[6]) > tonumber(format) then return false end
if old_replica ~= replica and not released and not is_dead then return false end
local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
if not last then return false end

local new_epoch = redis.call('HINCRBY', meta_key, 'epoch', 1)
redis.call('HSET', meta_key, 'producer', replica)
redis.call('HDEL', meta_key, 'released')
local position = string.match(last[1], '%-(%d+)$')
redis.call('XADD', log_key, new_epoch .. '-' .. position, 'b', replica)
return {new_epoch, position, redis.call('HGET', meta_key, 'question'), stop}
