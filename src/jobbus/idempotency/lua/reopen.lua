-- reopen: a failed or abandoned key may be worked under again. Words: time to live in milliseconds.
return each(1, function(key, _, ttl)
  local state, until_ = unpack(call('HMGET', key, 's', 'l'))
  if state == 'f' or (state == 'i' and tonumber(until_) <= now) then
    call('HSET', key, 's', 'r', 'o', '', 'l', 0, 'c', 0)
    call('HDEL', key, 'd')
    call('PEXPIRE', key, ttl)
  end
  return 'ok'
end)
