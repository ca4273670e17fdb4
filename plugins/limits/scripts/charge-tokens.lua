-- Charges the estimated tokens of one generation to its owner, if they fit into the limit. Every period pays off as
-- many tokens as the limit.
--
-- KEYS[1]  hash: `used` tokens that are not paid off, `ends` of the current period in milliseconds, and by id the
--          estimate of each running generation, or `ended`
-- ARGV[1]  limit: tokens per period
-- ARGV[2]  id of the generation
-- ARGV[3]  tokens to charge
-- ARGV[4]  length of a period in milliseconds
--
-- Returns {1 if the tokens were charged, else 0; milliseconds until they fit}.

local use_key = KEYS[1]
local limit, id, tokens = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local period_ms = tonumber(ARGV[4])

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', use_key, 'used', 'ends', id)
-- The end of this generation has arrived first: its replica has given up waiting for the reply.
if stored[3] then return {0, period_ms} end
local used = tonumber(stored[1]) or 0
-- After a clock was set back, a period must not last for longer than it is.
local ends = math.min(tonumber(stored[2]) or now + period_ms, now + period_ms)
if now >= ends then
  local periods = math.floor((now - ends) / period_ms) + 1
  used = math.max(0, used - periods * limit)
  ends = ends + periods * period_ms
  -- What is paid off cannot be given back.
  if used == 0 then redis.call('DEL', use_key) end
end

local excess = used + tokens - limit
local is_charged = excess <= 0
if is_charged then
  used = used + tokens
  redis.call('HSET', use_key, id, tokens)
end
redis.call('HSET', use_key, 'used', used, 'ends', ends)
-- It expires when everything is paid off.
redis.call('PEXPIRE', use_key, ends - now + (math.max(1, math.ceil(used / limit)) - 1) * period_ms)
if is_charged then return {1, 0} end
return {0, ends - now + (math.ceil(excess / limit) - 1) * period_ms}
