-- Claims a webhook for one attempt to deliver it. Of several replicas exactly one succeeds.
--
-- KEYS[1]  hash: announcement of the end of the stream
-- KEYS[2]  hash: meta of the stream
-- ARGV[1]  milliseconds after which the claim ends, in case its replica dies
-- ARGV[2]  highest format that the replica knows
--
-- Returns {event, age in milliseconds}, `later` if the stream still runs, another replica has the claim or the format
-- is newer, or `gone` if there is nothing to deliver.

local announcement_key, meta_key = KEYS[1], KEYS[2]
local claim_ms, max_format = tonumber(ARGV[1]), tonumber(ARGV[2])

local found = redis.call('HMGET', announcement_key, 'text', 'since', 'until', 'format')
local text, since, claimed_until, format = found[1], found[2], found[3], found[4]
if not text then
  local runs = redis.call('EXISTS', meta_key) == 1 and not redis.call('HGET', meta_key, 'ended')
  return runs and 'later' or 'gone'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(format) > max_format or (claimed_until and tonumber(claimed_until) > now) then return 'later' end
redis.call('HSET', announcement_key, 'until', now + claim_ms)
return {text, now - since}
