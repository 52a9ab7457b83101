-- Edges between jobs: who waits for whom, and what an end means to those who waited. Of a parent,
-- ``e:`` holds its children and their policies; of a child, ``p:`` those that it still waits for.

-- What became of blocked jobs: 'fail' and 'skip' are verdicts, the rest may be free.
local function settle_blocked(children)
  for id, verdict in pairs(children) do
    local job = load(id)
    if job and job.state == 'blocked' then
      if verdict.policy == 'skip' then
        move(job, 'cancelled', 'cancelled', { reason = verdict.reason })
      elseif verdict.policy == 'fail' then
        move(job, 'failed', 'failed', { reason = verdict.reason,
          problem = cjson.encode({ kind = 'dependency_failed', message = verdict.reason }) })
      elseif call('SCARD', P .. 'p:' .. id) == 0 then
        local early = tonumber(job.run_at) > now
        move(job, 'released_to_queue', early and 'scheduled' or 'queued',
          { silent = true, delay = not early and 0 or nil })
      end
    end
  end
end

local function judge(children, id, parent, policy, outcome)
  local verdict = children[id] or {}
  children[id] = verdict
  if outcome == 'completed' or policy == 'run' or verdict.policy == 'fail' then return end
  if verdict.policy and policy == 'skip' then return end
  verdict.policy = policy
  verdict.reason = 'job ' .. parent .. ', on which it depends, ended ' .. outcome
end

-- Tell up to so many children that what they waited for has ended. What is left stays untold.
local function resolve(budget)
  while budget > 0 do
    local parents = call('SRANDMEMBER', P .. 'untold', 50)
    if #parents == 0 then return end
    local children = {}
    for _, parent in ipairs(parents) do
      local outcome, edges, cursor = call('HGET', P .. 'j:' .. parent, 's'), P .. 'e:' .. parent, '0'
      local open = outcome and not ENDED[outcome]
      while not open and budget > 0 do
        local page = call('HSCAN', edges, cursor, 'COUNT', 100)
        for i = 1, #page[2], 2 do
          local child = page[2][i]
          call('HDEL', edges, child)
          call('SREM', P .. 'p:' .. child, parent)
          judge(children, child, parent, page[2][i + 1], outcome or 'removed')
          budget = budget - 1
        end
        cursor = page[1]
        if cursor == '0' then break end
      end
      if open or call('EXISTS', edges) == 0 then call('SREM', P .. 'untold', parent) end
    end
    settle_blocked(children)
  end
end
