-- Changes of jobs: their record, every index that they stand in, their history.
local TIMED = { scheduled = true, retrying = true }
local ENDED = { completed = true, failed = true, cancelled = true, timed_out = true, expired = true }

local function load(id)
  local v = call('HMGET', P .. 'j:' .. id, 's', 'q', 'p', 'a', 'n', 'w', 'b', 'f', 'k', 'z', 'g',
    'x', 'y', 'o', 'h', 'u', 'T', 'r', 'd')
  if not v[1] then return nil end
  return { id = id, state = v[1], queue = v[2], priority = v[3], attempt = v[4] or '0', claim = v[5],
    worker = v[6], started = v[7], failures = tonumber(v[8] or 0), crashes = tonumber(v[9] or 0),
    snoozes = tonumber(v[10] or 0), generation = tonumber(v[11] or 1),
    max_crashes = tonumber(v[12] or 3), suspect = v[13] and true, asked = v[14] and true,
    waited_for = v[15] and true, lock = v[16] or nil, job_type = v[17], run_at = v[18],
    expires = v[19] or nil, ended = ENDED[v[1]] }
end

local rung = {}

local function size_of(id)
  local key = P .. 'j:' .. id
  return call('STRLEN', P .. 'd:' .. id) + call('HSTRLEN', key, 'R') + call('HSTRLEN', key, 'E')
end

local function leave(job)
  if job.state == 'queued' then
    call('ZREM', ready_key(job.priority, job.queue), job.id)
  elseif TIMED[job.state] then
    call('ZREM', P .. 'timed', job.id)
  elseif job.ended then
    call('ZREM', P .. 'unlucky', job.id)
    call('ZADD', P .. 'open', 0, job.id)
    weigh(job.state, job.queue, -size_of(job.id))
  end
end

local function enter(job, to, run_at)
  if to == 'queued' then
    call('ZADD', ready_key(job.priority, job.queue), run_at, job.id)
    rung[job.queue] = true
  elseif TIMED[to] then
    call('ZADD', P .. 'timed', run_at, job.id)
  elseif ENDED[to] then
    call('ZREM', P .. 'open', job.id)
    call('RPUSH', P .. 'end:' .. to .. ':' .. job.queue, NOW .. ' ' .. job.id)
    if to ~= 'completed' then call('ZADD', P .. 'unlucky', 0, job.id) end
    if job.waited_for then call('SADD', P .. 'untold', job.id) end
  end
end

-- A unique key is held while its job is unfinished; a start deadline holds before every attempt of
-- the first generation.
local function keep_promises(job, ended, generation)
  if job.lock then
    if not ended then
      call('HSET', P .. 'unique', job.lock, job.id)
    elseif call('HGET', P .. 'unique', job.lock) == job.id then
      call('HDEL', P .. 'unique', job.lock)
    end
  end
  if job.expires then
    if ended or generation > 1 then
      call('ZREM', P .. 'deadlines', job.id)
    else
      call('ZADD', P .. 'deadlines', job.expires, job.id)
    end
  end
end

-- c: delay (nil leaves the due time alone), failures, crashes, snoozes, generation, problem, reason,
-- keep (the claim that settled the job may repeat itself), silent (the record tells of it).
local function move(job, event, to, c)
  local key, ended = P .. 'j:' .. job.id, ENDED[to]
  local generation = c.generation or job.generation
  local run_at = c.delay and int(now + c.delay) or job.run_at
  leave(job)
  enter(job, to, run_at)
  local set, gone = { 's', to, 'r', run_at }, { 'y' }
  local function put(field, value, default)
    if value == nil or value == default then
      gone[#gone + 1] = field
    else
      set[#set + 1] = field
      set[#set + 1] = value
    end
  end
  put('f', int(c.failures or job.failures), '0')
  put('k', int(c.crashes or job.crashes), '0')
  put('z', int(c.snoozes or job.snoozes), '0')
  put('g', int(generation), '1')
  put('e', ended and NOW or nil)
  if not c.keep then gone[#gone + 1] = 'n' end
  if c.problem then put('E', c.problem) end
  if generation ~= job.generation then
    gone[#gone + 1] = 'R'
    gone[#gone + 1] = 'o'
    if not c.problem then gone[#gone + 1] = 'E' end
  end
  call('HDEL', key, unpack(gone))
  call('HSET', key, unpack(set))
  if ended then weigh(to, job.queue, size_of(job.id)) end
  keep_promises(job, ended, generation)
  count(job.state, job.queue, -1)
  count(to, job.queue, 1)
  local was_running = job.state == 'running'
  if not c.silent then
    tell(job.id, event, job.state, to, job.attempt, was_running and job.worker or nil,
      was_running and job.started or nil, c.reason, c.problem)
  end
  log(job.id, event, to, job.state, job.attempt, c.reason or '', job.job_type, job.queue)
end

-- A process died with this job in its hands. Without proof that it was the job's doing, a first
-- crash counts, and makes the job a suspect that runs alone; a suspect's further crashes count only
-- when it was running, as its mark says.
local function crashed(job, reason, delay, proven, keep)
  local crashes = job.crashes
  if proven or job.suspect or crashes == 0 then crashes = crashes + 1 end
  if crashes >= job.max_crashes then
    local message = 'the process that ran it died ' .. int(crashes) .. ' times; the last: ' .. reason
    move(job, 'failed', 'failed', { crashes = crashes, reason = message, keep = keep,
      problem = cjson.encode({ kind = 'poison_crash', message = message }) })
  else
    move(job, 'crashed', delay > 0 and 'retrying' or 'queued',
      { delay = delay, crashes = crashes, reason = reason, keep = keep })
  end
end

local function finish()
  write_tally()
  ring(rung)
end
