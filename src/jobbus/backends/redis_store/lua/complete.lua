-- complete: record the completions of who holds the lease; refuse the others.
-- ARGV: epoch, number of claims under which nothing is left, those, and of each completion, with
-- spaces between: id, attempt, claim, bytes of the document, result ('-' for none, else '+' before
-- it). Answers whether somebody waits for one of the jobs, and the places of those refused.
local COMPLETION = '(%S+) (%S+) (%S+) (%S+) (.*)'
local closed = tonumber(ARGV[2])
close_claims(3, closed)
local done, ended, waited_for, lost = {}, {}, {}, {}
local place = 0
for at = 3 + closed, #ARGV do
  local id, attempt, claim, size, result = string.match(ARGV[at], COMPLETION)
  local key = P .. 'j:' .. id
  local v = call('HMGET', key, 's', 'a', 'n', 'q', 'h', 'u', 'y', 'T', 'E')
  local held = v[2] == attempt and v[3] == claim
  if held and v[1] == 'running' then
    if result == '-' then
      call('HSET', key, 's', 'completed', 'e', NOW)
    else
      call('HSET', key, 's', 'completed', 'e', NOW, 'R', string.sub(result, 2))
    end
    if v[7] then call('HDEL', key, 'y') end
    if v[6] then call('HDEL', P .. 'unique', v[6]) end
    if v[5] then waited_for[#waited_for + 1] = id end
    done[#done + 1] = id
    local queue = v[4]
    local list = ended[queue]
    if not list then
      list = { bytes = 0 }
      ended[queue] = list
    end
    list[#list + 1] = NOW .. ' ' .. id
    list.bytes = list.bytes + tonumber(size) + #result - 1 + (v[9] and #v[9] or 0)
    log(id, 'completed', 'completed', 'running', attempt, '', v[8], queue)
  elseif not (held and v[1] == 'completed') then
    lost[#lost + 1] = place
    if v[1] then fenced(id, v[1], attempt) end
  end
  place = place + 1
end
if #done > 0 then
  call('ZREM', P .. 'open', unpack(done))
  for queue, list in pairs(ended) do
    call('RPUSH', P .. 'end:completed:' .. queue, unpack(list))
    count('running', queue, -#list)
    count('completed', queue, #list)
    weigh('completed', queue, list.bytes)
  end
end
if #waited_for > 0 then call('SADD', P .. 'untold', unpack(waited_for)) end
write_tally()
table.insert(lost, 1, #waited_for)
return lost
