-- What every script begins with. KEYS[1] is the prefix of all keys, whose hash tag puts them into
-- one slot; ARGV[1] the epoch that the caller knows. Times are microseconds of the server's clock.
local P, call = KEYS[1], redis.call
if call('GET', P .. 'epoch') ~= ARGV[1] then
  return redis.error_reply('EPOCH the data is not what it was')
end
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Lua writes numbers with 14 digits; moments have 16.
local function int(number) return string.format('%.0f', number) end
local NOW = int(now)

local function ready_key(priority, queue) return P .. 'r:' .. priority .. ':' .. queue end

-- How many jobs are in which state of which queue: counted here, written once.
local tally = {}
local function count(state, queue, by)
  local name = state .. ':' .. queue
  tally[name] = (tally[name] or 0) + by
end
-- And how many bytes ended jobs take: their documents, results and problems.
local weights = {}
local function weigh(state, queue, by)
  local name = state .. ':' .. queue
  weights[name] = (weights[name] or 0) + by
end
local function write_tally()
  for name, by in pairs(tally) do
    if by ~= 0 then call('HINCRBY', P .. 'counts', name, by) end
  end
  for name, by in pairs(weights) do
    if by ~= 0 then call('HINCRBY', P .. 'bytes', name, int(by)) end
  end
end

-- Wakes who waits for jobs of these queues; a hint that may get lost.
local function ring(queues)
  for queue in pairs(queues) do call('PUBLISH', P .. 'news', queue) end
end

local watched = call('EXISTS', P .. 'watch') == 1
local function log(id, event, to, from, attempt, reason, job_type, queue)
  if not watched then return end
  local number = call('INCR', P .. 'logged')
  call('XADD', P .. 'log', 'MAXLEN', '~', 10000, int(number) .. '-0', 'e', cjson.encode({
    id, event, to, from or cjson.null, tonumber(attempt), reason, job_type, queue, NOW }))
  call('PEXPIRE', P .. 'log', 3600000)
end
