-- find: jobs that fit, newest first, among a page of an index. ARGV: epoch, index, where to begin
-- ('+', or '(' and the id behind which), page, limit, a JSON object of conditions, whether only to
-- count. Answers where to go on ('' at the end), how many fit, and those: pairs of document and
-- fields. 'ids:' and ids joined by spaces stands for an index.
local page, limit, where = tonumber(ARGV[4]), tonumber(ARGV[5]), cjson.decode(ARGV[6])
local counting = ARGV[7] == '1'
local ids = listed(ARGV[2])
  or call('ZREVRANGEBYLEX', P .. ARGV[2], ARGV[3], '-', 'LIMIT', 0, page)

local rows, found, reached = {}, 0, ''
for i, id in ipairs(ids) do
  if fits(id, where) then
    found = found + 1
    if not counting then
      rows[#rows + 1] = { id, call('GET', P .. 'd:' .. id), call('HGETALL', P .. 'j:' .. id) }
    end
    if found >= limit then
      if i < #ids then reached = id end
      break
    end
  end
end
if reached == '' and #ids == page then reached = ids[#ids] end
return { reached, found, rows }
