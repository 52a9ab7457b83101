-- note_arrival: the other store has these jobs. ARGV: epoch, ids.
for i = 2, #ARGV do
  local id = ARGV[i]
  if call('ZSCORE', P .. 'gone', id) then call('HSET', GONE .. 'j:' .. id, 'arrived', '1') end
end
return 1
