-- What settling shares: history entries, closed claims, and late workers.
local function tell(id, event, from, to, attempt, worker, started, reason, problem)
  call('RPUSH', P .. 'h:' .. id, cjson.encode({ event, NOW, from or cjson.null, to,
    tonumber(attempt), worker or cjson.null, started or cjson.null, reason or '',
    problem or cjson.null }))
end

local function fenced(id, state, attempt)
  tell(id, 'fenced', state, state, attempt, nil, nil, 'settled under a lease that was lost')
end

-- The claims in ARGV from a place on are closed: nothing is left to do under them.
local function close_claims(first, number)
  for i = first, first + number - 1 do
    call('ZREM', P .. 'leases', ARGV[i])
    call('DEL', P .. 'c:' .. ARGV[i])
  end
end
