-- Appends the terminal of a log. From then on everything of the stream lives for the time to live.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- KEYS[3]  string: idempotency key, or KEYS[1] for none
-- KEYS[4]  string: conversation, or KEYS[1] for none
-- ARGV[1]  id of the stream
-- ARGV[2]  id of the entry: <epoch>-<last possible position>
-- ARGV[3]  terminal as JSON
-- ARGV[4]  time to live in milliseconds
-- ARGV[5]  length of the log in units
-- ARGV[6]  '1' if the question may be asked again under its idempotency key, or ''
--
-- Returns 1, or false if the log does not exist.

local meta_key, log_key, idempotency_key, chat_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, entry_id, terminal, ttl_ms, length, repeatable = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if not redis.call('XADD', log_key, 'NOMKSTREAM', entry_id, 'e', terminal, 'n', length) then return false end

redis.call('HSET', meta_key, 'ended', 1)
if repeatable ~= '' then redis.call('HSET', meta_key, 'repeatable', repeatable) end
redis.call('HDEL', meta_key, 'question')
redis.call('PEXPIRE', meta_key, ttl_ms)
redis.call('PEXPIRE', log_key, ttl_ms)
if idempotency_key ~= meta_key then
  -- A later stream may have the key.
  local known = redis.call('GET', idempotency_key)
  if known and string.match(known, '^%S+') == id then redis.call('PEXPIRE', idempotency_key, ttl_ms) end
end
if chat_key ~= meta_key and redis.call('GET', chat_key) == id then redis.call('DEL', chat_key) end
return 1
