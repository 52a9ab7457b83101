-- discard: delete ended jobs. ARGV: epoch, ids; answers those that are gone.
resolve(200)
local gone = {}
for i = 2, #ARGV do
  local job = load(ARGV[i])
  if job and job.ended and erase(job) then gone[#gone + 1] = job.id end
end
finish()
return gone
