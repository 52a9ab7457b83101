-- What every script of keys begins with. It runs its step once for each key: KEYS are the records,
-- ARGV one argument for each: short words, each with a line end behind it, and a result behind them
-- where a step takes one. That is cheaper to send than arguments of their own. Time is the server's,
-- in microseconds (RD-5).
--
-- A record is words in the same way: state (i, r, c, f), owner, fence, crashes, fingerprint, lease
-- until, job; and then what came of the work, '-' for nothing or '+' before it. One string is read
-- and written in one command each, with its time to live.
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local WORD = '([^\n]*)\n'
local RECORD = string.rep(WORD, 7) .. '(.*)'

local function each(words, step)
  local line, answers = string.rep(WORD, words) .. '(.*)', {}
  for i, key in ipairs(KEYS) do answers[i] = step(key, string.match(ARGV[i], line)) end
  return answers
end

local function read(key)
  local text = call('GET', key)
  if text then return string.match(text, RECORD) end
end

local function write(key, ttl, ...)
  call('SET', key, table.concat({ ... }, '\n'), 'PX', ttl)
end

local function moment(microseconds)
  return string.format('%.0f', microseconds)
end
