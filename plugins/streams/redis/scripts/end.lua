-- Appends the terminal of a log. From then on everything of the stream lives for the time to live; the log of a stored
-- response lives as long as the response.
--
-- KEYS[1]  hash: meta of the stream
-- KEYS[2]  stream: log of the stream
-- KEYS[3]  hash: stored response of the stream
-- KEYS[4]  hash: announcement of its end
-- ARGV[1]  id of the entry: <epoch>-<last possible position>
-- ARGV[2]  terminal as JSON
-- ARGV[3]  time to live in milliseconds
-- ARGV[4]  length of the log in units
-- ARGV[5]  '1' if the question may be asked again under its idempotency key, or ''
-- ARGV[6]  time to live of a stored response in milliseconds, or '' for a stream that is not stored
-- ARGV[7]  announcement of the end, or '' for none
-- ARGV[8]  its time to live in milliseconds
--
-- Returns 1, or false if the log does not exist.

local meta_key, log_key, response_key, announcement_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local entry_id, terminal, ttl_ms, length, repeatable = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored_ttl_ms, announcement, announcement_ttl_ms = ARGV[6], ARGV[7], ARGV[8]

if not redis.call('XADD', log_key, 'NOMKSTREAM', entry_id, 'e', terminal, 'n', length) then return false end

redis.call('HSET', meta_key, 'ended', 1)
if repeatable ~= '' then redis.call('HSET', meta_key, 'repeatable', repeatable) end
redis.call('HDEL', meta_key, 'question')
local log_ttl_ms = ttl_ms
if stored_ttl_ms ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  -- The response may have been removed while its answer was written: `deleted` by its owner, or `evicted`.
  local removed = redis.call('HGET', meta_key, 'removed')
  if not removed then
    redis.call('HSET', response_key, 'endedAt', now)
    redis.call('PEXPIRE', response_key, stored_ttl_ms)
    if tonumber(stored_ttl_ms) > tonumber(ttl_ms) then log_ttl_ms = stored_ttl_ms end
  end
  if announcement ~= '' and removed ~= 'deleted' then
    redis.call('HSET', announcement_key, 'format', 1, 'text', announcement, 'since', now)
    redis.call('PEXPIRE', announcement_key, announcement_ttl_ms)
  end
end
redis.call('PEXPIRE', meta_key, log_ttl_ms)
redis.call('PEXPIRE', log_key, log_ttl_ms)
return 1
