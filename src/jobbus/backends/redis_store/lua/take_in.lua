-- take_in: keep jobs that come from another store, with their past, each behind those that it waits
-- for; forget the lines of the journal about them. ARGV: epoch, why they came ('' for no word of
-- it), and of each job: id, document, result ('-' for none, else '+' before it), and a JSON object
-- of the rest. Answers of each that is refused: id, 'key' or 'wait', and the job that is why.
local WIDTH = 4
local coming, locks, accepted, arrived, refused, children = {}, {}, {}, {}, {}, {}

local function refusal(told)
  local holder = told.lock and (locks[told.lock] or call('HGET', P .. 'unique', told.lock))
  if holder then return 'key', holder end
  for _, edge in ipairs(told.after or {}) do
    if not coming[edge[1]] and call('EXISTS', P .. 'j:' .. edge[1]) == 0 then
      return 'wait', edge[1]
    end
  end
end

-- First look, then write: a script is not undone.
for at = 3, #ARGV, WIDTH do
  local id, why, other = ARGV[at], nil, nil
  if call('EXISTS', P .. 'd:' .. id, P .. 'j:' .. id) == 0 and not coming[id] then
    local told = cjson.decode(ARGV[at + 3])
    why, other = refusal(told)
    if not why then
      coming[id] = true
      if told.lock then locks[told.lock] = id end
      accepted[#accepted + 1] = { at = at, told = told }
    end
  end
  if why then refused[#refused + 1] = { id, why, other } else arrived[#arrived + 1] = id end
end

local function append(key, entries)
  for first = 1, #entries, 1000 do
    call('RPUSH', key, unpack(entries, first, math.min(first + 999, #entries)))
  end
end

-- The state of a job that had not ended: it waits for others, for its time, or for a worker.
local function standing(job, told)
  bind(children, job.id, job.queue, told)
  if children[job.id].policy or call('SCARD', P .. 'p:' .. job.id) > 0 then return 'blocked' end
  if job.state == 'queued' or tonumber(job.run_at) <= now then return 'queued' end
  return job.state == 'retrying' and 'retrying' or 'scheduled'
end

-- Retention comes upon an old end behind newer ones when those are due, so never much too late.
local function rest(job, told)
  call('RPUSH', P .. 'end:' .. job.state .. ':' .. job.queue, told.ended .. ' ' .. job.id)
  weigh(job.state, job.queue, size_of(job.id))
  if job.state ~= 'completed' then call('ZADD', P .. 'unlucky', 0, job.id) end
end

local function arrive(at, told)
  local id = ARGV[at]
  local key, result = P .. 'j:' .. id, ARGV[at + 2]
  call('SET', P .. 'd:' .. id, ARGV[at + 1])
  call('HSET', key, unpack(told.fields))
  if result ~= '-' then call('HSET', key, 'R', string.sub(result, 2)) end
  append(P .. 'h:' .. id, told.history)
  append(P .. 'w:' .. id, told.words)
  call('ZADD', P .. 'ids', 0, id)
  if told.parent then call('ZADD', P .. 'kids:' .. told.parent, 0, id) end
  local job = load(id)
  local to = job.ended and job.state or standing(job, told)
  if job.ended then
    rest(job, told)
  else
    call('HSET', key, 's', to)
    call('ZADD', P .. 'open', 0, id)
    enter(job, to, job.run_at)
  end
  if call('EXISTS', P .. 'e:' .. id) == 1 then  -- some stayed when it left, and wait still
    call('HSET', key, 'h', '1')
    if job.ended then call('SADD', P .. 'untold', id) end
  end
  keep_promises(job, job.ended, job.generation)
  count(to, job.queue, 1)
  -- Who comes home and finds that its group went on has moved after all.
  local overtaken = to == 'blocked' and job.state ~= 'blocked'
  local reason = ARGV[2] == '' and overtaken and 'behind its group' or ARGV[2]
  if reason ~= '' then
    tell(id, 'moved', job.state, to, job.attempt, nil, nil, reason)
    log(id, 'moved', to, job.state, job.attempt, reason, job.job_type, job.queue)
  end
end

for _, job in ipairs(accepted) do arrive(job.at, job.told) end
for _, id in ipairs(arrived) do forget(id) end
settle_blocked(children)
resolve(200)
finish()
return refused
