#!/usr/bin/env bash
# tools.sh kube|helm|prometheus...: brings tools into the cache's bin folder, once.
#
# kube        etcd, kubectl and the Kubernetes servers in one binary, built from hack/kube (4 GB of compile cache while it builds)
# helm        built, at the version below, unless a helm 4 is on PATH
# prometheus  prometheus and promtool, for the tests of the alerts, out of Debian's package (20 MB), unless they are on PATH. It's
#             unpacked and not installed: nothing is started, and the machine stays as it is
. "$(dirname "$0")/lib.sh"

HELM_VERSION=v4.3.1
KUBE_VERSION=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v//p' "$REPO/hack/kube/go.mod")

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

build_prometheus() {
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then return; fi
  if is_root && command -v apt-get >/dev/null && ! apt-cache show prometheus >/dev/null 2>&1; then
    locked apt step apt-update "reading the package lists" apt-get -o DPkg::Lock::Timeout=300 update -q
  fi
  apt-cache show prometheus >/dev/null 2>&1 ||
    lack "prometheus and promtool are missing, and so the tests of the alerts are skipped: install Prometheus."
  rm -rf "$BIN/prometheus.new"; mkdir "$BIN/prometheus.new"
  step prometheus "fetching prometheus and promtool out of Debian's package (3 to 10 s, once)" unpack_prometheus "$BIN/prometheus.new"
  mv "$BIN/prometheus.new"/usr/bin/{prometheus,promtool} "$BIN/"
  rm -rf "$BIN/prometheus.new"
}

unpack_prometheus() { # unpack_prometheus FOLDER
  cd "$1"
  apt-get -o APT::Sandbox::User=root download -q prometheus # root's cache may be none that apt's own user can write to
  dpkg-deb -x prometheus_*.deb .
}

for tool; do
  case $tool in
  kube | helm | prometheus) locked "build-$tool" "build_$tool" ;;
  *) die "usage: tools.sh kube|helm|prometheus..." ;;
  esac
done
