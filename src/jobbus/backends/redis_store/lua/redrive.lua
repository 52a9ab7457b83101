-- redrive: a new generation of ended jobs that did not complete. ARGV: epoch, ids.
local done = {}
for i = 2, #ARGV do
  local job = load(ARGV[i])
  local free = job and not (job.lock and call('HEXISTS', P .. 'unique', job.lock) == 1)
  if free and job.ended and job.state ~= 'completed' then
    local generation = job.generation + 1
    move(job, 'redriven', 'queued', { delay = 0, failures = 0, crashes = 0,
      generation = generation, reason = 'generation ' .. int(generation) })
    done[#done + 1] = job.id
  end
end
finish()
return done
