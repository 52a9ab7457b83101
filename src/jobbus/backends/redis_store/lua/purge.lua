-- purge: delete jobs of a queue that have not started, among a page of unfinished ones; those that
-- others wait for are cancelled. ARGV: epoch, queue, where the page begins ('-' at first).
-- Answers how many, and where the next page begins ('' at the end).
local page = call('ZRANGEBYLEX', P .. 'open', ARGV[3], '+', 'LIMIT', 0, 200)
local gone = 0
for _, id in ipairs(page) do
  local job = load(id)
  if job and job.queue == ARGV[2] and job.state ~= 'running' and not job.ended then
    if job.waited_for then
      move(job, 'cancelled', 'cancelled', { reason = 'queue purged' })
      gone = gone + 1
    elseif erase(job) then
      gone = gone + 1
    end
  end
end
resolve(200)
finish()
return { gone, #page == 200 and '(' .. page[#page] or '' }
