-- POST /v1/events, one event a request, of sessions that the other loads of events.sh
-- have made known:  wrk ... -s events.lua http://HOST:PORT
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local keys = dofile(here .. "keys.lua")
local threads = 0

function setup(thread)
  thread:set("thread_id", threads)
  threads = threads + 1
end

local pool, head, n = nil, nil, 0

local function body(digits, text)
  return '{"timestamp":"2026-02-01T00:00:00.' .. string.format("%06d", n % 1000000)
    .. 'Z","name":"event-' .. digits .. '","category":"single","message":"' .. text
    .. '","customer_id":' .. string.format("%06d", 100000 + n % 900000)
    .. ',"session_id":"00000000-0000-4000-8000-000000000000","data":{"host":"host-1","ms":17}}'
end

function init()
  math.randomseed(thread_id + 1)
  pool = keys.pool(1024, 40)
  n = thread_id * 1000003
  head = "POST /v1/events HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body(keys.digits(0), pool[1]) .. "\r\n\r\n"
end

function request()
  n = n + 1
  return head .. body(keys.digits(n), pool[n % 1024 + 1])
end

function done(summary, latency)
  keys.report(summary, latency)
end
