-- Where memory is used up, Redis refuses a script that has written nothing yet. Work that frees
-- memory, or keeps what is there, goes on: this writes nothing, and counts as a write.
call('ZREM', P .. 'leases', '')
