-- renew: keep a key for so long from now; never shorter than before. Words: owner, fence, lease in
-- microseconds, time to live in milliseconds.
return each(4, function(key, owner, fence, lease, ttl)
  local state, holder, held, crashes, print, until_, job, data = read(key)
  if state ~= 'i' or holder ~= owner or held ~= fence then return 'lost' end
  local longer = moment(math.max(tonumber(until_), now + lease))
  write(key, ttl, state, owner, fence, crashes, print, longer, job, data)
  return 'ok'
end)
