-- reopen: a failed or abandoned key may be worked under again.
-- KEYS[1] record; ARGV: time to live in milliseconds
local state, until_ = unpack(redis.call('HMGET', KEYS[1], 's', 'l'))
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if state == 'f' or (state == 'i' and tonumber(until_) <= now) then
    redis.call('HSET', KEYS[1], 's', 'r', 'o', '', 'l', 0, 'c', 0)
    redis.call('HDEL', KEYS[1], 'd')
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 'ok'
