-- extend: keep these claims for so long from now, and say how each job stands.
-- ARGV: epoch, lease, number of claims, those, and of each delivery: id, attempt, claim.
-- Answers a letter each: k(ept), l(ost), c(ancel requested). A lease of 0 only looks.
local lease, number = tonumber(ARGV[2]), tonumber(ARGV[3])
local kept, letters = {}, {}
for i = 4, 3 + number do
  local claim = ARGV[i]
  local until_then = call('ZSCORE', P .. 'leases', claim)
  if until_then then
    kept[claim] = true
    if lease > 0 then
      call('ZADD', P .. 'leases', int(math.max(tonumber(until_then), now + lease)), claim)
      local worker = string.match(call('GET', P .. 'c:' .. claim) or '', '^[^\n]+')
      if worker then call('ZADD', P .. 'seen', NOW, worker) end
    end
  end
end
for at = 4 + number, #ARGV, 3 do
  local v = call('HMGET', P .. 'j:' .. ARGV[at], 's', 'a', 'n', 'o')
  local letter = 'l'
  if v[1] == 'running' and v[2] == ARGV[at + 1] and v[3] == ARGV[at + 2] then
    if kept[ARGV[at + 2]] then letter = v[4] and 'c' or 'k' end
  end
  letters[#letters + 1] = letter
end
return table.concat(letters)
