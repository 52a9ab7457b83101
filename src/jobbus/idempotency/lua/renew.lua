-- renew: keep a key for so long from now; never shorter than before. Words: owner, fence, lease in
-- microseconds, time to live in milliseconds.
return each(4, function(key, _, owner, fence, lease, ttl)
  local state, holder, held, until_ = unpack(call('HMGET', key, 's', 'o', 'f', 'l'))
  if state ~= 'i' or holder ~= owner or held ~= fence then return 'lost' end
  call('HSET', key, 'l', string.format('%.0f', math.max(tonumber(until_), now + lease)))
  call('PEXPIRE', key, ttl)
  return 'ok'
end)
