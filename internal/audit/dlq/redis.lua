-- The operations of the dead-letter queue in Redis; each is one atomic step.
--
-- Of the three streams each has a consumer group, and a script leaves no entry
-- without an owner: the entries of a process are those that are pending for the
-- consumer of its name. Two hashes find entries by event ID.
local WAITING, WAITING_IDS, REJECTED, REJECTED_IDS, ASIDE = unpack(KEYS)
local STREAMS = {WAITING, REJECTED, ASIDE}
-- The last is the last rejected entry from before this process.
local group, me, earlier = ARGV[2], ARGV[3], ARGV[4]

-- More would keep Redis from its other clients for too long.
local PORTION = 1000

-- own makes this process the owner of all entries that have none, and shows
-- that it is alive. Redis does not refuse memory for it, nor for what follows it
-- in a script: a full Redis must be able to get empty.
local function own()
  local read = {'XREADGROUP', 'GROUP', group, me, 'COUNT', PORTION, 'STREAMS', WAITING, REJECTED, ASIDE, '>', '>', '>'}
  local reply = redis.pcall(unpack(read))
  if type(reply) == 'table' and reply.err then
    for _, stream in ipairs(STREAMS) do
      redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    end
    redis.call(unpack(read))
  end
end

local function get(stream, entry)
  return redis.call('XRANGE', stream, entry, entry)[1]
end

local function pairs_to_table(list)
  local t = {}
  for i = 1, #list, 2 do
    t[list[i]] = list[i + 1]
  end
  return t
end

-- waits does not take the hash's word for it: an entry may have been deleted by
-- hand, and the event would never be taken again.
local function waits(id)
  local entry = redis.call('HGET', WAITING_IDS, id)
  return entry and get(WAITING, entry)
end

local function drop(stream, ids, entry, id)
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
  if id and redis.call('HGET', ids, id) == entry then
    redis.call('HDEL', ids, id)
  end
end

local function drop_id(stream, ids, id)
  local entry = redis.call('HGET', ids, id)
  if entry then
    drop(stream, ids, entry, id)
  end
end

-- adopt takes over entries of consumers that have not been heard of for so many
-- milliseconds. Going by the age of the entries instead, as XAUTOCLAIM does, would
-- rob a living process of those that it has not come round to.
local function adopt(stream, idle)
  for _, list in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = pairs_to_table(list)
    if consumer.name ~= me and consumer.idle >= idle then
      local claim = {'XCLAIM', stream, group, me, 0}
      for _, p in ipairs(redis.call('XPENDING', stream, group, '-', '+', PORTION, consumer.name)) do
        claim[#claim + 1] = p[1]
      end
      if #claim == 5 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
      else
        claim[#claim + 1] = 'JUSTID'
        redis.call(unpack(claim))
      end
    end
  end
end

-- offer moves own rejected entries up to an entry ID back among those that wait.
local function offer(last)
  for _, p in ipairs(redis.call('XPENDING', REJECTED, group, '-', last, PORTION, me)) do
    local entry = get(REJECTED, p[1])
    local id = entry and pairs_to_table(entry[2]).id
    if not entry then
      redis.call('XACK', REJECTED, group, p[1])
    elseif not (id and waits(id)) then
      local moved = redis.call('XADD', WAITING, '*', unpack(entry[2]))
      if id then
        redis.call('HSET', WAITING_IDS, id, moved)
      end
      drop(REJECTED, REJECTED_IDS, p[1], id)
    end
  end
end

local function depth()
  local d = {}
  for i, stream in ipairs(STREAMS) do
    d[i] = 0
    for _, list in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
      local consumer = pairs_to_table(list)
      if consumer.name == me then
        d[i] = consumer.pending
      end
    end
  end
  local oldest = redis.call('XPENDING', WAITING, group, '-', '+', 1, me)[1]
  d[4] = oldest and oldest[1] or ''
  return d
end

local ops = {}

-- put: event ID, event and checksum for each event. Here Redis may say that its
-- memory is full, so nothing that it does not refuse may come first.
function ops.put()
  local added = 0
  for i = 5, #ARGV, 3 do
    local id = ARGV[i]
    if not waits(id) then
      local entry = redis.call('XADD', WAITING, '*', 'v', '1', 'id', id, 'event', ARGV[i + 1], 'sha256', ARGV[i + 2])
      redis.call('HSET', WAITING_IDS, id, entry)
      added = added + 1
    end
  end
  own()
  return {added}
end

-- next: how many entries and bytes, the last entry that was returned for the
-- first time, the last that was returned again, and the milliseconds that a
-- rejected entry rests and a consumer may be silent.
function ops.next()
  local limit, room, fresh, again = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]
  own()
  for _, stream in ipairs(STREAMS) do
    adopt(stream, tonumber(ARGV[10]))
  end
  local now = redis.call('TIME')
  offer(earlier)
  offer(string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) - ARGV[9]))
  own()

  local entries = {}
  -- take returns the last entry that it has taken, nil where that is none.
  local function take(first, last)
    local taken
    if #entries >= limit then
      return nil
    end
    for _, p in ipairs(redis.call('XPENDING', WAITING, group, first, last, limit - #entries, me)) do
      local entry = get(WAITING, p[1])
      if entry then
        for _, s in ipairs(entry[2]) do
          room = room - #s
        end
        if room < 0 and #entries > 0 then
          break
        end
        entries[#entries + 1] = entry
        local id = pairs_to_table(entry[2]).id
        if id and redis.call('HGET', WAITING_IDS, id) ~= p[1] and not waits(id) then
          redis.call('HSET', WAITING_IDS, id, p[1])
        end
      else
        redis.call('XACK', WAITING, group, p[1])
      end
      taken = p[1]
    end
    return taken
  end
  local newest, turn = fresh, again
  fresh = take('(' .. fresh, '+') or fresh
  again = take('(' .. turn, newest) or again
  again = take('-', turn) or again
  return {entries, depth(), fresh, again}
end

-- settle: the number of recorded events and their IDs, then event ID, event,
-- checksum, status and reason for each rejected one.
function ops.settle()
  own()
  local recorded = tonumber(ARGV[5])
  for i = 6, 5 + recorded do
    drop_id(WAITING, WAITING_IDS, ARGV[i])
  end
  for i = 6 + recorded, #ARGV, 5 do
    local id = ARGV[i]
    local entry = redis.call('XADD', REJECTED, '*', 'v', '1', 'id', id, 'event', ARGV[i + 1], 'sha256', ARGV[i + 2],
      'status', ARGV[i + 3], 'reason', ARGV[i + 4])
    drop_id(REJECTED, REJECTED_IDS, id)
    redis.call('HSET', REJECTED_IDS, id, entry)
    drop_id(WAITING, WAITING_IDS, id)
  end
  own()
  return depth()
end

-- aside: entry ID and reason for each waiting entry that cannot be read.
function ops.aside()
  own()
  for i = 5, #ARGV, 2 do
    local entry = get(WAITING, ARGV[i])
    if entry then
      local fields = entry[2]
      local id = pairs_to_table(fields).id
      fields[#fields + 1] = 'entry'
      fields[#fields + 1] = ARGV[i]
      fields[#fields + 1] = 'unreadable'
      fields[#fields + 1] = ARGV[i + 1]
      redis.call('XADD', ASIDE, '*', unpack(fields))
      drop(WAITING, WAITING_IDS, ARGV[i], id)
    end
  end
  own()
  return depth()
end

return ops[ARGV[1]]()
