-- progress: the words of running jobs; ARGV: epoch, and of each report: id, attempt, claim, text.
for at = 2, #ARGV, 4 do
  local key = P .. 'j:' .. ARGV[at]
  local v = call('HMGET', key, 's', 'a', 'n')
  if v[1] == 'running' and v[2] == ARGV[at + 1] and v[3] == ARGV[at + 2] then
    local word = NOW .. ' ' .. ARGV[at + 3]
    call('HSET', key, 'P', word)
    call('RPUSH', P .. 'w:' .. ARGV[at], word)
  end
end
return 1
