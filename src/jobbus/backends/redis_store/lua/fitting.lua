-- Conditions on jobs, and the pages in which they are looked for.

-- The ids after 'ids:', which stand for an index; nil for the name of one.
local function listed(index)
  if string.sub(index, 1, 4) ~= 'ids:' then return nil end
  local ids = {}
  for id in string.gmatch(string.sub(index, 5), '%S+') do ids[#ids + 1] = id end
  return ids
end

local function tagged(text, wanted)
  if not text then return false end
  local readable, tags = pcall(cjson.decode, text)  -- not half of a surrogate pair
  for _, tag in ipairs(readable and tags or {}) do
    if tag == wanted then return true end
  end
  return false
end

local function fits(id, where)
  local v = call('HMGET', P .. 'j:' .. id, 's', 'q', 'T', 't', 'G', 'tags', 'm')
  local state, queue, job_type, created = v[1], v[2], v[3], v[4]
  if not state then return false end
  if where.queue and queue ~= where.queue then return false end
  if where.job_type and job_type ~= where.job_type then return false end
  if where.prefix and string.sub(job_type, 1, #where.prefix) ~= where.prefix then return false end
  if where.states and not where.states[state] then return false end
  if where.group and v[5] ~= where.group then return false end
  if where.parent and v[7] ~= where.parent then return false end
  if where.after and tonumber(created) <= where.after then return false end
  if where.before and tonumber(created) >= where.before then return false end
  return not where.tag or tagged(v[6], where.tag)
end
