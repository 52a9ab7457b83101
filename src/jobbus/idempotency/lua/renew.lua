-- renew: keep a key for so long from now; never shorter than before.
-- KEYS[1] record; ARGV: owner, fence, lease in microseconds, time to live in milliseconds
local owner, fence, lease, ttl = unpack(ARGV)
local state, holder, held, until_ = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'f', 'l'))
if state ~= 'i' or holder ~= owner or held ~= fence then
    return 'lost'
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', math.max(tonumber(until_), now + lease)))
redis.call('PEXPIRE', KEYS[1], ttl)
return 'ok'
