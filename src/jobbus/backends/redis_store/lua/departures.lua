-- departures: lines of the journal of moves. ARGV: epoch, where to begin ('-', or '(' and the id
-- behind which), limit, and ids, where only theirs are asked for.
local lines = {}
if #ARGV > 3 then
  for i = 4, #ARGV do
    if call('ZSCORE', P .. 'gone', ARGV[i]) then lines[#lines + 1] = line(ARGV[i]) end
  end
else
  for _, id in ipairs(call('ZRANGEBYLEX', P .. 'gone', ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
    lines[#lines + 1] = line(id)
  end
end
return lines
