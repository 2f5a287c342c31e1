# shellcheck shell=bash disable=SC2034 # some variables are for the scripts that source this
# lib.sh: what the scripts in hack/ share. Sourced, never run.
#
# Rules that every script keeps: progress goes to stderr and results to stdout; what is missing is said in one sentence and ends
# with exit code 3; whatever is built is built under another name and then moved, so that an interrupted run leaves nothing half done.
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${HOME:=$(cd ~ && pwd)}"
CACHE=${PARTYMQ_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/partymq}
BIN=$CACHE/bin
export HOME PARTYMQ_CACHE=$CACHE PATH="$BIN:$PATH:/usr/sbin:/sbin"

say() { # over a line of progress, where there is one
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
  printf '%s %s\n' "$(date +%T)" "$*" >&2
}
die() { say "$*"; exit 1; }
lack() { say "$*"; exit 3; } # this machine lacks something: not a failure of what was to be done

# Unix sockets and podman's run folder lie in the cache, and both have a limit on the length of their path.
MAX_CACHE=39
[ ${#CACHE} -le $MAX_CACHE ] || lack "The cache folder $CACHE has a path of more than $MAX_CACHE characters: set PARTYMQ_CACHE to a shorter one."
[[ $CACHE =~ ^/[A-Za-z0-9/._-]+$ ]] || lack "The cache folder '$CACHE' must be an absolute path of letters, digits and ._-: set PARTYMQ_CACHE."
if ! [ -e "$CACHE/CACHEDIR.TAG" ]; then # the tag says that the folder is ours: `make distclean` removes it
  [ -z "$(ls -A "$CACHE" 2>/dev/null)" ] || lack "The folder $CACHE holds something else: set PARTYMQ_CACHE to a new or an empty folder."
  mkdir -p "$CACHE"
  echo 'Signature: 8a477f597d28d172789f06886806bc55' >"$CACHE/CACHEDIR.TAG"
fi
mkdir -p "$BIN" "$CACHE/log" "$CACHE/lock"

# --- locks and steps

locked() { # locked NAME COMMAND...: one run at a time; daemons that COMMAND starts must not inherit descriptor 9 (see start)
  local name=$1; shift
  (
    flock -n 9 || { say "waiting for another run ($name)"; flock 9; }
    "$@"
  ) 9>"$CACHE/lock/$name"
}

step() { # step LOG "what it does (how long)" COMMAND...: the output goes to a log and is shown only when COMMAND fails
  local log=$CACHE/log/$1.log what=$2 began=$SECONDS code; shift 2
  say "$what"
  set +e # not `if`: that would switch errexit off inside COMMAND
  (set -e; "$@") >"$log" 2>&1
  code=$?
  set -e
  if [ $code != 0 ]; then tail -n 30 "$log" >&2; die "failed: $what; all of its output is in $log"; fi
  say "  $(basename "$log" .log) done in $((SECONDS - began)) s"
}

wait_for() { # wait_for SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { say "timeout: $*"; return 1; }
    sleep .1
  done
}

# --- what the machine has

is_root() { [ "$(id -u)" = 0 ]; }

apt_install() { # apt_install PACKAGE...
  step apt-update "reading the package lists" apt-get -o DPkg::Lock::Timeout=300 update -q
  step apt-install "installing $* (5 to 60 s)" \
    env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@"
}

missing() { # missing TOOL:PACKAGE...: the packages whose TOOL (a command or a path) is not there
  local pair
  for pair; do command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"; done | sort -u
}

need() { # need TOOL:PACKAGE...: install what is missing, or say so
  local packages; packages=$(missing "$@")
  [ -n "$packages" ] || return 0
  # shellcheck disable=SC2086 # one word per package
  if is_root && command -v apt-get >/dev/null; then locked apt apt_install $packages; fi
  packages=$(missing "$@")
  [ -z "$packages" ] || lack "Missing on this machine: ${packages//$'\n'/ }. Install these packages, or run as root on Debian, where this is done for you."
}

has_docker() { # a client without an engine is no Docker; asked once
  [ -n "${HAS_DOCKER:-}" ] || { HAS_DOCKER=no; if timeout 10 docker info >/dev/null 2>&1; then HAS_DOCKER=yes; fi; }
  [ "$HAS_DOCKER" = yes ]
}

unmount_below() { # unmount_below FOLDER: deepest first
  local mount
  awk -v s="$1/" 'index($2, s) == 1 {print $2}' /proc/self/mounts | sort -r |
    while read -r mount; do umount "$mount" || umount -l "$mount"; done
}

# --- Go

go_minor() { go version 2>/dev/null | sed -n 's/^go version go1\.\([0-9]*\).*/\1/p'; }

# Any Go since 1.21 fetches the version that a module asks for; older ones can't. Debian's versioned packages are not on PATH.
need_go() {
  local package found
  found=$(printf '%s\n' /usr/local/go/bin /usr/lib/go-1.*/bin | sort -V | tail -1)
  PATH=$PATH:/usr/local/go/bin:$found
  if [ "$(go_minor)" -lt 21 ] 2>/dev/null || [ -z "$(go_minor)" ]; then
    if is_root && command -v apt-get >/dev/null; then
      locked apt step apt-update "reading the package lists" apt-get -o DPkg::Lock::Timeout=300 update -q
      package=$(apt-cache search --names-only '^golang-1\.[0-9]+-go$' | awk '{print $1}' | sort -V | tail -1)
      package=${package%-go} # golang-1.24
      if [ "${package#golang-1.}" -ge 21 ] 2>/dev/null; then
        locked apt apt_install "$package-go" "$package-src"
        PATH=/usr/lib/go-${package#golang-}/bin:$PATH
      fi
    fi
  fi
  [ "$(go_minor)" -ge 21 ] 2>/dev/null ||
    lack "Go 1.26 is missing here and apt has none that is new enough: install it from https://go.dev/dl."
  if [ "$(go_minor)" -lt 26 ]; then export GOTOOLCHAIN=auto; fi
}

# --- Debian in a folder, for the broker and for images

debian_root() { # debian_root FOLDER PACKAGE,PACKAGE: Debian 13 with these installed
  bootstrap "$1" "$2"
  rm -rf "$1.new"/var/cache/apt/archives/*.deb "$1.new"/var/lib/apt/lists/*
  mv "$1.new" "$1"
}

# Half of the work of an installation is to configure packages, which a program that runs as root with a configuration of its own
# does not need: it gets their files, the users that every Debian has, and nothing in which more could be installed.
debian_files() { # debian_files FOLDER PACKAGE,PACKAGE [SUITE]: Debian 13, or that suite, with these unpacked
  local new=$1.new package
  bootstrap "$1" "$2" "${3:-}" --foreign
  for package in $(<"$new/debootstrap/base"); do
    echo "I: Unpacking $package..."
    # shellcheck disable=SC2016 # for the inner shell; by the tools of that Debian
    chroot "$new" sh -ec 'dpkg-deb --fsys-tarfile "$1" | tar -xf - -C / --keep-directory-symlink' unpack \
      "$(cd "$new" && echo var/cache/apt/archives/"$package"_*.deb)"
  done
  cp "$new/usr/share/base-passwd/passwd.master" "$new/etc/passwd"
  cp "$new/usr/share/base-passwd/group.master" "$new/etc/group"
  rm -rf "$new/debootstrap" "$new/var/cache/apt/archives" "$new/proc" # in a container proc is a link
  mkdir "$new/proc"
  mv "$new" "$1"
}

bootstrap() { # bootstrap FOLDER PACKAGE,PACKAGE [SUITE] [OPTION]: makes FOLDER.new
  local mirror
  # where apt itself finds Debian; none on a derivative, where debootstrap takes its own default
  # shellcheck disable=SC2016 # apt's own variable
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -1 || true)
  mkdir -p "$CACHE/debs"
  rm -rf --one-file-system "$1" "$1.new"
  # in its own mount namespace: what debootstrap mounts goes when it goes, however it ends
  unshare --mount --propagation private \
    debootstrap --variant=minbase --cache-dir="$CACHE/debs" --include="$2" ${4:+"$4"} "${3:-trixie}" "$1.new" ${mirror:+"$mirror"}
}

# --- daemons: RUN holds one pid file each, "pid starttime", so that a reused pid is never signalled; a zombie counts as gone

starttime() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 !~ /[ZX]/ {print $20}' || true; }

pid_of() { # pid_of NAME: its pid while it runs
  local pid began
  { read -r pid began <"$RUN/$1.pid"; } 2>/dev/null || return 1
  [ -n "$began" ] && [ "$(starttime "$pid")" = "$began" ] && echo "$pid"
}
alive() { pid_of "$1" >/dev/null; }

start() { # start NAME COMMAND...: outlives this script; output in $LOGS/NAME.log
  local name=$1; shift
  if alive "$name"; then return; fi
  setsid "$@" >>"$LOGS/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(starttime $!)" >"$RUN/$name.pid"
}

stop() { # stop NAME...: SIGTERM to all, then up to GRACE seconds each (30), then SIGKILL
  local name pid i grace=${GRACE:-30}
  for name; do if pid=$(pid_of "$name"); then kill "$pid" || true; fi; done
  for name; do
    for ((i = 0; i < grace * 20; i++)); do alive "$name" || break; sleep .05; done
    if pid=$(pid_of "$name"); then say "$name did not stop within $grace s: killing it"; kill -9 "$pid" || true; fi
    rm -f "$RUN/$name.pid"
  done
}
