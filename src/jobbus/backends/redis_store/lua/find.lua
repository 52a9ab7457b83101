-- find: jobs that fit, newest first, among a page of an index. ARGV: epoch, index, where to begin
-- ('+', or '(' and the id behind which), page, limit, a JSON object of conditions, whether only to
-- count. Answers where to go on ('' at the end), how many fit, and those: pairs of document and
-- fields. 'ids:' and ids joined by spaces stands for an index.
local page, limit, where = tonumber(ARGV[4]), tonumber(ARGV[5]), cjson.decode(ARGV[6])
local counting = ARGV[7] == '1'
local ids
if string.sub(ARGV[2], 1, 4) == 'ids:' then
  ids = {}
  for id in string.gmatch(string.sub(ARGV[2], 5), '%S+') do ids[#ids + 1] = id end
else
  ids = call('ZREVRANGEBYLEX', P .. ARGV[2], ARGV[3], '-', 'LIMIT', 0, page)
end

local function tagged(text)
  if not text then return false end
  local readable, tags = pcall(cjson.decode, text)  -- not half of a surrogate pair
  for _, tag in ipairs(readable and tags or {}) do
    if tag == where.tag then return true end
  end
  return false
end

local function fits(v)
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
  return not where.tag or tagged(v[6])
end

local rows, found, reached = {}, 0, ''
for i, id in ipairs(ids) do
  if fits(call('HMGET', P .. 'j:' .. id, 's', 'q', 'T', 't', 'G', 'tags', 'm')) then
    found = found + 1
    if not counting then
      rows[#rows + 1] = { id, call('GET', P .. 'd:' .. id), call('HGETALL', P .. 'j:' .. id) }
    end
    if found >= limit then
      if i < #ids then reached = id end
      break
    end
  end
end
if reached == '' and #ids == page then reached = ids[#ids] end
return { reached, found, rows }
