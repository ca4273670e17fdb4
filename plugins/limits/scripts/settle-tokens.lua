-- Replaces the estimate of an ended generation by the tokens that it used. May be repeated.
--
-- KEYS[1]  hash: see charge-tokens.lua
-- ARGV[1]  limit: tokens per period
-- ARGV[2]  id of the generation
-- ARGV[3]  estimate that was charged
-- ARGV[4]  used tokens
-- ARGV[5]  1 if Redis may have got this end already, or may get its charge later, else 0
-- ARGV[6]  length of a period in milliseconds
--
-- Returns 1.

local use_key = KEYS[1]
local limit, id, estimate, tokens = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local is_repeated = ARGV[5] == '1'
local period_ms = tonumber(ARGV[6])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', use_key, 'used', 'ends', id)
local used, charged = tonumber(stored[1]) or 0, stored[3]
local ends = math.min(tonumber(stored[2]) or now + period_ms, now + period_ms)
if now >= ends then
  local periods = math.floor((now - ends) / period_ms) + 1
  used = math.max(0, used - periods * limit)
  ends = ends + periods * period_ms
  if used == 0 then
    redis.call('DEL', use_key)
    charged = false
  end
end

if tonumber(charged) then
  used = math.max(0, used + tokens - charged)
elseif not charged and not is_repeated then
  -- The estimate is paid off, or Redis has lost it: it cannot be given back, but what exceeds it counts.
  used = used + math.max(0, tokens - estimate)
end
if is_repeated then
  redis.call('HSET', use_key, id, 'ended')
else
  redis.call('HDEL', use_key, id)
end
redis.call('HSET', use_key, 'used', used, 'ends', ends)
redis.call('PEXPIRE', use_key, ends - now + (math.max(1, math.ceil(used / limit)) - 1) * period_ms)
return 1
