-- The edges of new, blocked jobs.

-- What a job waits for: those it names, and the one before it in its group. Children that wait for
-- what has ended already are judged.
local function bind(children, id, queue, options)
  local edges = options.after or {}
  children[id] = {}
  if options.group then
    local name = queue .. '\0' .. options.group
    local before = call('HGET', P .. 'groups', name)
    if before and call('EXISTS', P .. 'j:' .. before) == 1 then
      edges[#edges + 1] = { before, 'run' }
    end
    call('HSET', P .. 'groups', name, id)
  end
  for _, edge in ipairs(edges) do
    local parent, policy = edge[1], edge[2]
    local outcome = call('HGET', P .. 'j:' .. parent, 's')
    if ENDED[outcome] then
      judge(children, id, parent, policy, outcome)
    elseif call('HSETNX', P .. 'e:' .. parent, id, policy) == 1 then
      call('SADD', P .. 'p:' .. id, parent)
      call('HSET', P .. 'j:' .. parent, 'h', '1')
    end
  end
end

-- Bind jobs that were added just now, and release those with nothing to wait for.
local function link(jobs)
  local children = {}
  for _, job in ipairs(jobs) do bind(children, job.id, job.queue, job.options) end
  settle_blocked(children)
  resolve(200)
  finish()
end
