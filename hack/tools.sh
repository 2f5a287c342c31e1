#!/usr/bin/env bash
# tools.sh kube|helm...: builds the tools that no Debian package has, once, into the cache's bin folder.
#
# kube  etcd, kubectl and the Kubernetes servers in one binary, from hack/kube (4 GB of compile cache while it builds)
# helm  at the version below, unless a helm 4 is on PATH
. "$(dirname "$0")/lib.sh"

HELM_VERSION=v4.3.1
KUBE_VERSION=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v//p' "$REPO/hack/kube/go.mod")

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

kube_id() { (cd "$REPO/hack/kube" && cat main.go go.mod go.sum | sha256sum | cut -c1-16); }

build_kube() {
  local version=k8s.io/component-base/version minor
  if [ "$(cat "$BIN/kube.id" 2>/dev/null)" = "$(kube_id)" ] && [ -x "$BIN/kube" ]; then return; fi
  need_go
  minor=${KUBE_VERSION#1.}
  # without its version the server calls itself v0.0.0-master, and a chart's kubeVersion range fails
  step kube "building the Kubernetes servers, $KUBE_VERSION (6 to 12 minutes on 2 cores, once; 20 s with a warm compile cache)" \
    env CGO_ENABLED=0 nice go -C "$REPO/hack/kube" build -trimpath -buildvcs=false -o "$BIN/kube.new" \
    -ldflags "-s -w -X $version.gitVersion=v$KUBE_VERSION -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" .
  mv "$BIN/kube.new" "$BIN/kube"
  ln -sfn kube "$BIN/kubectl"
  kube_id >"$BIN/kube.id"
}

build_helm() {
  if [[ $(helm version --template '{{.Version}}' 2>/dev/null) == v4.* ]]; then return; fi
  need_go
  rm -rf "$BIN/helm.new"
  step helm "building helm $HELM_VERSION (2 to 4 minutes on 2 cores, once)" \
    env CGO_ENABLED=0 GOBIN="$BIN/helm.new" nice go install -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$HELM_VERSION" \
    "helm.sh/helm/v4/cmd/helm@$HELM_VERSION"
  mv "$BIN/helm.new/helm" "$BIN/helm"
  rmdir "$BIN/helm.new"
}

for tool; do
  case $tool in
  kube | helm) locked "$tool" "build_$tool" ;;
  *) die "usage: tools.sh kube|helm..." ;;
  esac
done
