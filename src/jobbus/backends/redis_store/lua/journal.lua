-- The journal of moves: jobs that left for another store, as they were, under 'gone:'. Their hash
-- says besides where they went ('to'), what they waited for ('edges'), and whether the other store
-- has them ('arrived').
local GONE = P .. 'gone:'

-- A line of it: id, document, fields, history, progress.
local function line(id)
  return { id, call('GET', GONE .. 'd:' .. id), call('HGETALL', GONE .. 'j:' .. id),
    call('LRANGE', GONE .. 'h:' .. id, 0, -1), call('LRANGE', GONE .. 'w:' .. id, 0, -1) }
end

local function forget(id)
  call('DEL', GONE .. 'd:' .. id, GONE .. 'j:' .. id, GONE .. 'h:' .. id, GONE .. 'w:' .. id)
  call('ZREM', P .. 'gone', id)
end
