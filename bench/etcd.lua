-- A durable put of a fresh key through etcd's HTTP gateway, with keys and values
-- as long as post.lua's:  wrk ... -s etcd.lua http://HOST:PORT -- RUN-ID
-- Any text of base64 digits is base64: 40 of them are a key of 30 bytes, 52 a
-- value of 39.
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
  local run = assert(args[1], "etcd.lua: give a run id after --")
  math.randomseed(thread_id + 1)
  pool = keys.pool(1024, 40)
  n = thread_id * 1000003
  local tag = ("answer" .. run .. "t" .. thread_id):gsub("[^%w]", "")
  between = tag .. ("0"):rep(32 - #tag) .. '","value":"'
  after = 'Zm9v"}'
  local length = #'{"key":"' + 8 + #between + 48 + #after
  before = "POST /v3/kv/put HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
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
