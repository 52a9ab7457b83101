-- cancel: end what waits, ask what runs to stop. ARGV: epoch, reason, ids.
-- Answers a letter each: c(ancelled), r(equested), f(inished), n(ot found).
local letters = {}
for i = 3, #ARGV do
  local job = load(ARGV[i])
  local letter = 'c'
  if not job then
    letter = 'n'
  elseif job.ended then
    letter = 'f'
  elseif job.state ~= 'running' then
    move(job, 'cancelled', 'cancelled', { reason = ARGV[2] })
  else
    letter = 'r'
    if not job.asked then
      call('HSET', P .. 'j:' .. job.id, 'o', '1')
      tell(job.id, 'cancel_requested', 'running', 'running', job.attempt, job.worker, job.started,
        ARGV[2])
    end
  end
  letters[#letters + 1] = letter
end
resolve(200)
finish()
return table.concat(letters)
