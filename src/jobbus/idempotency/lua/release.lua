-- release: free a key for the next attempt; fence and crashes stay (D-6). Words: owner, fence,
-- time to live in milliseconds.
return each(3, function(key, _, owner, fence, ttl)
  local state, holder, held = unpack(call('HMGET', key, 's', 'o', 'f'))
  if not state then return 'gone' end
  if state == 'i' and holder == owner and held == fence then
    call('HSET', key, 's', 'r', 'o', '', 'l', 0)
    call('PEXPIRE', key, ttl)
    return 'ok'
  end
  if state == 'r' and held == fence then return 'ok' end
  return 'fenced'
end)
