#!/usr/bin/env bash
# Measures the service against a bare handler, the disk and etcd on this machine.
# See README.md beside it, or --help.
set -euo pipefail
export LC_ALL=C

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")

SECONDS_A_RUN=60
BIG=
QUICK=
PLOT=
OUT=
DIR=
KEEP=
ONLY=post,single,lag,get,rebuild,batch,growth,big
MONOLITH=
ROUNDS=2
CONNECTIONS=64
SMALL_KEYS=${SMALL_KEYS:-100000}
BIG_KEYS=${BIG_KEYS:-5000000}
# From how many cores taken by other processes on a run is not to be trusted.
DISTURBED=0.3
# Requests to /answers/batch at a time.
STREAMS=${STREAMS:-2}
# Counts every command; its lowest second shows stalls that an average hides.
METRIC=${METRIC:-qaservice_commands_total}

usage() {
  cat <<'END'
usage: bench/run.sh [--quick] [--seconds 60] [--big] [--out FILE] [--plot FILE]
                    [--dir DIR] [--keep] [--only LIST] [--rounds 2] [--monolith FILE]

  --quick          runs of 5 s, to see that it works (says little about flushes)
  --seconds S      the length of a run (60)
  --big            5 million keys too
  --out FILE       the results, one row a figure: name, value, unit, note
                   (a temporary file, whose name is printed)
  --plot FILE.svg  draws rates and sizes against the number of keys (also .png)
  --dir DIR        where the data folders go, on a real disk (a new folder in
                   /var/tmp; removed at the end unless --keep)
  --only LIST      of post,single,lag,get,rebuild,batch,growth,big (all; big needs --big)
  --rounds N       how often each pair is measured, in turn (2)
  --monolith FILE  measures this binary instead of building the workspace's

Runs of 60 s take about 25 minutes and 20 GB of disk, with --big 45 minutes and
30 GB. It builds, installs the Debian packages wrk, etcd-server, gnuplot-nox and
curl where they are missing (as root or with sudo), starts its own servers on free
ports of 127.0.0.1, ends them by process id and removes their folders.
END
}

while [ $# -gt 0 ]; do
  case $1 in
    --quick) QUICK=1 SECONDS_A_RUN=5 ;;
    --big) BIG=1 ;;
    --keep) KEEP=1 ;;
    --help | -h) usage && exit ;;
    --seconds | --out | --plot | --dir | --only | --rounds | --monolith)
      [ $# -ge 2 ] || { usage >&2 && exit 2; }
      case $1 in
        --seconds) SECONDS_A_RUN=$2 ;;
        --out) OUT=$(realpath -m "$2") ;;
        --plot) PLOT=$(realpath -m "$2") ;;
        --dir) DIR=$(realpath -m "$2") ;;
        --only) ONLY=$2 ;;
        --rounds) ROUNDS=$2 ;;
        --monolith) MONOLITH=$(realpath "$2") ;;
      esac
      shift
      ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done
for chapter in ${ONLY//,/ }; do
  [[ " post single lag get rebuild batch growth big " == *" $chapter "* ]] || { usage >&2 && exit 2; }
done
[[ $SECONDS_A_RUN =~ ^[0-9]+$ && $SECONDS_A_RUN -ge 3 ]] || { echo "--seconds: at least 3" >&2 && exit 2; }

# ---------------------------------------------------------------- small helpers

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
note() { printf '   %s\n' "$*" >&2; }
die() {
  printf 'bench/run.sh: %s\n' "$*" >&2
  exit 1
}
wanted() { [[ ,$ONLY, == *,$1,* ]]; }
calc() { awk "BEGIN { printf \"%.6g\", $* }"; }
# A number as a table shows it.
SHOWN='function shown(v) { return v + 0 != v ? v : v >= 100 || v == int(v) ? sprintf("%d", v) : sprintf("%.3g", v) }' 
now() { printf '%s' "$EPOCHREALTIME"; }

# One row of the results.
row() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4-}" >>"$OUT"; }

# Aggregates of all rows of a name; nothing where there is none.
mean() { awk -F'\t' -v n="$1" '$1 == n { s += $2; c++ } END { if (c) printf "%.10g", s / c }' "$OUT"; }
most() { awk -F'\t' -v n="$1" '$1 ~ "^" n "$" { if (!c++ || $2 > m) m = $2 } END { if (c) printf "%.10g", m }' "$OUT"; }

# The name=value pairs of the BENCH line that wrk's scripts and `load` print.
declare -A M
take() {
  local pair line
  M=()
  line=$(grep '^BENCH ' "$1") || return 1
  for pair in ${line#BENCH }; do M[${pair%%=*}]=${pair#*=}; done
}

# Runs `load` and takes its figures.
load() {
  "$LOAD" "$@" >"$DIR/load.out" || die "load $* failed"
  take "$DIR/load.out" || die "load $*: no figures"
}

# ------------------------------------------------------------------- preparation

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

install_tools() {
  local missing=()
  command -v wrk >/dev/null || missing+=(wrk)
  command -v etcd >/dev/null || missing+=(etcd-server)
  command -v gnuplot >/dev/null || missing+=(gnuplot-nox)
  command -v curl >/dev/null || missing+=(curl)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]} (apt-get, as root or with sudo)"
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >&2
  # The package starts a server of its own, which we neither need nor want running beside us.
  if [[ " ${missing[*]} " == *" etcd-server "* ]] && [ -d /run/systemd/system ]; then
    note "stopping the etcd service that the package has just started"
    as_root systemctl disable --now etcd >&2 || true
  fi
}

