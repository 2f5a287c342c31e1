#!/usr/bin/env bash
# broker.sh: a RabbitMQ 4 for tests and the demo, on loopback, with the management and shovel plugins.
#
#   broker.sh [--instance NAME] up              start it (or find it running); prints the AMQP URL
#   broker.sh [--instance NAME] url|management-url|pod-url      pod-url: the AMQP URL as a kind cluster's pods see it
#   broker.sh [--instance NAME] ctl ARGS...     rabbitmqctl
#   broker.sh --port PORT ctl ARGS...           rabbitmqctl of the instance that listens there
#   broker.sh [--instance NAME] kill            SIGKILL, for fault tests; `up` starts it again with its data
#   broker.sh [--instance NAME] freeze|thaw     SIGSTOP and SIGCONT, for fault tests; `kill` may follow a freeze
#   broker.sh [--instance NAME] cut|mend        let nothing pass between it and anybody else, without a word; it takes iptables
#   broker.sh [--instance NAME] status          exit code 0 while it runs
#   broker.sh [--instance NAME] down [--purge]  stop it; --purge drops its data and frees its ports
#   broker.sh down --all [--purge]
#
# Instances run side by side, each with its own data and ports: the first takes 5673 (PARTYMQ_BROKER_PORT), the next 5674, and
# so on; management listens on that plus 10000. They share an Erlang cookie and epmd, so `ctl join_cluster` makes a cluster of them.
# PARTYMQ_BROKER_VERSION=4.3 (`make ... BROKER=4.3`) makes them that version, with data and ports of their own beside 4.0's.
# PARTYMQ_AMQP_URL names a broker of your own in place of the default instance: then nothing is started (PARTYMQ_MANAGEMENT_URL
# goes with it). With a Docker engine the broker is a container, else RabbitMQ from Debian in a chroot, which
# takes root: 4.0 from Debian 13, 4.3 from Debian's unstable suite, for which no other one has it.
. "$(dirname "$0")/lib.sh"

NAME=default PORT='' PURGE='' ALL='' COMMAND='' ARGS=()
while [ $# -gt 0 ]; do
  case $1 in
  --instance) NAME=${2:?--instance takes a name}; shift 2 ;;
  --port) PORT=${2:?--port takes the port that an instance listens on}; shift 2 ;;
  --purge) PURGE=yes; shift ;;
  --all) ALL=yes; shift ;;
  ctl) COMMAND=ctl; shift; ARGS=("$@"); break ;;
  -*) die "broker.sh: unknown option $1" ;;
  *) COMMAND=$1; shift ;;
  esac
done
[[ $NAME =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || die "An instance's name has lower-case letters, digits and dashes: '$NAME' is none."

# An instance's version is in its name, so that whoever has only a name or a port has the version, too.
case ${PARTYMQ_BROKER_VERSION:-} in
'' | 4.0) ;;
4.3) [[ $NAME == *-v43 ]] || [ -n "$PORT" ] || NAME=$NAME-v43 ;;
*) lack "PARTYMQ_BROKER_VERSION is '$PARTYMQ_BROKER_VERSION': there are 4.0 and 4.3 here. Set PARTYMQ_AMQP_URL for a broker of your own." ;;
esac

BROKER=$CACHE/broker
SBIN=/usr/lib/rabbitmq/bin # Debian's wrappers in /usr/sbin would change the user and HOME
BASE_PORT=${PARTYMQ_BROKER_PORT:-5673}
RUN=$BROKER/run LOGS=$BROKER/log
mkdir -p "$RUN" "$LOGS" "$BROKER/instances"

# --- instances: a folder each, with its data and the port that it was given

version_of() { if [[ $1 == *-v43 ]]; then echo 4.3; else echo 4.0; fi; }
set_root() { # DEBIAN and SUITE for an instance
  case $(version_of "$1") in
  4.3) DEBIAN=$BROKER/root-4.3 SUITE=sid ;;
  *) DEBIAN=$BROKER/root SUITE=trixie ;;
  esac
}
folder() { echo "$BROKER/instances/$1"; }
port() { cat "$(folder "$NAME")/port" 2>/dev/null; }

claim_port() { # the first free one, kept until --purge
  local candidate=$BASE_PORT
  if [ -s "$(folder "$NAME")/port" ]; then return; fi
  [ "$NAME" = default ] || candidate=$((candidate + 1)) # the first is the default instance's, started or not
  while grep -qsx "$candidate" "$BROKER"/instances/*/port; do candidate=$((candidate + 1)); done
  mkdir -p "$(folder "$NAME")"
  echo "$candidate" >"$(folder "$NAME")/port"
}

amqp_url() { echo "amqp://guest:guest@127.0.0.1:$(port)/"; }
management_url() { echo "http://guest:guest@127.0.0.1:$(($(port) + 10000))"; }

instance_at() { # the instance that was given a port
  local file
  file=$(grep -lx "$1" "$BROKER"/instances/*/port 2>/dev/null) ||
    lack "No RabbitMQ that this script started listens on port $1: what is done to a broker from the inside takes one of those."
  basename "$(dirname "$file")"
}

