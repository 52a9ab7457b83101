-- workers: everybody seen in the last hour, or who still holds something. ARGV: epoch. Answers of
-- each: name, description, when seen, age in microseconds, jobs in its hands. Forgets the others.
local running = {}
for _, claim in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local worker, ids = string.match(call('GET', P .. 'c:' .. claim) or '', '^([^\n]+)\n[^\n]*\n(.*)$')
  if worker then
    running[worker] = running[worker] or 0
    for id in string.gmatch(ids, '%S+') do
      local v = call('HMGET', P .. 'j:' .. id, 's', 'n')
      if v[1] == 'running' and v[2] == claim then running[worker] = running[worker] + 1 end
    end
  end
end
local found = {}
local seen = call('ZRANGE', P .. 'seen', 0, -1, 'WITHSCORES')
for i = 1, #seen, 2 do
  local name, age = seen[i], now - tonumber(seen[i + 1])
  local told = call('HGET', P .. 'workers', name)
  if told and (running[name] or age < 3600000000) then
    found[#found + 1] = { name, told, int(tonumber(seen[i + 1])), int(age), running[name] or 0 }
  else
    call('ZREM', P .. 'seen', name)
    call('HDEL', P .. 'workers', name)
  end
end
return found