build() {
  local target packages=(-p bench)
  target=$(cd "$ROOT" && realpath -m "${CARGO_TARGET_DIR:-target}")
  [ -n "$MONOLITH" ] || packages+=(-p monolith)
  say "cargo build --release ${packages[*]}"
  (cd "$ROOT" && cargo build --release "${packages[@]}" >&2)
  BARE=$target/release/bare
  LOAD=$target/release/load
  MONOLITH=${MONOLITH:-$target/release/monolith}
}

prepare_folder() {
  if [ -z "$DIR" ]; then
    DIR=$(mktemp -d /var/tmp/qaservice-bench.XXXXXX)
  else
    mkdir -p "$DIR"
    [ -z "$(ls -A "$DIR")" ] || die "--dir $DIR is not empty"
  fi
  case $(stat -f -c %T "$DIR") in
    tmpfs | ramfs) die "$DIR is in memory: give a --dir on a disk" ;;
  esac
  local need=20 free
  [ -z "$QUICK" ] || need=5
  [ -z "$BIG" ] || need=$((need + 10))
  free=$(($(df --output=avail -B1G "$DIR" | tail -n 1)))
  [ "$free" -ge "$need" ] || die "$DIR has $free GB free, $need GB are needed"
  if [ -z "$OUT" ]; then
    OUT=$(mktemp "${TMPDIR:-/tmp}/qaservice-bench-$(date +%Y%m%d-%H%M%S).XXXXXX.tsv")
  fi
  mkdir -p "$(dirname "$OUT")"
  printf 'name\tvalue\tunit\tnote\n' >"$OUT"
}

# ----------------------------------------------------------------------- servers

declare -A PID WRITE READ
RUN_ID=$(printf '%08x' "$(date +%s)")
RUNS=0

# Ends the processes that this shell started, by process id, and removes the folder.
cleanup() {
  local status=$? pid
  for pid in $(jobs -p); do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" -ne 0 ]; then tail -n 5 "$DIR"/*.log >&2 2>/dev/null || true; fi
  if [ -z "$KEEP" ]; then rm -rf "$DIR"; fi
}

start_bare() {
  local port
  port=$("$LOAD" ports --count 1)
  "$BARE" --listen "127.0.0.1:$port" &
  PID[bare]=$!
  WRITE[bare]=http://127.0.0.1:$port
  READ[bare]=${WRITE[bare]}
  load ready --url "${WRITE[bare]}" --timeout 10
}

# name folder: starts the service; STARTED is how long it took to be ready.
start_service() {
  local name=$1 folder=$2 ports began
  read -r -a ports < <("$LOAD" ports --count 3)
  began=$(now)
  # Away from the checkout, so that no .env of the user's is read.
  (cd "$DIR" && exec env -u EVENTSTORE_HOST -u MONGODB_HOST \
    IP_PORT="127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}" ADMIN_ADDR="127.0.0.1:${ports[2]}" \
    DATA_DIR="$folder" LOG_FORMAT=json "$MONOLITH" >>"$DIR/$name.log" 2>&1) &
  PID[$name]=$!
  WRITE[$name]=http://127.0.0.1:${ports[0]}
  READ[$name]=http://127.0.0.1:${ports[1]}
  "$LOAD" ready --url "${READ[$name]}" --timeout 300 >/dev/null || {
    tail -n 20 "$DIR/$name.log" >&2
    die "the service did not become ready"
  }
  STARTED=$(calc "$(now) - $began")
}

start_etcd() {
  local ports
  read -r -a ports < <("$LOAD" ports --count 2)
  local client=http://127.0.0.1:${ports[0]} peer=http://127.0.0.1:${ports[1]}
  etcd --name bench --data-dir "$DIR/etcd" --quota-backend-bytes 8000000000 \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
    --initial-cluster "bench=$peer" >"$DIR/etcd.log" 2>&1 &
  PID[etcd]=$!
  WRITE[etcd]=$client
  local try
  for try in $(seq 100); do
    curl -fs "$client/health" >/dev/null 2>&1 && return
    sleep 0.1
  done
  tail -n 20 "$DIR/etcd.log" >&2
  die "etcd did not start ($try tries)"
}