if [ -n "$PORT" ]; then NAME=$(instance_at "$PORT"); fi

is_external() { # a broker of the user's own; our own URL comes back to us in the environment of tests
  [ -z "$PORT" ] && [[ $NAME =~ ^default(-v43)?$ ]] && [ -n "${PARTYMQ_AMQP_URL:-}" ] && ! { port >/dev/null && [ "$PARTYMQ_AMQP_URL" = "$(amqp_url)" ]; }
}

# --- RabbitMQ in a Debian root: `chroot_up` and its kind; `docker_up` and its kind are in broker-docker.sh

build_root() {
  if [ -x "$DEBIAN/usr/sbin/rabbitmqctl" ]; then return; fi
  need debootstrap:debootstrap
  step broker-root "building the Debian root of RabbitMQ $(version_of "$NAME") (20 to 110 s, once)" \
    debian_files "$DEBIAN" rabbitmq-server "$SUITE"
}

# shellcheck disable=SC2016 # $1 and its kind are for the inner shell
enter() { # sets ENTER, a command prefix: NAME's folder is /data in the root. The mounts are private and end with the process.
  local data; data=$(folder "$1")
  set_root "$1"
  mkdir -p "$DEBIAN/data" "$data"
  ENTER=(
    unshare --mount --propagation private sh -c
    'mount --bind /proc "$1/proc" && mount --bind "$2" "$1/data" && root=$1 && shift 2 && exec chroot "$root" env -i "$@"' enter
    "$DEBIAN" "$data" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/data LANG=C.UTF-8
    ERL_EPMD_ADDRESS=127.0.0.1 "ERL_EPMD_PORT=$(cat "$BROKER/epmd-port")"
    "RABBITMQ_NODENAME=$(node_name "$1")" RABBITMQ_MNESIA_BASE=/data/mnesia RABBITMQ_LOG_BASE=/data/log
    "RABBITMQ_DIST_PORT=$(($(port) + 20000))" RABBITMQ_ENABLED_PLUGINS_FILE=/data/enabled RABBITMQ_CONFIG_FILE=/data/rabbitmq.conf
    RUNNING_UNDER_SYSTEMD=true # then rabbitmq-server is replaced by the Erlang VM, whose pid is the one we know
    # no busy waiting: the cores are the tests' too; and an address of its own for what it connects to (see chroot_cut)
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_connect_options [{ip,{$(own_ip "$1" ,)}}]"
  )
}
own_ip() { # NAME SEPARATOR: an address on loopback that nobody else has, by the port
  local port; port=$(cat "$(folder "$1")/port")
  echo "127$2$((port / 256))$2$((port % 256))${2}1"
}
node_name() { if [ "$1" = default ]; then echo partymq@localhost; else echo "partymq-$1@localhost"; fi; }

