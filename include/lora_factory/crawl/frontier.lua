-- The frontier's rules (frontier.py) inside Redis, where each call is one transaction.
--
-- KEYS[1]  prefix of the crawl's keys; its hash tag keeps them in one slot of a cluster
-- ARGV[1]  operation   ARGV[2]  now in seconds, empty: the server's clock
-- ARGV[3]  Limits as JSON   ARGV[4…]  arguments
--
-- seen              set of URL keys            claims             key -> owner
-- task              id -> "tries kind host score body"
-- q:<kind>:<host>   ids, best (lowest -score) first
-- ready:<kind>      hosts that may be asked, by their best task, equals by when they were asked
-- waiting:<kind>    hosts by when they may be asked; busy ones are in neither
-- paused            host -> when its rest is over
-- next busy delay conc   host -> its politeness and requests under way
-- taken fetched     host -> pages that use up its budget, and those of them that are done
-- depth             hosts by tasks queued      delayed            ids by when to try again
-- lease             token -> "freed worker id before after": the host's next before and with it
-- leases            tokens by when they run out
-- n                 counters                   dead               id -> reason
-- beats workers held     worker -> last heartbeat, stats, leases

local call = redis.call
local P, limits = KEYS[1], cjson.decode(ARGV[3])
local KINDS = { 'page', 'image' }
local KEEP = 7 * 24 * 3600 -- seconds an abandoned crawl stays
local BASE = {
  'seen', 'claims', 'task', 'ready:page', 'ready:image', 'waiting:page', 'waiting:image', 'next',
  'busy', 'delay', 'conc', 'depth', 'delayed', 'lease', 'leases', 'n', 'seq', 'dead', 'reasons',
  'beats', 'workers', 'held', 'taken', 'fetched', 'paused',
}
local BATCH = 200 -- tasks brought back in one call
-- What a second since a host was asked is worth in `ready`, less than scores differ by. Time goes
-- round after eleven days, for doubles to tell a millisecond beside a score.
local TURN, ROUND = 1e-12, 1e6

local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function key(name) return P .. name end
local function queue(kind, host) return P .. 'q:' .. kind .. ':' .. host end
local function number(hash, field) return tonumber(call('HGET', key(hash), field) or 0) end
local function count(field, by) call('HINCRBY', key('n'), field, by) end
local function stamp(value) return string.format('%.6f', value) end

local function host_rules(host)
  local delay = call('HGET', key('delay'), host)
  if not delay then return limits.default_delay, 1 end
  return tonumber(delay), number('conc', host)
end

local function depth(host, by)
  if tonumber(call('ZINCRBY', key('depth'), by, host)) <= 0 then
    call('ZREM', key('depth'), host)
  end
end

local function has_room(kind, host)
  if kind == 'image' or not limits.pages_per_host then return true end
  if number('fetched', host) >= limits.pages_per_host then
    local left = call('ZCARD', queue(kind, host)) -- nobody will fetch them
    if left > 0 then
      count('queued:page', -left)
      depth(host, -left)
      call('DEL', queue(kind, host))
    end
    return false
  end
  return number('taken', host) < limits.pages_per_host
end

-- Seconds for which a host still rests, and whether that is too long to wait for.
local function rest(host)
  local left = math.max(0, number('paused', host) - now)
  return left, left > limits.max_rest
end

local function place(host)
  local next_time, _, most = number('next', host), host_rules(host)
  local left, too_long = rest(host)
  if not too_long then next_time = math.max(next_time, now + left) end
  local free = number('busy', host) < most
  for _, kind in ipairs(KINDS) do
    local ready, waiting = key('ready:' .. kind), key('waiting:' .. kind)
    local room = has_room(kind, host)
    local best = call('ZRANGE', queue(kind, host), 0, 0, 'WITHSCORES')
    if not best[1] or not free or not room then
      call('ZREM', ready, host)
      call('ZREM', waiting, host)
    elseif next_time <= now then
      call('ZADD', ready, string.format('%.17g', best[2] + TURN * (next_time % ROUND)), host)
      call('ZREM', waiting, host)
    else
      call('ZADD', waiting, stamp(next_time), host)
      call('ZREM', ready, host)
    end
  end
end

local function read_task(id)
  local text = call('HGET', key('task'), id)
  if not text then return nil end
  local tries, kind, host, score, body = string.match(text, '^(%d+) (%a+) (%S+) (%S+) (.*)$')
  return { id = id, tries = tonumber(tries), kind = kind, host = host, score = score, body = body }
end

local function write_task(task)
  local head = table.concat({ task.tries, task.kind, task.host, task.score }, ' ')
  call('HSET', key('task'), task.id, head .. ' ' .. task.body)
end

