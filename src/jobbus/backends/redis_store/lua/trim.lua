-- trim: delete some ended jobs of a queue, the oldest beyond what it keeps. ARGV: epoch, queue, how
-- many jobs and how many bytes it keeps ('' is no limit), limit, states. Answers how many, and
-- whether there may be more.
resolve(200)
local queue, limit = ARGV[2], tonumber(ARGV[5])
local keep_jobs, keep_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local gone, looked, jobs, bytes, heads, kept = 0, 0, 0, 0, {}, {}

local function list_of(state) return P .. 'end:' .. state .. ':' .. queue end

-- The oldest that ended so, nil when there is none; drops entries that are stale.
local function oldest(state)
  while looked < 2 * limit do
    local entry = call('LINDEX', list_of(state), 0)
    if not entry then return nil end
    local at, id = string.match(entry, '^(%d+) (.*)$')
    local v = call('HMGET', P .. 'j:' .. id, 's', 'e')
    if v[1] == state and v[2] == at then return { at = tonumber(at), id = id, entry = entry } end
    call('LPOP', list_of(state))
    looked = looked + 1
  end
end

for i = 6, #ARGV do
  local name = ARGV[i] .. ':' .. queue
  jobs = jobs + (call('HGET', P .. 'counts', name) or 0) + (tally[name] or 0)
  bytes = bytes + (call('HGET', P .. 'bytes', name) or 0) + (weights[name] or 0)
  heads[ARGV[i]] = oldest(ARGV[i])
  kept[ARGV[i]] = {}
end

while gone < limit and looked < 2 * limit
    and (keep_jobs and jobs > keep_jobs or keep_bytes and bytes > keep_bytes) do
  local first
  for state, head in pairs(heads) do
    if not first or head.at < heads[first].at then first = state end
  end
  if not first then break end
  local head = heads[first]
  call('LPOP', list_of(first))
  looked = looked + 1
  local size = size_of(head.id)
  if erase(load(head.id)) then
    gone = gone + 1
    jobs, bytes = jobs - 1, bytes - size
  else
    table.insert(kept[first], head.entry)
  end
  heads[first] = oldest(first)
end
for state, entries in pairs(kept) do
  for place = #entries, 1, -1 do call('LPUSH', list_of(state), entries[place]) end
end
finish()
return { gone, looked >= limit and 1 or 0 }
