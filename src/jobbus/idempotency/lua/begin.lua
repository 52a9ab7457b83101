-- begin: claim a key, or say why not. Words: owner, fingerprint, job id, lease in microseconds,
-- time to live in milliseconds, crashes allowed.
return each(6, function(key, owner, fingerprint, job, lease, ttl, most)
  local state, holder, fence, crashes, print, until_, by, data = read(key)

  local function take(answer, new_owner, new_fence, new_crashes, new_lease)
    write(key, ttl, 'i', new_owner, new_fence, new_crashes, fingerprint, moment(new_lease), job, '-')
    return { answer, new_fence }
  end

  if not state then return take('acquired', owner, 1, 0, now + lease) end
  fence, crashes = tonumber(fence), tonumber(crashes)
  if print ~= fingerprint then return { 'mismatch', fence } end
  if state == 'c' or state == 'f' then
    return { 'done', fence, state, crashes, print, by, data }
  end
  if state == 'r' then return take('acquired', owner, fence + 1, crashes, now + lease) end
  if holder == owner then
    return take('acquired', owner, fence, crashes, math.max(tonumber(until_), now + lease))
  end
  if tonumber(until_) > now then return { 'busy', fence, math.ceil((until_ - now) / 1000) } end
  if crashes + 1 > tonumber(most) then
    -- Nobody's: a repeated request must not pass for its owner's.
    return take('poison', '', fence + 1, crashes + 1, 0)
  end
  return take('stolen', owner, fence + 1, crashes + 1, now + lease)
end)
