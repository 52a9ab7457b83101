-- look: what is remembered of a key.
return each(0, function(key)
  local state, _, fence, crashes, print, _, job, data = read(key)
  return { state or false, fence, crashes, print, job, data }
end)