# name [signal]: ends a server by its process id; STOPPED is how long it took.
stop() {
  local pid=${PID[$1]} began
  began=$(now)
  kill "-${2:-TERM}" "$pid"
  # A killed process is waited for at once, or bash tells about it.
  if [ "${2:-TERM}" = KILL ]; then wait "$pid" 2>/dev/null || true; fi
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.02
    if awk "BEGIN { exit !($(now) - $began > 60) }"; then
      kill -9 "$pid" || true
      die "$1 did not end within 60 s of SIG${2:-TERM}"
    fi
  done
  wait "$pid" 2>/dev/null || true
  unset "PID[$1]"
  STOPPED=$(calc "$(now) - $began")
}

ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

# Waits until the views have all events and the background work has ended, so
# that no run pays for the one before; CAUGHT_UP is how long the views took.
settle() {
  local name=$1 before after try
  load mark --url "${WRITE[$name]}"
  load await --url "${READ[$name]}" --key "${M[key]}" --position "${M[position]}"
  CAUGHT_UP=${M[seconds]}
  for try in $(seq 60); do
    before=$(ticks "${PID[$name]}")
    sleep 0.5
    after=$(ticks "${PID[$name]}")
    [ $((after - before)) -gt 2 ] || return 0
  done
  note "$name is still busy after $((try / 2)) s; going on"
}

# name prefix: resident memory and disk.
sizes() {
  local name=$1 prefix=$2 folder=$3 why=${4-} kb
  for kb in VmRSS RssAnon VmHWM; do
    row "$prefix/${kb,,}" "$(awk -v k="$kb:" '$1 == k { printf "%.1f", $2 * 1024 / 1e6 }' "/proc/${PID[$name]}/status")" MB "$why"
  done
  row "$prefix/disk" "$(calc "$(du -s -B1 "$folder" 2>/dev/null | cut -f1) / 1e6")" MB "$why"
}

# ---------------------------------------------------------------------- measuring

next_run() {
  RUNS=$((RUNS + 1))
  RUN=$RUN_ID-$(printf '%02d' "$RUNS")
}

