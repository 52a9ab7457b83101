-- suspect: this job, under whose hands a process died before, is about to run alone.
-- ARGV: epoch, id, attempt, claim. Answers 1, or 0 when the lease was lost.
local key = P .. 'j:' .. ARGV[2]
local v = call('HMGET', key, 's', 'a', 'n')
if v[1] ~= 'running' or v[2] ~= ARGV[3] or v[3] ~= ARGV[4] then return 0 end
call('HSET', key, 'y', '1')
return 1
