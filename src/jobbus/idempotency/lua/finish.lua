-- finish: record what came of the work, for who holds the key. Words: owner, fence, fingerprint,
-- state (c or f), time to live in milliseconds, job id. Results: '-' for none, else '+' before it.
return each(6, function(key, data, owner, fence, fingerprint, new, ttl, job)
  local state, holder, held, print = unpack(call('HMGET', key, 's', 'o', 'f', 'p'))

  local function write()
    call('HSET', key, 's', new, 'o', owner, 'f', fence, 'p', fingerprint, 'j', job)
    if data ~= '-' then call('HSET', key, 'd', string.sub(data, 2)) end
    call('PEXPIRE', key, ttl)
  end

  if not state then
    if new == 'c' then
      -- The record was lost, the work is done: whoever asks again must learn of it.
      write()
      call('HSET', key, 'c', 0, 'l', 0)
    end
    return 'gone'
  end
  if print ~= fingerprint then return 'mismatch' end
  if holder ~= owner or held ~= fence or (state ~= 'i' and state ~= new) then return 'fenced' end
  if state == 'i' then write() end
  return 'ok'
end)