# row-prefix note server script seconds argument: one run of wrk. Anything but
# 2xx (wrk counts from 400 on; nothing here is answered 3xx), a refused or broken
# connection, or a timeout ends it all.
wrk_run() {
  local prefix=$1 why=$2 server=$3 script=$4 seconds=$5 argument=$6 url watcher=
  case $script in
    get.lua) url=${READ[$server]} ;;
    *) url=${WRITE[$server]} ;;
  esac
  if [ -n "$prefix" ] && [ "$script" = post.lua ] && [ "$server" != bare ]; then
    "$LOAD" watch --url "$url" --metric "$METRIC" --seconds $((seconds - 1)) >"$DIR/watch.out" 2>"$DIR/watch.err" &
    watcher=$!
  fi
  local server_before children_before machine_before
  server_before=$(ticks "${PID[$server]}")
  children_before=$(awk '{ print $16 + $17 }' "/proc/$$/stat")
  machine_before=$(awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $5 + $6 }' /proc/stat)
  wrk -t2 -c"$CONNECTIONS" -d"${seconds}s" --timeout 30s -s "$HERE/$script" "$url" -- "$argument" \
    >"$DIR/wrk.out" 2>&1 || { cat "$DIR/wrk.out" >&2 && die "wrk failed"; }
  local server_after children_after machine_after
  server_after=$(ticks "${PID[$server]}")
  children_after=$(awk '{ print $16 + $17 }' "/proc/$$/stat")
  machine_after=$(awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $5 + $6 }' /proc/stat)
  take "$DIR/wrk.out" || { cat "$DIR/wrk.out" >&2 && die "wrk gave no figures"; }
  if [ "${M[status_errors]}" != 0 ] || [ "${M[socket_errors]}" != 0 ]; then
    cat "$DIR/wrk.out" >&2
    die "$prefix: ${M[status_errors]} answers were not 2xx, ${M[socket_errors]} socket errors"
  fi
  [ "${M[count]}" -gt 0 ] || die "$prefix: no request was answered"
  [ -n "$prefix" ] || return 0
  row "$prefix/rate" "${M[rate]}" req/s "$why"
  row "$prefix/p50" "$(calc "${M[p50_us]} / 1000")" ms "$why"
  row "$prefix/p99" "$(calc "${M[p99_us]} / 1000")" ms "$why"
  row "$prefix/p999" "$(calc "${M[p999_us]} / 1000")" ms "$why"
  row "$prefix/longest" "$(calc "${M[max_us]} / 1000")" ms "$why"
  row "$prefix/cpu" "$(calc "($server_after - $server_before) * 1e6 / $(getconf CLK_TCK) / ${M[count]}")" us/req "$why"
  row "$prefix/idle" "$(calc "(${machine_after#* } - ${machine_before#* }) / $(getconf CLK_TCK) / ${M[seconds]}")" cores "$why"
  local others
  others=$(calc "((${machine_after% *} - ${machine_before% *}) - ($server_after - $server_before) - ($children_after - $children_before)) / $(getconf CLK_TCK) / ${M[seconds]}")
  row "$prefix/others" "$others" cores "$why"
  local rate=${M[rate]} p99=${M[p99_us]} longest=${M[max_us]} lowest=
  if [ -n "$watcher" ]; then
    wait "$watcher" || true
    if take "$DIR/watch.out"; then
      lowest=", lowest second ${M[min_per_s]}"
      row "$prefix/lowest" "${M[min_per_s]}" req/s "$why"
    else
      note "no lowest second: $(cat "$DIR/watch.err")"
    fi
  fi
  if awk "BEGIN { exit !($others > $DISTURBED) }"; then note "disturbed: other processes took $others cores meanwhile"; fi
  note "$prefix ($why): $rate req/s, p99 $p99 us, longest $longest us$lowest"
}

# row-prefix note server [seconds]
post() {
  next_run
  wrk_run "$1" "$2" "$3" post.lua "${4:-$SECONDS_A_RUN}" "$RUN"
}

# row-prefix note server keys [seconds]
get() { wrk_run "$1" "$2" "$3" get.lua "${5:-$SECONDS_A_RUN}" "$4"; }

# server keys
preload() {
  load batch --url "${WRITE[$1]}" --keys "$2" --streams "$STREAMS"
  note "preloaded $2 keys through /answers/batch: ${M[rate]} commands/s"
}

# The answers of both must be alike, or the comparison is not fair.
compare_answers() {
  local server
  next_run
  for server in bare "$1"; do
    curl -fsi -d "{\"key\":\"fair-$RUN\",\"value\":\"0f1e2d3c4b5a69788796a5b4c3d2e1f00a1b2c3d\"}" "${WRITE[$server]}/answers" >"$DIR/$server.head" || die "POST to $server failed"
    row "response/$server" "$(wc -c <"$DIR/$server.head")" bytes "of POST /answers"
  done
  note "headers of bare:    $(grep -o '^[A-Za-z-]*:' "$DIR/bare.head" | tr -d '\n')"
  note "headers of service: $(grep -o '^[A-Za-z-]*:' "$DIR/$1.head" | tr -d '\n')"
}

# ------------------------------------------------------------------------- chapters

describe_machine() {
  local how
  row machine/cores "$(nproc)" cores "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
  row machine/memory "$(awk '/^MemTotal/ { printf "%.1f", $2 * 1024 / 1e9 }' /proc/meminfo)" GB
  row machine/kernel "$(uname -r)" - "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
  row machine/disk "$(df --output=fstype "$DIR" | tail -n 1)" - "$(df --output=source "$DIR" | tail -n 1)"
  row machine/load "$(cut -d' ' -f1 /proc/loadavg)" processes "load average at the start"
  row machine/commit "$(git -C "$ROOT" rev-parse -q --verify --short HEAD 2>/dev/null || echo none)" - "$(rustc --version)"
  row machine/tools "$(dpkg-query -W -f '${Version}' wrk)" - "wrk; etcd $(etcd --version | awk '{ print $3; exit }')"
  for how in written sparse grown; do
    load fsync --dir "$DIR" --seconds 2 --file $how
    row "fsync/$how/p50" "$(calc "${M[p50_us]} / 1000")" ms "append of 200 bytes and fdatasync, file $how"
    row "fsync/$how/p99" "$(calc "${M[p99_us]} / 1000")" ms "append of 200 bytes and fdatasync, file $how"
  done
  if awk '{ exit !($1 > 0.5) }' /proc/loadavg; then
    note "the machine is busy (load average $(cut -d' ' -f1 /proc/loadavg)): figures will be worse than they should"
  fi
}

measure_writes() {
  local round
  start_service main "$DIR/main"
  row start/empty "$STARTED" s "until /readyz is 200"
  start_bare
  if wanted post; then
    say "POST /answers, $CONNECTIONS connections: bare, durable, etcd, in turn"
    compare_answers main
    start_etcd
    post "" "" bare 2
    for round in $(seq "$ROUNDS"); do
      post post/bare "round $round" bare
      post post/durable "round $round" main
      settle main
      row post/caught_up "$CAUGHT_UP" s "round $round: until the views had all, after the load"
      next_run
      wrk_run post/etcd "round $round" etcd etcd.lua "$SECONDS_A_RUN" "$RUN"
      sleep 1
    done
    stop etcd
    sizes main post/after "$DIR/main" "after all rounds"
  fi
  if wanted single; then
    say "one connection, beside the disk's own fsync"
    for round in $(seq "$ROUNDS"); do
      load fsync --dir "$DIR" --seconds $((SECONDS_A_RUN / 6 + 2))
      row single/fsync/p50 "$(calc "${M[p50_us]} / 1000")" ms "round $round"
      row single/fsync/p99 "$(calc "${M[p99_us]} / 1000")" ms "round $round"
      load single --url "${WRITE[bare]}" --seconds $((SECONDS_A_RUN / 6 + 2))
      row single/bare/p50 "$(calc "${M[p50_us]} / 1000")" ms "round $round"
      row single/bare/p99 "$(calc "${M[p99_us]} / 1000")" ms "round $round"
      load single --url "${WRITE[main]}" --seconds "$SECONDS_A_RUN"
      row single/durable/rate "${M[rate]}" req/s "round $round"
      row single/durable/p50 "$(calc "${M[p50_us]} / 1000")" ms "round $round"
      row single/durable/p99 "$(calc "${M[p99_us]} / 1000")" ms "round $round"
      row single/durable/longest "$(calc "${M[max_us]} / 1000")" ms "round $round"
      note "round $round: p50 ${M[p50_us]} us, p99 ${M[p99_us]} us"
      settle main
    done
  fi
  if wanted lag; then
    say "projection lag under POST /answers at $CONNECTIONS connections"
    "$LOAD" lag --url "${WRITE[main]}" --read "${READ[main]}" --seconds $((SECONDS_A_RUN - 1)) \
      >"$DIR/lag.out" 2>"$DIR/lag.err" &
    local lag=$!
    post lag/post "load meanwhile" main
    wait "$lag" || die "load lag failed: $(cat "$DIR/lag.err")"
    take "$DIR/lag.out" || die "load lag gave no figures"
    row lag/p50 "$(calc "${M[p50_us]} / 1000")" ms "from the POST's answer to the answer of a GET that awaits it"
    row lag/p99 "$(calc "${M[p99_us]} / 1000")" ms "${M[count]} samples"
    row lag/longest "$(calc "${M[max_us]} / 1000")" ms
    note "p50 ${M[p50_us]} us, p99 ${M[p99_us]} us, longest ${M[max_us]} us of ${M[count]}"
  fi
  stop main
  stop bare
  rm -rf "$DIR/main" "$DIR/etcd"
}

# server folder row-prefix events rounds: starts on the log alone, again and again.
rebuild() {
  local server=$1 folder=$2 prefix=$3 events=$4 rounds=$5 round began key position took
  for round in $(seq "$rounds"); do
    load mark --url "${WRITE[$server]}"
    key=${M[key]} position=${M[position]}
    events=$((events + 1))
    stop "$server"
    compgen -G "$folder/views.db*" >/dev/null || die "$folder has no views.db to rebuild"
    rm -f "$folder"/views.db*
    began=$(now)
    start_service "$server" "$folder"
    row "$prefix/ready" "$STARTED" s "round $round: until /readyz is 200"
    load await --url "${READ[$server]}" --key "$key" --position "$position" --timeout 1800
    took=$(calc "$(now) - $began")
    row "$prefix/seconds" "$took" s "round $round: $events events, from the process's start"
    row "$prefix/rate" "$(calc "int($events / $took)")" events/s "round $round"
    note "$events events in $took s"
  done
}

measure_reads() {
  local round
  start_service main "$DIR/main"
  preload main "$SMALL_KEYS"
  settle main
  if wanted get; then
    say "GET /answers/{key}, $CONNECTIONS connections, $SMALL_KEYS keys: bare, service, in turn"
    start_bare
    get "" "" bare "$SMALL_KEYS" 2
    get "" "" main "$SMALL_KEYS" 2
    for round in $(seq "$ROUNDS"); do
      get get/bare "round $round" bare "$SMALL_KEYS"
      get get/service "round $round" main "$SMALL_KEYS"
    done
    stop bare
    sizes main get/after "$DIR/main" "after all rounds"
  fi
  if wanted rebuild; then
    say "views rebuilt from the log, $SMALL_KEYS keys"
    rebuild main "$DIR/main" rebuild/small $((SMALL_KEYS + 1)) 3
  fi
  stop main
  rm -rf "$DIR/main"
}

measure_batch() {
  local round
  say "POST /answers/batch, $STREAMS streams"
  start_service main "$DIR/main"
  for round in $(seq "$ROUNDS"); do
    load batch --url "${WRITE[main]}" --seconds "$SECONDS_A_RUN" --streams "$STREAMS" --tag "batch-$RUN_ID-$round"
    row batch/rate "${M[rate]}" commands/s "round $round: ${M[count]} commands"
    row batch/lowest "${M[min_per_s]}" commands/s "round $round: lowest second"
    row batch/longest "$(calc "${M[max_us]} / 1000")" ms "round $round: longest time without a result"
    note "round $round: ${M[rate]} commands/s, lowest second ${M[min_per_s]}, longest stall ${M[max_us]} us"
    settle main
    row batch/caught_up "$CAUGHT_UP" s "round $round: until the views had all, after the load"
  done
  sizes main batch/after "$DIR/main" "after all rounds"
  stop main
  rm -rf "$DIR/main"
}

# How many seconds to write to N keys without changing what N means too much.
growth_seconds() {
  local seconds=$(($1 / 40000))
  [ "$seconds" -ge 3 ] || seconds=3
  [ "$seconds" -le "$SECONDS_A_RUN" ] || seconds=$SECONDS_A_RUN
  printf '%s' "$seconds"
}

measure_growth() {
  local keys seconds
  for keys in 10000 100000 1000000; do
    say "growth: $keys keys"
    start_service main "$DIR/main"
    preload main "$keys"
    row "growth/$keys/batch" "${M[rate]}" commands/s "the preload"
    settle main
    sizes main "growth/$keys/loaded" "$DIR/main" "$keys keys, settled"
    get "" "" main "$keys" 2
    get "growth/$keys/get" "uniform" main "$keys" $((SECONDS_A_RUN / 4 + 2))
    sizes main "growth/$keys/read" "$DIR/main" "after the reads"
    seconds=$(growth_seconds "$keys")
    post "growth/$keys/post" "$seconds s, from $keys keys on" main "$seconds"
    stop main
    start_service main "$DIR/main"
    row "growth/$keys/start" "$STARTED" s "after SIGTERM, until /readyz is 200"
    stop main
    rm -rf "$DIR/main"
  done
}

measure_big() {
  local round key position
  say "$BIG_KEYS keys through /answers/batch"
  start_bare
  start_service big "$DIR/big"
  preload big "$BIG_KEYS"
  row big/batch/rate "${M[rate]}" commands/s "from none to $BIG_KEYS keys"
  row big/batch/lowest "${M[min_per_s]}" commands/s "lowest second"
  row big/batch/longest "$(calc "${M[max_us]} / 1000")" ms "longest time without a result"
  row "growth/$BIG_KEYS/batch" "${M[rate]}" commands/s "the preload"
  sizes big big/batch/after "$DIR/big" "right after the batch"
  settle big
  row big/batch/caught_up "$CAUGHT_UP" s "until the views had all, after the batch"
  sizes big "growth/$BIG_KEYS/loaded" "$DIR/big" "settled"

  say "GET uniformly over $BIG_KEYS keys: bare, service, in turn"
  get "" "" big "$BIG_KEYS" 5
  for round in $(seq "$ROUNDS"); do
    get big/get/bare "round $round" bare "$BIG_KEYS"
    get big/get/service "round $round" big "$BIG_KEYS"
  done
  sizes big big/get/after "$DIR/big" "after the reads"
  row "growth/$BIG_KEYS/get/rate" "$(mean big/get/service/rate)" req/s "mean of the rounds"

  say "start with $BIG_KEYS keys, after SIGTERM and after kill -9 under load"
  load mark --url "${WRITE[big]}"
  key=${M[key]} position=${M[position]}
  stop big
  row big/stop "$STOPPED" s "SIGTERM until the process has ended"
  start_service big "$DIR/big"
  row big/start/term "$STARTED" s "after SIGTERM, until /readyz is 200"
  row "growth/$BIG_KEYS/start" "$STARTED" s "after SIGTERM, until /readyz is 200"
  load await --url "${READ[big]}" --key "$key" --position "$position"
  sizes big big/start/after "$DIR/big" "right after a start"
  settle big
  rebuild big "$DIR/big" rebuild/big $((BIG_KEYS + 3)) 1
  sizes big rebuild/big/after "$DIR/big" "right after the rebuild"
  settle big
  next_run
  wrk -t2 -c"$CONNECTIONS" -d6s -s "$HERE/post.lua" "${WRITE[big]}" -- "$RUN" >"$DIR/killed.out" 2>&1 &
  local victim=$!
  sleep 4
  stop big KILL
  wait "$victim" || true
  start_service big "$DIR/big"
  row big/start/kill "$STARTED" s "after kill -9 under POST load, until /readyz is 200"
  # The last check that nothing acknowledged was lost is the tests', not ours.
  settle big
  row big/start/kill_caught_up "$CAUGHT_UP" s "then until the views had all"

  say "POST: from $SMALL_KEYS keys and from $BIG_KEYS keys on, in turn"
  start_service small "$DIR/small.origin"
  preload small "$SMALL_KEYS"
  settle small
  stop small
  for round in $(seq "$ROUNDS"); do
    cp -a "$DIR/small.origin" "$DIR/small"
    start_service small "$DIR/small"
    settle small
    post big/post/small "round $round" small
    settle small
    stop small
    rm -rf "$DIR/small"
    post big/post/big "round $round" big
    sizes big big/post/after "$DIR/big" "round $round, after the load"
    settle big
    row big/post/caught_up "$CAUGHT_UP" s "round $round: until the views had all, after the load"
  done
  row "growth/$BIG_KEYS/post/rate" "$(mean big/post/big/rate)" req/s "mean of the rounds"
  stop big
  stop bare
  rm -rf "$DIR/big" "$DIR/small.origin"
}

# -------------------------------------------------------------------------- report

# text value unit limit(>=|<= number) words
bar() {
  local verdict=missed
  if [ -z "$2" ]; then
    printf '| %s | not measured | %s | |\n' "$1" "$5"
    return
  fi
  ! awk "BEGIN { exit !($2 $4) }" || verdict=met
  printf '| %s | %s %s | %s | %s |\n' "$1" "$(awk "$SHOWN BEGIN { print shown($2) }")" "$3" "$5" "$verdict"
}

# a b: mean of a over mean of b, or nothing
ratio() {
  local a b
  a=$(mean "$1")
  b=$(mean "$2")
  [ -z "$a" ] || [ -z "$b" ] || awk "BEGIN { printf \"%.3f\", $a / $b }"
}

difference() {
  local a b
  a=$(mean "$1")
  b=$(mean "$2")
  [ -z "$a" ] || [ -z "$b" ] || awk "BEGIN { printf \"%.3f\", $a - $b }"
}

report() {
  printf '\n### The machine\n\n| what | | |\n|---|---|---|\n'
  awk -F'\t' '$1 ~ /^machine\// { sub("machine/", "", $1); printf "| %s | %s %s | %s |\n", $1, $2, ($3 == "-" ? "" : $3), $4 }
              $1 ~ /^fsync\// { printf "| %s | %s %s | %s |\n", $1, $2, $3, $4 }' "$OUT"

  printf '\n### Against the bars\n\nRuns of %s s, %s connections, means of %s rounds unless it says worst.\n\n' "$SECONDS_A_RUN" "$CONNECTIONS" "$ROUNDS"
  awk -F'\t' -v limit=$DISTURBED '$1 ~ /\/others$/ { runs++; if ($2 > limit) bad++ }
    END { if (bad) printf "**%d of %d runs were disturbed: other processes took more than %s cores.**\n\n", bad, runs, limit }' "$OUT"
  printf '| what | measured | wanted | |\n|---|---|---|---|\n'
  bar "durable POST of the bare handler's rate" "$(ratio post/durable/rate post/bare/rate)" "" ">= 0.45" "≥ 0.45, goal 0.6"
  bar "durable POST, p99, worst round" "$(most post/durable/p99)" ms "<= 5" "≤ 5 ms"
  bar "durable POST, one connection, p50 above the disk's fsync" "$(difference single/durable/p50 single/fsync/p50)" ms "<= 0.2" "≤ 0.2 ms"
  bar "GET of the bare handler's rate, $SMALL_KEYS keys" "$(ratio get/service/rate get/bare/rate)" "" ">= 0.85" "≥ 0.85, goal 0.95"
  bar "GET of the bare handler's rate, uniform over $BIG_KEYS keys" "$(ratio big/get/service/rate big/get/bare/rate)" "" ">= 0.6" "≥ 0.6"
  bar "durable POST, times etcd's put through its gateway" "$(ratio post/durable/rate post/etcd/rate)" "" ">= 3" "≥ 3"
  bar "batch" "$(mean batch/rate)" commands/s ">= 60000" "≥ 60,000, goal 100,000"
  bar "views rebuilt, $SMALL_KEYS keys" "$(mean rebuild/small/rate)" events/s ">= 100000" "≥ 100,000"
  bar "views rebuilt, $BIG_KEYS keys" "$(mean rebuild/big/rate)" events/s ">= 0" "shown"
  bar "POST from $BIG_KEYS keys on, of that from $SMALL_KEYS on" "$(ratio big/post/big/rate big/post/small/rate)" "" ">= 0.5" "≥ 0.5"
  bar "start with $BIG_KEYS keys after SIGTERM" "$(most big/start/term)" s "<= 5" "≤ 5 s"
  bar "start with $BIG_KEYS keys after kill -9 under load" "$(most big/start/kill)" s "<= 5" "≤ 5 s"
  bar "resident memory with $BIG_KEYS keys, worst phase" "$(most "(big|rebuild/big|growth/$BIG_KEYS)/.*vmrss")" MB "<= 1000" "≤ 1 GB"
  bar "projection lag under full POST load, p99" "$(most lag/p99)" ms "<= 100" "≤ 100 ms"

  printf '\n### Runs\n\nPercentiles are corrected for coordinated omission, as wrk does it: a stall counts
for the requests that it kept from being sent. "Server" is the processor time of the
server a request; "idle" and "others" (other processes and kernel threads; about 0 on
a quiet machine) are in cores.\n\n'
  printf '| run | | req/s | p50 ms | p99 ms | p99.9 ms | longest ms | lowest second | server µs/req | idle | others |\n|---|---|---|---|---|---|---|---|---|---|---|\n'
  awk -F'\t' "$SHOWN"'
    { split("rate p50 p99 p999 longest lowest cpu idle others", kinds, " ")
      name = $1; kind = name; sub(".*/", "", kind); sub("/[^/]*$", "", name)
      id = name "\t" $4; value[id, kind] = $2
      if (kind == "p999") order[++n] = id }
    END { for (i = 1; i <= n; i++) { split(order[i], part, "\t"); printf "| %s | %s |", part[1], part[2]
            for (k = 1; k <= 9; k++) { v = value[order[i], kinds[k]]; printf " %s |", (v == "" ? "–" : shown(v)) }
            print "" } }' "$OUT"

  printf '\n### Everything else\n\n| what | | |\n|---|---|---|\n'
  awk -F'\t' "$SHOWN"'NR > 1 && $1 !~ /^(machine|fsync|growth)\// {
      name = $1; sub("/[^/]*$", "", name); line[NR] = $0; runs[NR] = name "\t" $4
      if ($1 ~ /\/p999$/) wrk[name "\t" $4] = 1 }
    END { for (i = 2; i <= NR; i++) if (i in line && !(runs[i] in wrk)) {
            split(line[i], part, "\t"); printf "| %s | %s %s | %s |\n", part[1], shown(part[2]), part[3], part[4] } }' "$OUT"

  if grep -q '^growth/' "$OUT"; then
    printf '\n### Growth\n\n| keys | POST req/s | GET req/s | batch commands/s | resident MB | of it anonymous | disk MB | bytes a key | start s |\n|---|---|---|---|---|---|---|---|---|\n'
    growth_rows | awk -F'\t' "$SHOWN"'{ printf "| %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", $1, shown($2), shown($3), shown($4), shown($5), shown($6), shown($7), shown($7 * 1e6 / $1), shown($8) }'
  fi

  cat <<END

### Commands

    bench/run.sh ${COMMAND_LINE}
    wrk -t2 -c$CONNECTIONS -d${SECONDS_A_RUN}s --timeout 30s -s bench/post.lua http://127.0.0.1:PORT -- RUN-ID
    wrk -t2 -c$CONNECTIONS -d${SECONDS_A_RUN}s --timeout 30s -s bench/get.lua http://127.0.0.1:PORT -- KEYS
    wrk -t2 -c$CONNECTIONS -d${SECONDS_A_RUN}s --timeout 30s -s bench/etcd.lua http://127.0.0.1:PORT -- RUN-ID
    load batch --url http://127.0.0.1:PORT --keys KEYS --streams $STREAMS        (preload)
    load batch --url http://127.0.0.1:PORT --seconds $SECONDS_A_RUN --streams $STREAMS
    load single --url http://127.0.0.1:PORT --seconds $SECONDS_A_RUN
    load fsync --dir DIR --seconds $((SECONDS_A_RUN / 6 + 2))
    load lag --url http://127.0.0.1:PORT --read http://127.0.0.1:PORT2 --seconds $((SECONDS_A_RUN - 1))
END
}