local function push(task)
  call('ZADD', queue(task.kind, task.host), -tonumber(task.score), task.id)
end

local function read_lease(token)
  local text = call('HGET', key('lease'), token)
  if not text then return nil end
  local freed, worker, id, before, after = string.match(text, '^(%d) (%S+) (%S+) (%S+) (%S+)$')
  return {
    token = token, freed = freed == '1', worker = worker, task = read_task(id),
    before = before, after = after,
  }
end

local function write_lease(lease)
  local freed = lease.freed and '1' or '0'
  local text = { freed, lease.worker, lease.task.id, lease.before, lease.after }
  call('HSET', key('lease'), lease.token, table.concat(text, ' '))
end

local function free(lease, asked)
  if lease.freed then return end
  lease.freed = true
  write_lease(lease)
  local host = lease.task.host
  call('HINCRBY', key('busy'), host, -1)
  if not asked and call('HGET', key('next'), host) == lease.after then
    call('HSET', key('next'), host, lease.before) -- it got to see nothing
  end
  place(host)
end

local function end_lease(lease, counts)
  if lease.task.kind == 'page' then
    call('HINCRBY', key(counts and 'fetched' or 'taken'), lease.task.host, counts and 1 or -1)
  end
  free(lease, true)
  place(lease.task.host)
  call('HDEL', key('lease'), lease.token)
  call('ZREM', key('leases'), lease.token)
  call('HINCRBY', key('held'), lease.worker, -1)
  count('flight:' .. lease.task.kind, -1)
end

local function give_back(token, reason, wait, most)
  local lease = read_lease(token)
  if not lease then return 0 end
  local task = lease.task
  end_lease(lease, false)
  if task.tries >= most then
    call('HSET', key('dead'), task.id, reason)
    return 1
  end
  count('queued:' .. task.kind, 1)
  depth(task.host, 1)
  if wait > 0 then
    call('ZADD', key('delayed'), stamp(now + wait * 2 ^ (task.tries - 1)), task.id)
  else
    push(task)
    place(task.host)
  end
  return 1
end

local function reclaim()
  local found = 0
  for _, token in ipairs(call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, BATCH)) do
    found = found + give_back(token, 'lease_expired', 0, limits.max_lost)
  end
  return found
end

local function wake(kind)
  for _, id in ipairs(call('ZRANGEBYSCORE', key('delayed'), '-inf', now, 'LIMIT', 0, BATCH)) do
    call('ZREM', key('delayed'), id)
    local task = read_task(id)
    push(task)
    place(task.host)
  end
  for _, host in ipairs(call('ZRANGEBYSCORE', key('waiting:' .. kind), '-inf', now)) do
    place(host)
  end
end

local function within_budget(kind)
  local images = number('n', 'done:image') + number('n', 'flight:image')
  if kind == 'image' then return images < limits.max_images end
  local pages = number('n', 'done:page') + number('n', 'flight:page')
  return pages < limits.max_pages and images + number('n', 'queued:image') < limits.max_images
end

local function hand_out(worker, kind, host)
  local task = read_task(call('ZRANGE', queue(kind, host), 0, 0)[1])
  task.tries = task.tries + 1
  write_task(task)
  call('ZREM', queue(kind, host), task.id)
  depth(host, -1)
  count('queued:' .. kind, -1)
  count('flight:' .. kind, 1)
  local token = task.id .. '.' .. task.tries
  local before, after = stamp(number('next', host)), stamp(now + host_rules(host))
  write_lease({ token = token, freed = false, worker = worker, task = task,
    before = before, after = after })
  call('ZADD', key('leases'), stamp(now + limits.lease), token)
  call('HINCRBY', key('held'), worker, 1)
  call('HINCRBY', key('busy'), host, 1)
  if kind == 'page' then call('HINCRBY', key('taken'), host, 1) end
  call('HSET', key('next'), host, after)
  place(host)
  return { token, task.tries, task.body, stamp(rest(host)) }
end

local op = {}

function op.open() call('HSETNX', key('n'), 'opened', stamp(now)) end

function op.add(arguments)
  local added, hosts = 0, {}
  for i = 1, #arguments, 5 do
    local seen, kind, host, score, body = unpack(arguments, i, i + 4)
    if call('SADD', key('seen'), seen) == 1 then
      local id = string.format('%012d', call('INCR', key('seq')))
      local task = { id = id, tries = 0, kind = kind, host = host, score = score, body = body }
      write_task(task)
      push(task)
      depth(host, 1)
      count('queued:' .. kind, 1)
      added = added + 1
      hosts[host] = true
    end
  end
  for host in pairs(hosts) do
    place(host)
    for _, kind in ipairs(KINDS) do call('EXPIRE', queue(kind, host), KEEP) end
  end
  return added
