-- reopen: a failed or abandoned key may be worked under again. Words: time to live in milliseconds.
return each(1, function(key, ttl)
  local state, _, fence, _, print, until_, job = read(key)
  if state == 'f' or (state == 'i' and tonumber(until_) <= now) then
    write(key, ttl, 'r', '', fence, 0, print, 0, job, '-')
  end
  return 'ok'
end)
