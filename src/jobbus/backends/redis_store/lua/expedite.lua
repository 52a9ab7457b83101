-- expedite: make delayed jobs due now. ARGV: epoch, ids.
local done = {}
for i = 2, #ARGV do
  local job = load(ARGV[i])
  if job and TIMED[job.state] then
    move(job, 'released_to_queue', 'queued', { delay = 0, reason = 'expedited' })
    done[#done + 1] = job.id
  end
end
finish()
return done
