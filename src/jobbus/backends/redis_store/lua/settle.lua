-- settle: how attempts end that did not simply complete.
-- ARGV: epoch, number of claims under which nothing is left, those, a JSON list of settlements.
-- Answers how many ended jobs others are still to be told of, and the places of those whose lease
-- was lost.
local closed = tonumber(ARGV[2])
close_claims(3, closed)
local lost = {}

local REPEATS = {
  cancelled = { cancelled = true },
  dead = { failed = true, timed_out = true },
  timed_out = { failed = true, timed_out = true },
  crash = { queued = true, retrying = true, failed = true },
  failure = { queued = true, retrying = true },
  snooze = { queued = true, retrying = true },
  release = { queued = true, retrying = true },
}

local function settle(job, s)
  local kind, problem, reason = s.kind, s.problem, s.reason or ''
  if kind == 'cancelled' then
    move(job, 'cancelled', 'cancelled', { reason = reason, keep = true })
  elseif kind == 'dead' or kind == 'timed_out' then
    local to = kind == 'dead' and 'failed' or 'timed_out'
    move(job, to, to, { failures = job.failures + 1, problem = problem, reason = reason,
      keep = true })
  elseif job.asked then
    move(job, 'cancelled', 'cancelled', { reason = 'asked to stop while it ran',
      problem = problem, keep = true })
  elseif kind == 'crash' then
    crashed(job, reason, s.delay, true, true)
  elseif kind == 'release' then
    move(job, 'released', 'queued', { delay = 0, reason = reason, keep = true })
  elseif kind == 'snooze' then
    move(job, 'snoozed', 'retrying', { delay = s.delay, snoozes = job.snoozes + 1,
      problem = problem, reason = reason, keep = true })
  else
    move(job, 'retry_scheduled', 'retrying', { delay = s.delay, failures = job.failures + 1,
      problem = problem, reason = reason, keep = true })
  end
end

for place, s in ipairs(cjson.decode(ARGV[3 + closed])) do
  local job = load(s.id)
  local held = job and job.attempt == s.attempt and job.claim == s.claim
  if held and job.state == 'running' then
    settle(job, s)
  elseif not (held and REPEATS[s.kind][job.state]) then
    lost[#lost + 1] = place - 1
    if job then fenced(job.id, job.state, s.attempt) end
  end
end
resolve(200)
finish()
table.insert(lost, 1, call('SCARD', P .. 'untold'))
return lost
