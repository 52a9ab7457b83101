-- release: free a key for the next attempt; fence and crashes stay (D-6).
-- KEYS[1] record; ARGV: owner, fence, time to live in milliseconds
local owner, fence, ttl = unpack(ARGV)
local state, holder, held = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'f'))
if not state then
    return 'gone'
end
if state == 'i' and holder == owner and held == fence then
    redis.call('HSET', KEYS[1], 's', 'r', 'o', '', 'l', 0)
    redis.call('PEXPIRE', KEYS[1], ttl)
    return 'ok'
end
if state == 'r' and held == fence then
    return 'ok'
end
return 'fenced'
