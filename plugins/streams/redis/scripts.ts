import { defineScript } from '../../redis/script.ts';

/** What has to happen as one, in Redis. */

/**
 * Creates a stream, or says which one its idempotency key stands for.
 * KEYS meta, log, key or '', chat or ''. ARGV id, info, replica, ttl, fingerprint, prefix of metas,
 * question or ''.
 */
export const CREATE = defineScript(`
if KEYS[3] ~= '' then
  local known = redis.call('GET', KEYS[3])
  if known then
    local id, fingerprint = string.match(known, '^(%S+) (%S+)$')
    if redis.call('EXISTS', ARGV[6] .. id) == 1 then return {id, fingerprint} end
  end
  redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. ARGV[5], 'PX', ARGV[4])
end
if KEYS[4] ~= '' then redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[4]) end
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'producer', ARGV[3], 'epoch', 1)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'question', ARGV[7]) end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[2], '1-0', 'b', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return false
`);

/**
 * The last entry. From here on everything of the stream lives for the ttl. KEYS as CREATE.
 * ARGV id, entry id, terminal, ttl, length. False where the log is gone.
 */
export const END = defineScript(`
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', ARGV[2], 'e', ARGV[3], 'n', ARGV[5]) then return false end
redis.call('HSET', KEYS[1], 'ended', 1)
redis.call('HDEL', KEYS[1], 'question')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if KEYS[3] ~= '' then redis.call('PEXPIRE', KEYS[3], ARGV[4]) end
if KEYS[4] ~= '' and redis.call('GET', KEYS[4]) == ARGV[1] then redis.call('DEL', KEYS[4]) end
return 1
`);

/**
 * What Redis has of a log whose producer could not write for a while: the position of its last entry,
 * -1 where another replica is its producer now. What is gone is created anew.
 * KEYS as CREATE. ARGV id, info, replica, ttl, fingerprint, epoch.
 */
export const RESTORE = defineScript(`
local producer = redis.call('HGET', KEYS[1], 'producer')
if producer and (producer ~= ARGV[3] or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[6]) then return -1 end
if producer and redis.call('EXISTS', KEYS[2]) == 1 then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return string.match(last[1], '%-(%d+)$')
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'producer', ARGV[3], 'epoch', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[2], ARGV[6] .. '-0', 'b', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if KEYS[3] ~= '' then redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. ARGV[5], 'PX', ARGV[4], 'NX') end
if KEYS[4] ~= '' then redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[4], 'NX') end
return 0
`);

/**
 * Makes a replica the producer of a log whose producer has died, which one of several that race can.
 * What the dead one may still send is refused from then on: its entries have a lower number.
 * KEYS meta, log, lease of the dead. ARGV replica, dead replica, epoch. The new epoch, where the log
 * ends, and the question; or false.
 */
export const TAKE_OVER = defineScript(`
local meta = redis.call('HMGET', KEYS[1], 'producer', 'epoch', 'ended')
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[3] or meta[3] or redis.call('EXISTS', KEYS[3]) == 1 then return false end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not last then return false end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'producer', ARGV[1])
local position = string.match(last[1], '%-(%d+)$')
redis.call('XADD', KEYS[2], epoch .. '-' .. position, 'b', ARGV[1])
return {epoch, position, redis.call('HGET', KEYS[1], 'question')}
`);

/** For the producer to find when it can be told no other way. KEYS meta. */
export const REQUEST_STOP = defineScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'stop', 1) end
return 1
`);
