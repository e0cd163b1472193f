-- POST /answers with keys that never repeat, neither within a run nor across
-- runs of different ids:  wrk ... -s post.lua http://HOST:PORT -- RUN-ID
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local keys = dofile(here .. "keys.lua")
local threads = 0

function setup(thread)
  thread:set("thread_id", threads)
  threads = threads + 1
end

local digits, pool, before, between, after = keys.digits, nil, nil, nil, nil
local n = 0

function init(args)
  local run = assert(args[1], "post.lua: give a run id after --")
  math.randomseed(thread_id + 1)
  pool = keys.pool(1024, 32)
  -- Each thread begins elsewhere, so that no two walk side by side.
  n = (thread_id * 1000003 + #run * 7919 + tonumber(run:match("%d*$") or "0") * 104729) % 4294967296
  between = "-answer-" .. run .. "-t" .. thread_id .. '","value":"'
  after = '"}'
  local length = #'{"key":"' + 8 + #between + 40 + #after
  before = "POST /answers HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nContent-Length: " .. length
    .. '\r\n\r\n{"key":"'
end

function request()
  n = n + 1
  local key = digits(n)
  return before .. key .. between .. pool[n % 1024 + 1] .. key .. after
end

function done(summary, latency)
  keys.report(summary, latency)
end
