-- GET /answers/{key} of a key chosen uniformly out of the first N preloaded ones
-- (`load batch --keys N`):  wrk ... -s get.lua http://HOST:PORT -- N
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local keys = dofile(here .. "keys.lua")
local threads = 0

function setup(thread)
  thread:set("thread_id", threads)
  threads = threads + 1
end

local digits, random, last, after = keys.digits, math.random, 0, nil

function init(args)
  last = assert(tonumber(args[1]), "get.lua: give the number of keys after --") - 1
  math.randomseed(os.time() * 16 + thread_id)
  after = keys.preload .. " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\n\r\n"
end

function request()
  return "GET /answers/" .. digits(random(0, last)) .. after
end

function done(summary, latency)
  keys.report(summary, latency)
end
