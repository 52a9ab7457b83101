-- How a job leaves: every index, promise and edge that names it, then what it is itself.

-- Whether dependents are still to be told of its end: then it has to stay.
local function still_owes(job) return job.ended and call('EXISTS', P .. 'e:' .. job.id) == 1 end

-- Removes every trace of a job but its own keys. Those who wait for it go on waiting.
local function unlist(job)
  local id = job.id
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
  call('DEL', P .. 'p:' .. id)
  count(job.state, job.queue, -1)
end

-- Deletes a job with all its traces. Not one whose dependents are still to be told of its end.
local function erase(job)
  if still_owes(job) then return false end
  unlist(job)
  local id = job.id
  call('DEL', P .. 'd:' .. id, P .. 'j:' .. id, P .. 'h:' .. id, P .. 'w:' .. id)
  return true
end
