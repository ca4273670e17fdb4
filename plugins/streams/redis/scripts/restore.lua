-- Tells a producer that could not write for a while what Redis has of its log. Creates again what is missing.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- KEYS[3]  string: idempotency key, or KEYS[1] for none
-- KEYS[4]  string: conversation, or KEYS[1] for none
-- ARGV[1]  id of the stream
-- ARGV[2]  info of the stream as JSON
-- ARGV[3]  id of the replica that produces it
-- ARGV[4]  time to live in milliseconds
-- ARGV[5]  fingerprint of the question
-- ARGV[6]  epoch of the producer
-- ARGV[7]  id of the stream that had the idempotency key before and has failed, or ''
--
-- Returns the position of the last entry as text (a large number does not survive Lua), 0 if the log was
-- created again, or -1 if another replica is the producer now.

local meta_key, log_key, idempotency_key, chat_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, info, replica, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local fingerprint, epoch, replaced = ARGV[5], ARGV[6], ARGV[7]

local producer = redis.call('HGET', meta_key, 'producer')
if producer and (producer ~= replica or redis.call('HGET', meta_key, 'epoch') ~= epoch) then return -1 end
if producer and redis.call('EXISTS', log_key) == 1 then
  local last = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  return string.match(last[1], '%-(%d+)$')
end

redis.call('DEL', meta_key, log_key)
redis.call('HSET', meta_key, 'info', info, 'producer', replica, 'epoch', epoch)
redis.call('PEXPIRE', meta_key, ttl_ms)
redis.call('XADD', log_key, epoch .. '-0', 'b', replica)
redis.call('PEXPIRE', log_key, ttl_ms)
if idempotency_key ~= meta_key then
  local known = redis.call('GET', idempotency_key)
  if not known or string.match(known, '^%S+') == replaced then
    redis.call('SET', idempotency_key, id .. ' ' .. fingerprint, 'PX', ttl_ms)
  end
end
if chat_key ~= meta_key then redis.call('SET', chat_key, id, 'PX', ttl_ms, 'NX') end
return 0
