-- release: free a key for the next attempt; fence and crashes stay (D-6). Words: owner, fence,
-- time to live in milliseconds.
return each(3, function(key, owner, fence, ttl)
  local state, holder, held, crashes, print, _, job, data = read(key)
  if not state then return 'gone' end
  if state == 'i' and holder == owner and held == fence then
    write(key, ttl, 'r', '', fence, crashes, print, 0, job, data)
    return 'ok'
  end
  if state == 'r' and held == fence then return 'ok' end
  return 'fenced'
end)
