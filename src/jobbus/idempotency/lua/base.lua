-- What every script of keys begins with. It runs its step once for each key: KEYS are the records,
-- ARGV[1] is how many arguments belong to each, and they follow. Time is the server's, in
-- microseconds (RD-5).
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function each(step)
  local width, answers = tonumber(ARGV[1]), {}
  for i, key in ipairs(KEYS) do
    answers[i] = step(key, unpack(ARGV, 2 + (i - 1) * width, 1 + i * width))
  end
  return answers
end
