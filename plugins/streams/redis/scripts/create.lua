-- Creates a stream, or returns the stream of the same idempotency key. If the same question may be asked again, the new
-- stream gets the key, and the old one stays readable by its id.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- KEYS[3]  string: id and fingerprint of an idempotency key, or KEYS[1] for none
-- KEYS[4]  string: id of the newest stream of a conversation, or KEYS[1] for none
-- KEYS[5]  hash: meta of the stream of the idempotency key, as far as the caller knows it
-- ARGV[1]  id of the stream
-- ARGV[2]  info of the stream as JSON
-- ARGV[3]  id of the replica that produces it
-- ARGV[4]  time to live in milliseconds
-- ARGV[5]  fingerprint of the question
-- ARGV[6]  prompt as JSON, or '' if the answer is never continued
-- ARGV[7]  id of the stream of KEYS[5]
--
-- Returns false if the stream was created, else {id, fingerprint} of the existing stream. If that is not the stream
-- of KEYS[5], it may have expired, or its question may be asked again: call again with its key.

local meta_key, log_key, idempotency_key, chat_key, known_meta_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, info, replica, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local fingerprint, prompt, expected_id = ARGV[5], ARGV[6], ARGV[7]

if idempotency_key ~= meta_key then
  local known = redis.call('GET', idempotency_key)
  if known then
    local known_id, known_fingerprint = string.match(known, '^(%S+) (%S+)$')
    if known_id ~= expected_id then return {known_id, known_fingerprint} end
    local repeatable = known_fingerprint == fingerprint and redis.call('HGET', known_meta_key, 'repeatable')
    if not repeatable and redis.call('EXISTS', known_meta_key) == 1 then return {known_id, known_fingerprint} end
  end
  redis.call('SET', idempotency_key, id .. ' ' .. fingerprint, 'PX', ttl_ms)
end
if chat_key ~= meta_key then redis.call('SET', chat_key, id, 'PX', ttl_ms) end

redis.call('HSET', meta_key, 'info', info, 'producer', replica, 'epoch', 1)
if prompt ~= '' then redis.call('HSET', meta_key, 'question', prompt) end
redis.call('PEXPIRE', meta_key, ttl_ms)
redis.call('XADD', log_key, '1-0', 'b', replica)
redis.call('PEXPIRE', log_key, ttl_ms)
return false
