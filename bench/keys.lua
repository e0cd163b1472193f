-- The keys of src/bin/load/keys.rs, for wrk: eight hexadecimal digits that
-- scatter a counter over the key space without repeating, a hyphen, a tag.
local bit = require("bit")
local bxor, rshift, tohex = bit.bxor, bit.rshift, bit.tohex
local WORD = 4294967296

-- A product modulo 2^32, in doubles, which hold 53 bits.
local function mul(a, high, low)
  a = a % WORD
  return (((a * high) % 65536) * 65536 + a * low) % WORD
end

local function scatter(n)
  n = bxor(n, rshift(n, 16))
  n = mul(n, 0x85eb, 0xca6b)
  n = bxor(n, rshift(n, 13))
  n = mul(n, 0xc2b2, 0xae35)
  return bxor(n, rshift(n, 16))
end

local keys = { scatter = scatter, preload = "-answer-of-the-preload" }

-- The eight digits of the n-th key.
function keys.digits(n)
  return tohex(scatter(n))
end

-- Random hexadecimal text, made before the run: `count` pieces of `size`.
function keys.pool(count, size)
  local pool = {}
  for i = 1, count do
    local piece = {}
    for j = 1, size / 8 do piece[j] = tohex(math.random(0, WORD - 1)) end
    pool[i] = table.concat(piece)
  end
  return pool
end

-- The line that run.sh reads. wrk's percentiles are corrected for coordinated
-- omission: a stall counts for the requests that it kept from being sent, too.
function keys.report(summary, latency)
  local e = summary.errors
  io.write(string.format(
    "BENCH rate=%.0f count=%d seconds=%.3f p50_us=%d p99_us=%d p999_us=%d max_us=%d status_errors=%d socket_errors=%d\n",
    summary.requests / summary.duration * 1e6, summary.requests, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
    e.status, e.connect + e.read + e.write + e.timeout))
end

return keys