configure() {
  local data; data=$(folder "$NAME")
  [ -s "$BROKER/epmd-port" ] || echo $((BASE_PORT - 1303)) >"$BROKER/epmd-port" # beside the usual 4369
  [ -s "$BROKER/cookie" ] || (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$BROKER/cookie")
  (umask 077; cat "$BROKER/cookie" >"$data/.erlang.cookie")
  echo '[rabbitmq_management,rabbitmq_shovel].' >"$data/enabled"
  cat >"$data/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$(port)
management.tcp.ip = 127.0.0.1
management.tcp.port = $(($(port) + 10000))
CONF
  grep -qs '^127.0.0.1.*localhost' "$DEBIAN/etc/hosts" || echo '127.0.0.1 localhost' >>"$DEBIAN/etc/hosts"
}

in_use() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ended_or_listens() { ! alive "$NAME" || in_use "$(port)"; }

chroot_up() {
  is_root || lack "Starting RabbitMQ takes root or a Docker engine on this machine: set PARTYMQ_AMQP_URL to a RabbitMQ 4 of your own instead."
  set_root "$NAME"
  build_root
  claim_port
  if alive "$NAME" && in_use "$(port)"; then return; fi
  configure
  if ! alive "$NAME" && in_use "$(port)"; then die "Port $(port) is taken by another program: set PARTYMQ_BROKER_PORT to a free one."; fi
  say "starting RabbitMQ ($NAME) on 127.0.0.1:$(port) (5 to 10 s)"
  enter "$NAME"
  start epmd "${ENTER[@]}" epmd -port "$(cat "$BROKER/epmd-port")" -address 127.0.0.1
  start "$NAME" "${ENTER[@]}" "$SBIN/rabbitmq-server"
  wait_for 90 ended_or_listens || die "RabbitMQ ($NAME) does not listen on port $(port); see $(folder "$NAME")/log."
  alive "$NAME" || { tail -n 20 "$LOGS/$NAME.log" "$(folder "$NAME")"/log/*.log >&2; die "RabbitMQ ($NAME) ended while it started."; }
  "${ENTER[@]}" "$SBIN/rabbitmqctl" -q await_startup --timeout 60 >&2
}

chroot_down() {
  chroot_mend
  stop "$NAME"
  if [ -n "$PURGE" ]; then rm -rf --one-file-system "$(folder "$NAME")"; fi
  for name in $(instances); do alive "$name" && return; done
  stop epmd # with the last instance
}

gone() { ! alive "$NAME"; }

chroot_kill() {
  local pid
  if pid=$(pid_of "$NAME"); then kill -9 "$pid"; fi
  wait_for 10 gone
}

chroot_ctl() { # only while it runs: rabbitmqctl would start an epmd of its own
  alive "$NAME" || die "RabbitMQ ($NAME) does not run: hack/broker.sh --instance $NAME up"
  enter "$NAME"
  "${ENTER[@]}" "$SBIN/rabbitmqctl" "$@"
}

chroot_status() { alive "$NAME"; }
chroot_signal() { # freeze|thaw
  local pid signal=CONT
  [ "$1" = thaw ] || signal=STOP
  if pid=$(pid_of "$NAME"); then kill "-$signal" "$pid"; fi
}
chroot_cut() { # by what it listens on, and where its own connections to other nodes come from
  need iptables:iptables
  local chain port ip
  chain=PARTYMQ-$(port)
  ip=$(own_ip "$NAME" .)
  chroot_mend
  iptables -w -N "$chain"
  for port in "$(port)" $(($(port) + 10000)) $(($(port) + 20000)); do
    iptables -w -A "$chain" -p tcp --dport "$port" -j DROP
    iptables -w -A "$chain" -p tcp --sport "$port" -j DROP
  done
  iptables -w -A "$chain" -s "$ip" -j DROP
  iptables -w -A "$chain" -d "$ip" -j DROP
  iptables -w -I INPUT -i lo -j "$chain"
}
chroot_mend() {
  local chain
  chain=PARTYMQ-$(port) || return 0
  command -v iptables >/dev/null && iptables -w -n -L "$chain" >/dev/null 2>&1 || return 0
  iptables -w -D INPUT -i lo -j "$chain" || true
  iptables -w -F "$chain"
  iptables -w -X "$chain"
}
chroot_frozen() { local pid; pid=$(pid_of "$NAME") && [[ $(sed 's/.*) //' "/proc/$pid/stat") == T* ]]; }
chroot_pod_url() { amqp_url; }

# --- commands

instances() { for d in "$BROKER"/instances/*/; do if [ -e "$d/port" ]; then basename "$d"; fi; done; }
engine() { if has_docker; then echo docker; else echo chroot; fi; }

# Quorum queues that were declared within 3 s before a SIGKILL are lost to RabbitMQ 4.0 for good: it writes their names late
# (rabbitmq-server issue 15725). No client could fix that, so it writes them in the moment of the kill. One that was just being
# declared, in which nothing can be, comes back without a leader all the same: `up` has it elected, as an administrator would.
# One that is frozen writes nothing any more: whoever freezes it sees to that before.
kill_hard() {
  "$1_status" || die "RabbitMQ ($NAME) does not run."
  : >"$(folder "$NAME")/killed"
  "$1_frozen" || "$1_ctl" -q eval '[dets:sync(T) || T <- dets:all()], os:cmd("kill -9 " ++ os:getpid()).' >/dev/null 2>&1 || true
  "$1_kill"
}

up() {
  "$1_up"
  [ -e "$(folder "$NAME")/killed" ] || return 0
  "$1_ctl" -q eval '[catch ra:trigger_election({Name, node()}) || Q <- rabbit_amqqueue:list_by_type(rabbit_quorum_queue),
    {Name, _} <- [amqqueue:get_pid(Q)], ra_leaderboard:lookup_leader(Name) =:= undefined], ok.' >/dev/null
  rm -f "$(folder "$NAME")/killed"
}

down() {
  local names=$NAME
  [ -z "$ALL" ] || names=$(instances)
  for NAME in $names; do "$1_down"; done
}

status() {
  if "$1_status"; then echo "$NAME runs at $(amqp_url)"; else echo "$NAME does not run"; return 1; fi
}

if is_external; then
  case $COMMAND in
  up | url | pod-url) echo "$PARTYMQ_AMQP_URL" ;;
  management-url) echo "${PARTYMQ_MANAGEMENT_URL:?set it to the management API of the broker at PARTYMQ_AMQP_URL}" ;;
  down) ;;
  *) lack "broker.sh $COMMAND works on brokers that this script started, and PARTYMQ_AMQP_URL names another." ;;
  esac
  exit
fi

# shellcheck source=SCRIPTDIR/broker-docker.sh
if [ "$(engine)" = docker ]; then . "$REPO/hack/broker-docker.sh"; fi

case $COMMAND in
up) locked broker up "$(engine)"; amqp_url ;;
url) locked broker claim_port; amqp_url ;;
management-url) locked broker claim_port; management_url ;;
ctl) "$(engine)_ctl" "${ARGS[@]}" ;;
kill) locked broker kill_hard "$(engine)" ;;
freeze | thaw) "$(engine)_signal" "$COMMAND" ;;
cut | mend) "$(engine)_$COMMAND" ;;
status) status "$(engine)" ;;
pod-url) "$(engine)_pod_url" ;;
down) locked broker down "$(engine)" ;;
*) sed -n '2,/^\./s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
