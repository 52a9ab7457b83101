-- claim: hand out the best ready jobs of a queue under one lease.
-- ARGV: epoch, queue, limit, lease, claim, worker. Answers the time, a line for each job, and its
-- document. Nothing when the queue is paused.
local queue, limit, lease, claim, worker = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5],
  ARGV[6]
if string.sub(call('HGET', P .. 'queues', queue) or '', 1, 1) == '1' then return {} end
if tonumber(call('HGET', P .. 'counts', 'queued:' .. queue) or 0) <= 0 then return {} end

local ids, lines, documents, ghosts, dated = {}, {}, {}, {}, {}
for priority = 10, 1, -1 do
  local key, start, taken = ready_key(priority, queue), 0, {}
  repeat
    local wanted = limit - #ids
    if wanted <= 0 then break end
    local page = call('ZRANGE', key, start, start + wanted - 1)
    for _, id in ipairs(page) do
      local v = call('HMGET', P .. 'j:' .. id, 'a', 'f', 'k', 'r', 't', 'd', 'g', 'T')
      if not v[4] then
        ghosts[#ghosts + 1] = id
        taken[#taken + 1] = id
      elseif not (v[6] and not v[7] and tonumber(v[6]) <= now) then
        ids[#ids + 1] = id
        taken[#taken + 1] = id
        documents[#documents + 1] = P .. 'd:' .. id
        if v[6] then dated[#dated + 1] = id end
        local attempt = int((v[1] or 0) + 1)
        lines[#lines + 1] = table.concat({ id, attempt, v[2] or '0', v[3] or '0', int(priority),
          v[4], v[5] }, ' ')
        call('HSET', P .. 'j:' .. id, 's', 'running', 'a', attempt, 'n', claim, 'w', worker,
          'b', NOW)
        log(id, 'started', 'running', 'queued', attempt, '', v[8], queue)
      end
    end
    start = start + #page
  until #page < wanted
  if #taken > 0 then call('ZREM', key, unpack(taken)) end
end
if #ghosts > 0 then count('queued', queue, -#ghosts) end
if #ids > 0 then
  if #dated > 0 then call('ZREM', P .. 'deadlines', unpack(dated)) end
  call('SET', P .. 'c:' .. claim, worker .. '\n' .. queue .. '\n' .. table.concat(ids, ' '))
  call('ZADD', P .. 'leases', int(now + lease), claim)
  count('queued', queue, -#ids)
  count('running', queue, #ids)
end
write_tally()
if #ids == 0 then return {} end
local answer = call('MGET', unpack(documents))
table.insert(answer, 1, table.concat(lines, '\n'))
table.insert(answer, 1, NOW)
return answer
