-- Sets what one generation costs, and checks first whether its estimate fits into the budget. May be repeated.
-- All costs are billionths of a USD.
--
-- KEYS[1]  hash: cost of `ended` and of `running` generations, `since`: id of the first one, `restored`: part of `ended`
--          that Redis had lost, and by id the cost of each running generation, or `ended`
-- ARGV[1]  id of the generation
-- ARGV[2]  its cost: the estimate while it runs
-- ARGV[3]  amount of the budget, or -1 to charge without a check
-- ARGV[4]  1 if it has ended, else 0
-- ARGV[5]  time to live in milliseconds
-- ARGV[6]  `since` and
-- ARGV[7]  `ended` as the replica has read them last, or '' and 0
--
-- Returns {1 if the cost was charged, else 0; ended; running; since}.

local cost_key = KEYS[1]
local id, cost, amount, has_ended, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5]
local known_since, known_ended = ARGV[6], tonumber(ARGV[7])

local stored = redis.call('HMGET', cost_key, 'since', 'ended', 'running', 'restored', id)
local since, charged = stored[1] or id, stored[5]
local ended, running, restored = tonumber(stored[2]) or 0, tonumber(stored[3]) or 0, tonumber(stored[4]) or 0

if known_since == since then
  -- Redis was restored from an older snapshot.
  ended = math.max(ended, known_ended)
elseif known_since ~= '' and known_ended > restored then
  -- Redis has lost the hash. Several replicas restore it: the one that has read it last knows most.
  ended = ended + known_ended - restored
  restored = known_ended
end

local is_charged = amount < 0 or cost == 0 or ended + running + math.min(cost, amount) <= amount
-- The end may arrive before the charge: the replica has given up waiting for the reply.
if is_charged and charged ~= 'ended' then
  running = running - (tonumber(charged) or 0)
  if has_ended then ended = ended + cost else running = running + cost end
  redis.call('HSET', cost_key, id, has_ended and 'ended' or cost)
end
redis.call('HSET', cost_key, 'since', since, 'ended', ended, 'running', running, 'restored', restored)
redis.call('PEXPIRE', cost_key, ttl_ms)
return {is_charged and 1 or 0, ended, running, since}
