-- Marks a log whose producer stops in order, so that another replica takes it over although the lease still exists.
--
-- KEYS[1]  hash: meta of the stream
-- ARGV[1]  id of the replica that produces it
-- ARGV[2]  epoch of the producer
--
-- Returns 1, or 0 if another replica is the producer, or none could continue the answer.

local meta_key = KEYS[1]
local replica, epoch = ARGV[1], ARGV[2]

local meta = redis.call('HMGET', meta_key, 'producer', 'epoch', 'question')
if meta[1] ~= replica or meta[2] ~= epoch or not meta[3] then return 0 end
redis.call('HSET', meta_key, 'released', 1)
return 1
