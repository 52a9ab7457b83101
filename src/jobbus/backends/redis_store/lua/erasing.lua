-- Deletes a job with all its traces. Not one whose dependents are still to be told of its end.
local function erase(job)
  local id = job.id
  if call('EXISTS', P .. 'e:' .. id) == 1 and job.ended then return false end
  leave(job)
  for _, parent in ipairs(call('SMEMBERS', P .. 'p:' .. id)) do
    call('HDEL', P .. 'e:' .. parent, id)
  end
  local v = call('HMGET', P .. 'j:' .. id, 'G', 'm')
  if v[1] then
    local name = job.queue .. '\0' .. v[1]
    if call('HGET', P .. 'groups', name) == id then call('HDEL', P .. 'groups', name) end
  end
  if v[2] then call('ZREM', P .. 'kids:' .. v[2], id) end
  keep_promises(job, true, job.generation)
  call('ZREM', P .. 'ids', id)
  call('ZREM', P .. 'open', id)
  call('SREM', P .. 'untold', id)
  call('DEL', P .. 'd:' .. id, P .. 'j:' .. id, P .. 'h:' .. id, P .. 'w:' .. id, P .. 'p:' .. id)
  count(job.state, job.queue, -1)
  return true
end
