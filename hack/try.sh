#!/usr/bin/env bash
# try.sh [ARGS...]: what `make try` does: RabbitMQ, `partymq serve`, consumers and a producer as processes of this machine, scaled
# and killed, and an audit. Takes root on Debian or a Docker engine for RabbitMQ, or PARTYMQ_AMQP_URL (with PARTYMQ_MANAGEMENT_URL, if
# its management API is not at port 15672 of that host). ARGS go to the program: --help.
#
# What is missing is built side by side, once, and stays for the next time. However it ends, by Ctrl-C too, what was started is
# stopped: RabbitMQ as well, if it did not run before.
. "$(dirname "$0")/lib.sh"

cd "$REPO" || exit
own=$(mktemp -d)
jobs=() broker=''

job() { # job COMMAND...: beside this script, in a session of its own: Ctrl-C is for us, who then end all of it
  setsid "$@" &
  jobs+=($!)
}

finish() {
  local job
  set +e # whatever fails, the rest is cleaned up
  trap 'say "it is being cleaned up: a moment"' INT TERM HUP
  for job in "${jobs[@]}"; do kill -TERM -- "-$job" 2>/dev/null; done
  for job in "${jobs[@]}"; do while kill -0 "$job" 2>/dev/null; do wait "$job"; done; done
  rm -rf "$own"
  if [ -n "$broker" ] && hack/broker.sh status >/dev/null; then
    say "stopping RabbitMQ, which was started for this"
    hack/broker.sh down
  fi
}
trap finish EXIT
trap 'say "stopping"; exit 130' INT TERM HUP

doing() { # what goes on in the steps since we began, in a line
  local log
  for log in "$CACHE"/log/*.log; do
    if [ "$log" -nt "$own/began" ]; then printf '%s: %.50s  ' "$(basename "$log" .log)" "$(tail -n 1 "$log" | tr -cd '[:print:]')"; fi
  done
}

until_prepared() { # on a terminal a line that changes, else one each 15 s; the first job that fails ends it
  local began=$SECONDS told=$SECONDS job running=yes
  while [ -n "$running" ]; do
    if [ -t 2 ]; then
      printf '\r\033[K%.*s' "$(($(tput cols 2>/dev/null || echo 80) - 1))" "  $((SECONDS - began)) s  $(doing)" >&2
    elif [ $((SECONDS - told)) -ge 15 ]; then
      told=$SECONDS
      say "  $((SECONDS - began)) s  $(doing)"
    fi
    sleep .3
    running=''
    for job in "${jobs[@]}"; do if kill -0 "$job" 2>/dev/null; then running=yes; else wait "$job" || exit; fi; done
  done
  jobs=()
}

say "PartyMQ on this machine: RabbitMQ, a router, three consumers and a producer. Ctrl-C ends it and cleans up."
touch "$own/began"
hack/broker.sh status >/dev/null 2>&1 && known=0 || known=$?
[ "$known" != 1 ] || broker=ours
job hack/venv.sh demo
job hack/broker.sh up >"$own/url"
until_prepared

PARTYMQ_AMQP_URL=$(<"$own/url")
[ "$known" = 3 ] || PARTYMQ_MANAGEMENT_URL=$(hack/broker.sh management-url) # 3: it is somebody's own
export PARTYMQ_AMQP_URL ${PARTYMQ_MANAGEMENT_URL:+PARTYMQ_MANAGEMENT_URL} PYTHONPATH=tests
job .venv/bin/python -m demo.trial "$@"
wait "${jobs[0]}"
