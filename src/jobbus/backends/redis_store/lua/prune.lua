-- prune: delete some jobs that ended before a moment. ARGV: epoch, moment, limit, and of each list,
-- a state and a queue in turn. Answers how many, and whether there may be more. Lists of ended jobs
-- are in the order of their ends; an entry is stale when its job is gone, or has ended again since.
resolve(200)
local gone, looked, before, limit = 0, 0, tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 2 do
  local list, kept = P .. 'end:' .. ARGV[i] .. ':' .. ARGV[i + 1], {}
  while gone < limit and looked < 2 * limit do
    local entry = call('LINDEX', list, 0)
    if not entry then break end
    local at, id = string.match(entry, '^(%d+) (.*)$')
    if tonumber(at) >= before then break end
    call('LPOP', list)
    looked = looked + 1
    local v = call('HMGET', P .. 'j:' .. id, 's', 'e')
    if v[1] == ARGV[i] and v[2] == at then
      if erase(load(id)) then gone = gone + 1 else kept[#kept + 1] = entry end
    end
  end
  for place = #kept, 1, -1 do call('LPUSH', list, kept[place]) end
end
finish()
return { gone, looked >= limit and 1 or 0 }
