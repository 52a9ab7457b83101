-- enqueue: add the jobs that are new, all or none; answers the ids under which they are known.
-- ARGV: epoch, and of each message words with a NUL behind each, which costs less to send than
-- arguments of their own: id, queue, job type, priority, attempt, delay, moment, and a JSON object
-- of what few jobs ask for; behind them its document.
local MESSAGE = string.rep('([^%z]*)%z', 8) .. '(.*)'
local messages, keys = {}, {}
for i = 2, #ARGV do
  local id, queue, job_type, priority, attempt, delay, moment, asked, document =
    string.match(ARGV[i], MESSAGE)
  local key = P .. 'd:' .. id
  keys[#keys + 1] = key
  messages[#messages + 1] = {
    id = id, queue = queue, job_type = job_type, priority = priority, attempt = attempt,
    delay = tonumber(delay), moment = tonumber(moment), key = key, document = document,
    options = asked ~= '' and cjson.decode(asked) or nil,
  }
end
local some_known = call('EXISTS', unpack(keys)) > 0

-- First look, then write: a script is not undone.
local answers, fresh, added, locks, unknown = {}, {}, {}, {}, {}
for i, message in ipairs(messages) do
  local id, options, holder = message.id, message.options, nil
  if added[id] or (some_known and call('EXISTS', message.key) == 1) then
    holder = id
  elseif options and options.lock then
    holder = locks[options.lock] or call('HGET', P .. 'unique', options.lock) or nil
  end
  answers[i] = holder or id
  if not holder then
    added[id] = true
    fresh[#fresh + 1] = message
    if options and options.lock then locks[options.lock] = id end
  end
end
for _, job in ipairs(fresh) do
  for _, edge in ipairs(job.options and job.options.after or {}) do
    local parent = edge[1]
    if not added[parent] and call('EXISTS', P .. 'd:' .. parent) == 0 then
      unknown[#unknown + 1] = parent
    end
  end
end
if #unknown > 0 then return redis.error_reply('UNKNOWN ' .. table.concat(unknown, ', ')) end
if #fresh == 0 then return answers end

local names, ready, timed, rung, linked = {}, {}, {}, {}, {}
for _, job in ipairs(fresh) do
  local id, options, queue = job.id, job.options, job.queue
  local job_type, priority, delay, moment = job.job_type, job.priority, job.delay, job.moment
  local run_at = int(math.max(now + delay, moment))
  local state = 'queued'
  if options and (options.after or options.group) then
    state = 'blocked'
    linked[#linked + 1] = job
  elseif delay > 0 or moment > now then
    state = 'scheduled'
  end
  call('SET', job.key, job.document)
  if state == 'queued' and not options then
    call('HSET', P .. 'j:' .. id, 's', state, 'q', queue, 'p', priority, 'T', job_type, 't', NOW,
      'r', run_at)
  else
    local set = { 's', state, 'q', queue, 'p', priority, 'T', job_type, 't', NOW, 'r', run_at,
      'i', state }
    if options then
      for _, pair in ipairs({ { 'x', options.max_crashes }, { 'u', options.lock },
          { 'd', options.expires }, { 'G', options.group }, { 'tags', options.tags },
          { 'm', options.parent } }) do
        if pair[2] then
          set[#set + 1] = pair[1]
          set[#set + 1] = pair[2]
        end
      end
      if options.lock then call('HSET', P .. 'unique', options.lock, id) end
      if options.expires then call('ZADD', P .. 'deadlines', options.expires, id) end
      if options.parent then call('ZADD', P .. 'kids:' .. options.parent, 0, id) end
    end
    call('HSET', P .. 'j:' .. id, unpack(set))
  end
  if job.attempt ~= '0' then call('HSET', P .. 'j:' .. id, 'a', job.attempt) end
  names[#names + 1] = 0
  names[#names + 1] = id
  if state == 'queued' then
    local key = ready_key(priority, queue)
    local list = ready[key] or {}
    list[#list + 1] = run_at
    list[#list + 1] = id
    ready[key] = list
  elseif state == 'scheduled' then
    timed[#timed + 1] = run_at
    timed[#timed + 1] = id
  end
  count(state, queue, 1)
  log(id, 'created', state, nil, 0, '', job_type, queue)
end
call('ZADD', P .. 'ids', unpack(names))
call('ZADD', P .. 'open', unpack(names))
if #timed > 0 then call('ZADD', P .. 'timed', unpack(timed)) end
for key, list in pairs(ready) do call('ZADD', key, unpack(list)) end
for name, by in pairs(tally) do
  local total = call('HINCRBY', P .. 'counts', name, by)
  -- Who waits has seen the queue empty, so that only its first job is news.
  if total == by and string.sub(name, 1, 7) == 'queued:' then rung[string.sub(name, 8)] = true end
end
ring(rung)
tally = {}
if #linked > 0 then link(linked) end
return answers