end

function op.claim(arguments)
  local name, owner = unpack(arguments)
  local first = call('HGET', key('claims'), name)
  if first then return first end
  if call('SADD', key('seen'), name) == 0 then return '' end
  call('HSET', key('claims'), name, owner)
  return owner
end

function op.lease(arguments)
  local worker, kind, most = arguments[1], arguments[2], tonumber(arguments[3])
  for i = 4, #arguments, 2 do
    local lease = read_lease(arguments[i])
    if lease then free(lease, arguments[i + 1] == '1') end
  end
  reclaim()
  wake(kind)
  local out = {}
  while #out < most and within_budget(kind) do
    local host = call('ZRANGE', key('ready:' .. kind), 0, 0)[1]
    if not host then break end
    local left, too_long = rest(host)
    if left > 0 and not too_long then
      place(host) -- by now its rest is short enough to wait for
    else
      out[#out + 1] = hand_out(worker, kind, host)
    end
  end
  return out
end

function op.set_host(arguments)
  local host, delay, most = unpack(arguments)
  local before = host_rules(host)
  if call('HEXISTS', key('next'), host) == 1 then
    local asked = number('next', host) - before
    call('HSET', key('next'), host, stamp(asked + tonumber(delay)))
  end
  call('HSET', key('delay'), host, delay)
  call('HSET', key('conc'), host, most)
  place(host)
end

function op.pause(arguments)
  local host, seconds = arguments[1], tonumber(arguments[2])
  call('HSET', key('paused'), host, stamp(math.max(number('paused', host), now + seconds)))
  place(host)
end

function op.ack(arguments)
  local settled, answered = 0, false
  for i = 1, #arguments, 4 do
    local token, counts, reason, silent = unpack(arguments, i, i + 3)
    local lease = read_lease(token)
    if lease then
      end_lease(lease, counts == '1')
      count('done:' .. lease.task.kind, tonumber(counts))
      call('HDEL', key('task'), lease.task.id)
      call('HINCRBY', key('reasons'), reason, 1)
      settled = settled + 1
      answered = answered or silent == '0'
    end
  end
  if answered then call('HSET', key('n'), 'settled_at', stamp(now)) end
  return settled
end

function op.nack(arguments)
  for i = 2, #arguments do
    give_back(arguments[i], arguments[1], limits.retry_delay, limits.max_tries)
  end
end

function op.reclaim() return reclaim() end

function op.heartbeat(arguments)
  local worker, stats = unpack(arguments)
  call('ZADD', key('beats'), stamp(now), worker)
  call('HSET', key('workers'), worker, stats)
  for i = 3, #arguments do
    call('ZADD', key('leases'), 'XX', stamp(now + limits.lease), arguments[i])
  end
  for _, name in ipairs(BASE) do call('EXPIRE', key(name), KEEP) end
end

function op.counts() return call('HGETALL', key('n')) end

function op.status()
  local hosts, workers = {}, {}
  for _, host in ipairs(call('ZREVRANGE', key('depth'), 0, 99)) do
    local delay, most = host_rules(host)
    hosts[#hosts + 1] = {
      host, call('ZSCORE', key('depth'), host), number('busy', host), tostring(delay), most,
      stamp(math.max(0, number('next', host) - now, (rest(host)))),
    }
  end
  for _, worker in ipairs(call('ZRANGE', key('beats'), 0, -1)) do
    workers[#workers + 1] = {
      worker, stamp(now - call('ZSCORE', key('beats'), worker)), number('held', worker),
      call('HGET', key('workers'), worker),
    }
  end
  return {
    hosts, call('ZCARD', key('depth')), workers, call('HGETALL', key('reasons')),
    call('HLEN', key('dead')),
    stamp(now - (tonumber(call('HGET', key('n'), 'settled_at')) or number('n', 'opened'))),
  }
end

function op.leftovers(arguments)
  local page = call('HSCAN', key('task'), arguments[1], 'COUNT', BATCH)
  local out = {}
  for i = 1, #page[2], 2 do
    local task = read_task(page[2][i])
    local dead = call('HGET', key('dead'), task.id)
    local reason = dead and 'dead_letter' or 'over_budget'
    if not dead and not has_room(task.kind, task.host) then reason = 'host_budget' end
    out[#out + 1] = { reason, dead or '', task.tries, task.body }
  end
  return { page[1], out }
end

if ARGV[1] ~= 'open' and call('HEXISTS', key('n'), 'opened') == 0 then
  return redis.error_reply('LOST no such crawl')
end
local arguments = {}
for i = 4, #ARGV do arguments[i - 3] = ARGV[i] end
return op[ARGV[1]](arguments)
