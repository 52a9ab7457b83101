-- tend: do what fell due, a page of each kind at a time.
-- ARGV: epoch, how long leases must have run out, a JSON list of dead workers, this worker's name
-- and description ('' for one that does not claim). Answers how many jobs were taken back, whether
-- there is more to do, and the microseconds until the next delayed job is due, or -1.
local PAGE, CLAIMS = 200, 4
local expired_for, dead, worker = tonumber(ARGV[2]), {}, ARGV[4]
for _, name in ipairs(cjson.decode(ARGV[3])) do dead[name] = true end
if worker ~= '' then
  call('HSETNX', P .. 'workers', worker, NOW .. ' ' .. ARGV[5])
  call('ZADD', P .. 'seen', NOW, worker)
end

-- Due jobs become ready. Their records tell when that was.
local due = call('ZRANGEBYSCORE', P .. 'timed', '-inf', NOW, 'LIMIT', 0, PAGE)
for _, id in ipairs(due) do
  local v = call('HMGET', P .. 'j:' .. id, 's', 'q', 'p', 'r')
  call('ZREM', P .. 'timed', id)
  if v[1] and TIMED[v[1]] then
    call('HSET', P .. 'j:' .. id, 's', 'queued')
    call('ZADD', ready_key(v[3], v[2]), v[4], id)
    count(v[1], v[2], -1)
    count('queued', v[2], 1)
    rung[v[2]] = true
  end
end

local overdue = call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', NOW, 'LIMIT', 0, PAGE)
for _, id in ipairs(overdue) do
  local job = load(id)
  if job and job.state ~= 'running' and not job.ended then
    move(job, 'expired', 'expired', { reason = 'its start deadline passed' })
  else
    call('ZREM', P .. 'deadlines', id)
  end
end

local function take_back(claim, ids)
  local taken = 0
  for id in string.gmatch(ids, '%S+') do
    local job = load(id)
    if job and job.state == 'running' and job.claim == claim then
      if job.asked then
        move(job, 'cancelled', 'cancelled', { reason = 'asked to stop; its worker died' })
      else
        crashed(job, 'its worker died or stopped renewing the lease', 0, false)
      end
      taken = taken + 1
    end
  end
  call('ZREM', P .. 'leases', claim)
  call('DEL', P .. 'c:' .. claim)
  return taken
end

local lapsed = call('ZRANGEBYSCORE', P .. 'leases', '-inf', '(' .. int(now - expired_for), 'LIMIT',
  0, CLAIMS)
local more = #due == PAGE or #overdue == PAGE or #lapsed == CLAIMS
if next(dead) then
  for _, claim in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    local holder = string.match(call('GET', P .. 'c:' .. claim) or '', '^[^\n]+')
    if holder and dead[holder] then
      if #lapsed >= 2 * CLAIMS then more = true break end
      lapsed[#lapsed + 1] = claim
    end
  end
end
local taken = 0
for _, claim in ipairs(lapsed) do
  local ids = string.match(call('GET', P .. 'c:' .. claim) or '', '\n[^\n]*\n(.*)$')
  taken = taken + take_back(claim, ids or '')
end

resolve(PAGE)
finish()
more = more or call('SCARD', P .. 'untold') > 0
local first = call('ZRANGE', P .. 'timed', 0, 0, 'WITHSCORES')
local next_due = first[2] and math.max(tonumber(first[2]) - now, 0) or -1
return { taken, more and 1 or 0, next_due }