# keys, post, get, batch, rss, anonymous, disk, start: a line for each size.
growth_rows() {
  awk -F'\t' '
    $1 ~ /^growth\// { split($1, part, "/"); keys[part[2]] = 1; what = $1; sub("^growth/[0-9]*/", "", what); value[part[2], what] = $2 }
    function show(k, what) { return (k, what) in value ? value[k, what] : "NaN" }
    END { for (k in keys) printf "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k, show(k, "post/rate"), show(k, "get/rate"), show(k, "batch"),
            show(k, "loaded/vmrss"), show(k, "loaded/rssanon"), show(k, "loaded/disk"), show(k, "start") }' "$OUT" | sort -n
}

plot() {
  local terminal
  case $PLOT in
    *.svg) terminal="svg size 900,640 dynamic background '#ffffff' font 'sans-serif,13'" ;;
    *.png) terminal="pngcairo size 900,640 font 'sans-serif,11'" ;;
    *) die "--plot: .svg or .png" ;;
  esac
  growth_rows >"$DIR/growth.dat"
  if [ ! -s "$DIR/growth.dat" ]; then
    note "nothing to plot: growth was not measured"
    return
  fi
  mkdir -p "$(dirname "$PLOT")"
  gnuplot <<END
set terminal $terminal
set output '$PLOT'
set datafile separator '\t'
set datafile missing 'NaN'
set logscale x
set format x '10^{%T}'
set xrange [8000:*]
set yrange [0:*]
set grid
set key outside right center
set multiplot layout 2,1 title 'Cost against the number of keys ($(nproc) cores, $(date +%Y-%m-%d))'
set ylabel 'thousands a second'
plot '$DIR/growth.dat' using 1:(\$3/1000) with linespoints lw 2 pt 7 title 'GET', \
     '' using 1:(\$4/1000) with linespoints lw 2 pt 7 title 'batch', \
     '' using 1:(\$2/1000) with linespoints lw 2 pt 7 title 'durable POST'
set xlabel 'keys'
set ylabel 'MB'
set logscale y
set yrange [1:*]
plot '$DIR/growth.dat' using 1:5 with linespoints lw 2 pt 7 title 'resident', \
     '' using 1:6 with linespoints lw 2 pt 7 title 'of it anonymous', \
     '' using 1:7 with linespoints lw 2 pt 7 title 'disk'
unset multiplot
END
  note "plot: $PLOT"
}

# ---------------------------------------------------------------------------- main

COMMAND_LINE="${QUICK:+--quick }${BIG:+--big }--seconds $SECONDS_A_RUN --rounds $ROUNDS --only $ONLY"
install_tools
build
prepare_folder
trap cleanup EXIT
trap 'exit 130' INT TERM
say "measuring in $DIR; results in $OUT"
describe_machine
if wanted post || wanted single || wanted lag; then measure_writes; fi
if wanted get || wanted rebuild; then measure_reads; fi
if wanted batch; then measure_batch; fi
if wanted growth; then measure_growth; fi
if wanted big && [ -n "$BIG" ]; then measure_big; fi
report
[ -z "$PLOT" ] || plot
say "results: $OUT"
