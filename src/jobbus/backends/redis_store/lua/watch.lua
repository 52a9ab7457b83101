-- watch: ask everybody to write the live log for so many milliseconds. ARGV: epoch, milliseconds.
if call('PTTL', P .. 'watch') < tonumber(ARGV[2]) then
  call('SET', P .. 'watch', '1', 'PX', ARGV[2])
end
return 1
