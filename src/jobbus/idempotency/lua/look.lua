-- look: what is remembered of a key.
return each(0, function(key) return call('HMGET', key, 's', 'f', 'c', 'p', 'j', 'd') end)
