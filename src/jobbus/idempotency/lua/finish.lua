-- finish: record what came of the work, for who holds the key. Words: owner, fence, fingerprint,
-- state (c or f), time to live in milliseconds, job id. Result: '-' for none, else '+' before it.
return each(6, function(key, owner, fence, fingerprint, new, ttl, job, data)
  local state, holder, held, crashes, print, until_ = read(key)
  if not state then
    if new == 'c' then
      -- The record was lost, the work is done: whoever asks again must learn of it.
      write(key, ttl, new, owner, fence, 0, fingerprint, 0, job, data)
    end
    return 'gone'
  end
  if print ~= fingerprint then return 'mismatch' end
  if holder ~= owner or held ~= fence or (state ~= 'i' and state ~= new) then return 'fenced' end
  if state == 'i' then write(key, ttl, new, owner, fence, crashes, print, until_, job, data) end
  return 'ok'
end)
