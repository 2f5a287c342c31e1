# shellcheck shell=bash disable=SC2154 # STATE, ADDR and the functions come from cluster.sh
# node.sh: one Kubernetes node out of processes on this machine: containerd, controller-manager, scheduler and kubelet join the API
# server of cluster.sh. Sourced by it.
#
# How pods reach the API server without kube-proxy: the Service `kubernetes` always has the first address of the service range and
# port 443. The range lies in 127/8 and the API server listens on exactly that address, so for pods on the host's network the
# KUBERNETES_SERVICE_HOST that the kubelet gives them is simply true.

runtime() { ctr -a "$STATE/containerd/sock" -n k8s.io "$@"; }

write_configuration() {
  mkdir -p "$STATE/cni" "$STATE/containerd"
  cat >"$STATE/containerd.toml" <<TOML
version = 2
root = "$STATE/containerd/root"
state = "$STATE/containerd/state"
[grpc]
  address = "$STATE/containerd/sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$STATE/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true # where root may not lower it
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "$(command -v runc)"
        Root = "$STATE/containerd/runc"
TOML
  # no network of its own, yet without a CNI configuration the node never gets Ready
  echo '{"cniVersion":"0.4.0","name":"lo","plugins":[{"type":"loopback"}]}' >"$STATE/cni/10-lo.conflist"
  cat >"$STATE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/to-kubelet.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$STATE/containerd/sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
maxPods: 250
podLogsDir: $STATE/log/pods
volumePluginDir: $STATE/kubelet/volume-plugins
imageGCHighThresholdPercent: 100 # it could not pull them again
evictionHard: {memory.available: 1Mi, nodefs.available: 1%, imagefs.available: 1%}
crashLoopBackOff: {maxContainerRestartPeriod: 2s} # crash tests should not wait 5 minutes
YAML
}

node_up() {
  if alive kubelet && alive containerd && alive kcm && alive scheduler && alive apiserver && alive etcd &&
    k get --raw /readyz >/dev/null 2>&1; then return; fi
  is_root || lack "A Kubernetes node out of processes takes root: run as root, or install Docker and kind, or set KUBECONFIG to a cluster of your own."
  need containerd:containerd ctr:containerd runc:runc /usr/lib/cni/loopback:containernetworking-plugins ip:iproute2 openssl:openssl
  "$REPO/hack/tools.sh" kube
  "$REPO/hack/image.sh" pause
  if ! alive kubelet && (: </dev/tcp/127.0.0.1/10250) 2>/dev/null; then die "A kubelet runs on this machine already (127.0.0.1:10250)."; fi
  say "starting Kubernetes on $ADDR (10 to 15 s the first time, then 5 s)"
  api_up
  start_node
}

start_node() {
  local now; now=$(date -u +%FT%T)
  write_configuration
  start containerd containerd --config "$STATE/containerd.toml"
  wait_for 30 runtime version || die "containerd does not answer; see $LOGS/containerd.log."
  start kcm "$BIN/kube" kube-controller-manager --kubeconfig="$STATE/kubeconfig" --leader-elect=false --bind-address="$ADDR" \
    --cert-dir="$STATE/pki/kcm" --service-account-private-key-file="$STATE/pki/sa.key" --root-ca-file="$STATE/pki/ca.crt"
  start scheduler "$BIN/kube" kube-scheduler --kubeconfig="$STATE/kubeconfig" --leader-elect=false --bind-address="$ADDR" \
    --cert-dir="$STATE/pki/scheduler"
  node_load "$CACHE/images/pause.tar"
  # the name makes 127.0.0.1 the node's address, which --node-ip refuses: with it logs, exec and probes work
  start kubelet "$BIN/kube" kubelet --config="$STATE/kubelet.yaml" --kubeconfig="$STATE/kubeconfig" \
    --root-dir="$STATE/kubelet" --cert-dir="$STATE/pki/kubelet" --hostname-override=127.0.0.1
  wait_for 90 node_ready "$now" || die "The node is not Ready; see $LOGS/kubelet.log."
  wait_for 30 k -n default get serviceaccount default || die "The controller-manager does not work; see $LOGS/kcm.log."
}

node_ready() { # since $1: a Ready condition that etcd kept from the last run proves nothing
  [[ $(k get node 127.0.0.1 -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}') > "True $1" ]]
}

node_load() { # unless this very file was imported before
  local print stamp
  print=$(stat -c '%s %Y %i' "$1"); stamp=$STATE/containerd/loaded.$(basename "$1")
  [ "$(cat "$stamp" 2>/dev/null)" != "$print" ] || return 0
  alive containerd || die "The cluster does not run: hack/cluster.sh up"
  runtime images import "$1" >/dev/null
  echo "$print" >"$stamp"
}

node_down() {
  local id
  stop kcm scheduler kubelet
  if alive containerd; then
    for id in $(runtime tasks ls -q); do runtime tasks rm -f "$id" >/dev/null 2>&1 || true; done
    for id in $(runtime containers ls -q); do runtime containers rm "$id" >/dev/null 2>&1 || true; done
    stop containerd
  fi
  sweep_containers
  api_down
  sweep_mounts
  if [ "${1:-}" = --purge ]; then rm -rf --one-file-system "$STATE"; fi
}

# What a crash may have left; ours only, by pid and path. Shims and containers outlive containerd, so both are ended here.
sweep_containers() {
  local f d pid
  for f in "$STATE"/containerd/state/io.containerd.runtime.v2.task/k8s.io/*/init.pid; do
    [ -e "$f" ] || continue
    pid=$(cat "$f"); d=$(dirname "$f")
    if grep -qs "$(basename "$d")" "/proc/$pid/cgroup"; then kill -9 "$pid" || true; fi
    pid=$(cat "$d/address" 2>/dev/null) && rm -f "${pid#unix://}"
  done
  for d in /proc/[0-9]*; do
    if { tr '\0' ' ' <"$d/cmdline"; } 2>/dev/null | grep -q "^[^ ]*containerd-shim-runc-v2 .*-address $STATE/containerd/sock "; then
      kill -9 "${d#/proc/}" || true
    fi
  done
}

sweep_mounts() {
  unmount_below "$STATE"
  find /var/log/containers -lname "$STATE/*" -delete 2>/dev/null || true
}
