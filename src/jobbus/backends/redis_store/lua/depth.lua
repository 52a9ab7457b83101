-- depth: a queue's jobs by state, and since when the oldest ready one has been ready.
-- ARGV: epoch, queue.
local numbers = call('HMGET', P .. 'counts', 'queued:' .. ARGV[2], 'running:' .. ARGV[2],
  'scheduled:' .. ARGV[2], 'retrying:' .. ARGV[2], 'blocked:' .. ARGV[2], 'failed:' .. ARGV[2],
  'timed_out:' .. ARGV[2])
local oldest
for priority = 1, 10 do
  local first = call('ZRANGE', ready_key(priority, ARGV[2]), 0, 0, 'WITHSCORES')
  if first[2] and (not oldest or tonumber(first[2]) < oldest) then oldest = tonumber(first[2]) end
end
local answer = {}
for i = 1, 7 do answer[i] = tonumber(numbers[i] or 0) end
answer[8] = oldest and math.max(now - oldest, 0) or -1
return answer
