-- What every script of keys begins with. It runs its step once for each key: KEYS are the records,
-- ARGV a line for each, and behind them as many results where a step takes them. A line is short
-- words, each with a line end behind it: that is cheaper to send than arguments of their own. Time is
-- the server's, in microseconds (RD-5).
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local WORD = '([^\n]*)\n'

local function each(words, step)
  local line, answers = string.rep(WORD, words), {}
  for i, key in ipairs(KEYS) do
    answers[i] = step(key, ARGV[#KEYS + i], string.match(ARGV[i], line))
  end
  return answers
end
