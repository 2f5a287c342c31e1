#!/usr/bin/env bash
# image.sh: container images without a Docker daemon or a registry.
#
#   image.sh build   the operator's image (Dockerfile) and the example client's (examples/Dockerfile), loaded into the cluster;
#                    prints `operator=IMAGE` and `example=IMAGE`. A tag is a hash of what went in: unchanged code builds nothing.
#   image.sh base    Debian 13 with Python 3.13, in place of the public image that the Dockerfiles name as BASE
#   image.sh pause   the image that holds a pod's namespaces
#
# A Dockerfile's build context is the folder that it lies in, cut down to what its COPY lines name.
# On a cluster of your own (KUBECONFIG) nothing is built: PARTYMQ_OPERATOR_IMAGE and PARTYMQ_EXAMPLE_IMAGE name images that it can pull.
. "$(dirname "$0")/lib.sh"

IMAGES=$CACHE/images
BASE=localhost/partymq-base:1
PAUSE=localhost/pause:1
KEEP=3 # images of earlier builds that running pods may still use
mkdir -p "$IMAGES"

pm() { podman --root "$CACHE/podman" --runroot "$CACHE/podman-run" --cgroup-manager cgroupfs "$@"; }

need_podman() {
  is_root || lack "Building images without Docker takes root: run as root, or install Docker and kind."
  need podman:podman
}

save() { # save IMAGE ARCHIVE
  rm -f "$2.new" # podman refuses an archive that exists
  pm save -q --format oci-archive -o "$2.new" "$1"
  mv "$2.new" "$2"
}

# --- base and pause

import_base() {
  debian_root "$IMAGES/base.root" python3,python3-venv,ca-certificates
  tar -C "$IMAGES/base.root" --exclude='./dev/*' -c . | pm import - "$BASE"
  rm -rf --one-file-system "$IMAGES/base.root"
}

base() {
  need_podman
  if pm image exists "$BASE"; then return; fi
  need debootstrap:debootstrap
  step base "building the base image, Debian 13 with Python (40 to 70 s, once)" import_base
}

pause_program() {
  cat <<'GO'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	<-c
}
GO
}

build_pause() {
  local dir=$IMAGES/pause.new
  rm -rf "$dir"; mkdir "$dir"
  pause_program >"$dir/main.go"
  (cd "$dir" && CGO_ENABLED=0 go build -ldflags "-s -w" -o pause main.go)
  printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >"$dir/Dockerfile"
  pm build -q --isolation chroot -t "$PAUSE" "$dir"
  save "$PAUSE" "$IMAGES/pause.tar"
  rm -rf "$dir"
}

pause() {
  if [ -s "$IMAGES/pause.tar" ]; then return; fi
  need_podman
  need_go
  step pause "building the pause image (2 to 10 s, once)" build_pause
}

# --- the operator and the example client

sources() { # what a Dockerfile copies from its context
  awk 'toupper($1) == "COPY" && !/--from/ {for (i = 2; i < NF; i++) if ($i !~ /^--/) print $i}' "$1" | sed 's#^\./\(.\)#\1#; s#/$##' | sort -u
}

pack() { # pack FOLDER: its Dockerfile and sources, the same bytes for the same contents
  local files; mapfile -t files < <(sources "$1/Dockerfile")
  tar -C "$1" --sort=name --mtime='2000-01-01 UTC' --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw \
    --exclude=__pycache__ --exclude='*.pyc' --exclude=.git --exclude=.venv -c Dockerfile "${files[@]}"
}

# What pip on this machine knows, for pip inside the build: mounted, so nothing of it stays in the image.
pip_mounts() { # sets MOUNTS
  local ca
  ca=$(python3 -c 'import os, ssl; e = os.environ.get; print(e("PIP_CERT") or e("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or "")')
  MOUNTS=(-v "$IMAGES/pip.conf:/etc/pip.conf:ro")
  echo '[global]' >"$IMAGES/pip.conf"
  if [ -s "$ca" ]; then
    echo 'cert = /run/host-ca.crt' >>"$IMAGES/pip.conf"
    MOUNTS+=(-v "$ca:/run/host-ca.crt:ro")
  fi
  # environment first, then files: the first of a name counts
  { "$REPO/.venv/bin/pip" config list 2>/dev/null || python3 -m pip config list 2>/dev/null || true; } |
    sed -n "s/^.*\.\(index-url\|extra-index-url\|trusted-host\|proxy\)='\(.*\)'\$/\1 = \2/p" | awk '!seen[$1]++' >>"$IMAGES/pip.conf"
}

podman_build() { # podman_build TAG CONTEXT ARCHIVE
  pip_mounts
  pm build -q --layers --isolation chroot "${MOUNTS[@]}" --build-arg "BASE=$BASE" -t "$1" "$2"
  save "$1" "$3"
}

docker_build() { # as podman_build, from the public base image. Not tried by us, for want of a Docker engine.
  docker build -t "$1" "$2"
  docker save -o "$3.new" "$1"
  mv "$3.new" "$3"
}

build_one() { # build_one NAME FOLDER ENGINE: the image's name on stdout
  local name=$1 folder=$2 engine=$3 tag context=$IMAGES/$1.context archive=$IMAGES/$1.tar
  tag=localhost/partymq-$name:$({ echo "$engine $BASE"; pack "$folder"; } | sha256sum | cut -c1-12)
  if [ "$(cat "$archive.tag" 2>/dev/null)" != "$tag" ] || ! [ -s "$archive" ]; then
    rm -rf "$context" "$archive.tag"; mkdir "$context"
    pack "$folder" | tar -C "$context" -x
    step "image-$name" "building the $name image (20 to 60 s the first time, 5 to 15 s after a change of code)" \
      "${engine}_build" "$tag" "$context" "$archive"
    rm -rf "$context"
    echo "$tag" >"$archive.tag"
    forget "localhost/partymq-$name" "$engine"
  fi
  "$REPO/hack/cluster.sh" load "$archive"
  echo "$name=$tag"
}

forget() { # forget REPOSITORY ENGINE: all but the newest few; the cluster keeps what its pods run
  local engine=pm image
  [ "$2" = podman ] || engine=$2
  "$engine" images --format '{{.Repository}}:{{.Tag}}' "$1" | tail -n +$((KEEP + 1)) |
    while read -r image; do "$engine" rmi "$image" >/dev/null 2>&1 || true; done
}

build() {
  local engine
  case $("$REPO/hack/cluster.sh" kind) in
  external)
    [ -n "${PARTYMQ_OPERATOR_IMAGE:-}" ] && [ -n "${PARTYMQ_EXAMPLE_IMAGE:-}" ] ||
      lack "For a cluster of your own (KUBECONFIG) set PARTYMQ_OPERATOR_IMAGE and PARTYMQ_EXAMPLE_IMAGE to images that it can pull, built from Dockerfile and examples/Dockerfile."
    echo "operator=$PARTYMQ_OPERATOR_IMAGE"
    echo "example=$PARTYMQ_EXAMPLE_IMAGE"
    return
    ;;
  kind) engine=docker ;;
  node) base; engine=podman ;;
  esac
  build_one operator "$REPO" "$engine"
  build_one example "$REPO/examples" "$engine"
}

case ${1:-} in
build | base) locked image "$1" ;;
pause) locked image-pause pause ;; # a lock of its own: `cluster.sh up` asks for it while `build` may wait for the cluster
*) sed -n '2,/^\./s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
