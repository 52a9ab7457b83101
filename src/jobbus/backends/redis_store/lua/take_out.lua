-- take_out: put jobs that fit into the journal of moves, oldest first, among a page of an index.
-- ARGV: epoch, index, where to begin ('-', or '(' and the id behind which), page, limit, a JSON
-- object of conditions (which name states, and not running), and where the jobs go. Answers where
-- to go on ('' at the end), the ids of those that stay and why, in turn, and the lines of those
-- that left.

-- A user who may not rename learns it here, before anything has changed.
call('RENAME', P .. 'epoch', P .. 'epoch')
resolve(200)
local page, limit, where = tonumber(ARGV[4]), tonumber(ARGV[5]), cjson.decode(ARGV[6])
local ids = listed(ARGV[2]) or call('ZRANGEBYLEX', P .. ARGV[2], ARGV[3], '+', 'LIMIT', 0, page)

local found, leaving, reached = {}, {}, ''
for i, id in ipairs(ids) do
  if fits(id, where) then
    local job = load(id)
    job.parents = call('SMEMBERS', P .. 'p:' .. id)
    found[#found + 1] = job
    leaving[id] = true
    if #found >= limit then
      if i < #ids then reached = id end
      break
    end
  end
end
if reached == '' and #ids == page then reached = ids[#ids] end

local here = {}
local function is_here(id)
  if here[id] == nil then here[id] = call('EXISTS', P .. 'j:' .. id) == 1 end
  return here[id]
end

local function bound(job)
  if still_owes(job) then return 'jobs that wait for it are still to be told of its end' end
  if call('EXISTS', GONE .. 'j:' .. job.id) == 1
      and call('HEXISTS', GONE .. 'j:' .. job.id, 'arrived') == 0 then
    return 'it was enqueued again while it was on its way'
  end
  for _, parent in ipairs(job.parents) do
    if not leaving[parent] and is_here(parent) then
      return 'it waits for job ' .. parent .. ', which stays for now'
    end
  end
end

local staying, more = {}, true
while more do
  more = false
  for _, job in ipairs(found) do
    local why = leaving[job.id] and bound(job)
    if why then
      leaving[job.id] = nil
      staying[#staying + 1] = job.id
      staying[#staying + 1] = why
      more = true
    end
  end
end

local function depart(job)
  local id, edges = job.id, {}
  for i, parent in ipairs(job.parents) do
    edges[i] = { parent, call('HGET', P .. 'e:' .. parent, id) or 'run' }
  end
  unlist(job)
  forget(id)  -- enqueued again after it had arrived, it is the same job still
  for _, part in ipairs({ 'd:', 'j:', 'h:', 'w:' }) do
    local key = part .. id
    if call('EXISTS', P .. key) == 1 then call('RENAME', P .. key, GONE .. key) end
  end
  call('HSET', GONE .. 'j:' .. id, 'to', ARGV[7])
  if #edges > 0 then call('HSET', GONE .. 'j:' .. id, 'edges', cjson.encode(edges)) end
  call('ZADD', P .. 'gone', 0, id)
end

local lines = {}
for _, job in ipairs(found) do
  if leaving[job.id] then
    depart(job)
    lines[#lines + 1] = line(job.id)
  end
end
finish()
return { reached, staying, lines }
