#!/usr/bin/env bash
# tools.sh kube|helm...: builds the tools that no Debian package has, once, into the cache's bin folder.
#
# kube  etcd, kubectl and the Kubernetes servers in one binary, from hack/kube (4 GB of compile cache while it builds)
# helm  at the version below, unless a helm 4 is on PATH
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

for tool; do
  case $tool in
  kube | helm) locked "build-$tool" "build_$tool" ;;
  *) die "usage: tools.sh kube|helm..." ;;
  esac
done
