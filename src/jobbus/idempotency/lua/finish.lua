-- finish: record what came of the work, for who holds the key.
-- KEYS[1] record; ARGV: owner, fence, fingerprint, state (c or f), time to live in milliseconds,
-- job id, then the data unless there is none
local owner, fence, fingerprint, new, ttl, job, data = unpack(ARGV)
local state, holder, held, print = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'f', 'p'))

local function write()
    redis.call('HSET', KEYS[1], 's', new, 'o', owner, 'f', fence, 'p', fingerprint, 'j', job)
    if data then
        redis.call('HSET', KEYS[1], 'd', data)
    end
    redis.call('PEXPIRE', KEYS[1], ttl)
end

if not state then
    if new == 'c' then
        -- The record was lost, the work is done: whoever asks again must learn of it.
        write()
        redis.call('HSET', KEYS[1], 'c', 0, 'l', 0)
    end
    return 'gone'
end
if print ~= fingerprint then
    return 'mismatch'
end
if holder ~= owner or held ~= fence or (state ~= 'i' and state ~= new) then
    return 'fenced'
end
if state == 'i' then
    write()
end
return 'ok'
