#!/usr/bin/env bash
# cluster.sh: a Kubernetes for the end-to-end tests and the demo, and a bare API server for the integration tests.
#
#   cluster.sh up              start it (or find it running); prints the path of its kubeconfig
#   cluster.sh down [--purge]  stop it; --purge forgets every object and image in it
#   cluster.sh load ARCHIVE    import an image archive into its container runtime
#   cluster.sh kubeconfig      print the path alone
#   cluster.sh kind            which one it is: external, kind or node
#   cluster.sh status          exit code 0 while it runs
#   cluster.sh api [up|down [--purge]|kubeconfig|status]    the same for the bare API server
#
# external  KUBECONFIG names a cluster of your own: nothing is started, `up` checks that it answers
# kind      there is a Docker engine and kind
# node      a real one-node Kubernetes out of processes on this machine, on 127.96.0.1; takes root. Its pods need hostNetwork, and
#           there is no DNS, no kube-proxy and no load balancer. One such node at a time on a machine.
#
# The bare API server is etcd and kube-apiserver alone, on 127.96.1.1:6443: no controllers, so nothing is collected and namespaces
# stay Terminating. It's always our own, whatever KUBECONFIG says: tests that create and delete CRDs must not meet a cluster in use.
. "$(dirname "$0")/lib.sh"

WHICH=kube
if [ "${1:-}" = api ]; then WHICH=api; shift; set -- "${@:-up}"; fi
STATE=$CACHE/$WHICH
RUN=$STATE/run LOGS=$STATE/log
case $WHICH in
kube) ADDR=${PARTYMQ_CLUSTER_ADDR:-127.96.0.1} PORT=443 ;; # the Service `kubernetes` has this port, see node.sh
api) ADDR=${PARTYMQ_API_ADDR:-127.96.1.1} PORT=6443 ;;
esac
export KUBECACHEDIR=$STATE/kube-cache # else kubectl and helm write into the home folder

is_external() { # our own kubeconfigs come back to us in the environment of tests
  [ $WHICH = kube ] && [[ -n ${KUBECONFIG:-} && $KUBECONFIG != "$CACHE/kube/kubeconfig" && $KUBECONFIG != "$CACHE/api/kubeconfig" ]]
}
kind_of() {
  if is_external; then echo external
  elif [ $WHICH = kube ] && has_docker && command -v kind >/dev/null; then echo kind
  else echo node; fi
}

k() { "$BIN/kube" kubectl --kubeconfig "$STATE/kubeconfig" "$@"; }

# --- etcd and the API server

certificates() { # made once; the API server makes its own, and we take the CA out of it
  local pki=$STATE/pki
  if ! [ -s "$pki/tokens.csv" ]; then # written last
    openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /O=system:masters/CN=apiserver \
      -keyout "$pki/to-kubelet.key" -out "$pki/to-kubelet.crt" 2>/dev/null
    (umask 077; echo "$(openssl rand -hex 16),admin,admin,system:masters" >"$pki/tokens.csv.new")
    mv "$pki/tokens.csv.new" "$pki/tokens.csv"
  fi
  # its certificate is good for a year, and for the address that it was made for
  openssl x509 -in "$pki/apiserver.crt" -noout -checkend 86400 -checkip "$ADDR" 2>/dev/null | grep -q 'does match' ||
    rm -f "$pki/apiserver.crt" "$pki/apiserver.key"
}

kubeconfig() {
  (umask 077; cat >"$STATE/kubeconfig.new") <<YAML
apiVersion: v1
kind: Config
clusters: [{name: partymq-$WHICH, cluster: {server: "https://$ADDR:$PORT", certificate-authority: "$STATE/pki/ca.crt"}}]
users: [{name: admin, user: {token: $(cut -d, -f1 "$STATE/pki/tokens.csv")}}]
contexts: [{name: partymq-$WHICH, context: {cluster: partymq-$WHICH, user: admin}}]
current-context: partymq-$WHICH
YAML
  mv "$STATE/kubeconfig.new" "$STATE/kubeconfig"
}

ended_or_ready() { ! alive apiserver || ! alive etcd || k get --raw /readyz; }

api_up() {
  local name
  need openssl:openssl
  mkdir -p "$STATE/pki" "$RUN" "$LOGS"
  (umask 077; mkdir -p "$STATE/etcd")
  if ! alive apiserver && (: <"/dev/tcp/$ADDR/$PORT") 2>/dev/null; then die "$ADDR:$PORT is taken by another program."; fi
  alive apiserver || certificates
  start etcd "$BIN/kube" etcd --name local --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://$ADDR:2379" --advertise-client-urls "http://$ADDR:2379" \
    --listen-peer-urls "http://$ADDR:2380" --initial-advertise-peer-urls "http://$ADDR:2380" --initial-cluster "local=http://$ADDR:2380"
  start apiserver "$BIN/kube" kube-apiserver --etcd-servers="http://$ADDR:2379" --bind-address="$ADDR" --secure-port="$PORT" \
    --advertise-address="$ADDR" --service-cluster-ip-range="${ADDR%.*}.0/24" --endpoint-reconciler-type=none \
    --cert-dir="$STATE/pki" --token-auth-file="$STATE/pki/tokens.csv" --authorization-mode=RBAC \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-signing-key-file="$STATE/pki/sa.key" --service-account-key-file="$STATE/pki/sa.key" \
    --kubelet-client-certificate="$STATE/pki/to-kubelet.crt" --kubelet-client-key="$STATE/pki/to-kubelet.key"
  wait_for 60 test -s "$STATE/pki/apiserver.crt" # the leaf, then the CA that signed it
  awk '/BEGIN/{n++} n==2' "$STATE/pki/apiserver.crt" >"$STATE/pki/ca.crt"
  kubeconfig
  wait_for 90 ended_or_ready || die "The API server at $ADDR:$PORT is not ready; see $LOGS."
  for name in etcd apiserver; do
    alive $name || { tail -n 15 "$LOGS/$name.log" >&2; die "$name ended while it started; see $LOGS."; }
  done
}

api_down() { # it waits for its clients' open requests, and etcd has everything
  GRACE=5 stop apiserver
  stop etcd
}

# --- commands

bare_up() { # the API server alone
  if alive etcd && alive apiserver && k get --raw /readyz >/dev/null 2>&1; then return; fi
  say "starting the API server of the integration tests (4 to 8 s)"
  api_up
}
bare_down() { api_down; if [ "${1:-}" = --purge ]; then rm -rf --one-file-system "$STATE"; fi; }

external_up() {
  command -v kubectl >/dev/null || lack "kubectl is missing: install it, or unset KUBECONFIG to have a cluster made here."
  say "using your cluster, context $(kubectl config current-context) of $KUBECONFIG"
  kubectl --request-timeout=15s get --raw /readyz >/dev/null || die "The cluster that KUBECONFIG=$KUBECONFIG names does not answer."
}
external_down() { :; }
external_load() { lack "Images can't be loaded into a cluster of your own: push them to its registry and set PARTYMQ_OPERATOR_IMAGE and PARTYMQ_EXAMPLE_IMAGE."; }

# Not tried by us, for want of a Docker engine: kind_up, kind_down and kind_load.
kind_up() {
  if kind get clusters 2>/dev/null | grep -qx partymq; then kind export kubeconfig --name partymq --kubeconfig "$STATE/kubeconfig" >&2; return; fi
  say "creating a kind cluster (1 to 3 minutes)"
  kind create cluster --name partymq --kubeconfig "$STATE/kubeconfig" --wait 120s >&2
}
kind_down() { kind delete cluster --name partymq >&2; }
kind_load() { kind load image-archive --name partymq "$1" >&2; }

answers() {
  case $KIND in
  external) kubectl --request-timeout=15s get --raw /readyz ;;
  kind) kind get clusters | grep -qx partymq ;;
  node) alive apiserver && k get --raw /readyz ;;
  esac >/dev/null 2>&1
}

config_path() { if is_external; then echo "$KUBECONFIG"; else echo "$STATE/kubeconfig"; fi; }

KIND=$(kind_of)
if [ $WHICH = api ]; then
  if [ "$1" = up ]; then "$REPO/hack/tools.sh" kube; fi
  PREFIX=bare
else
  # shellcheck source=SCRIPTDIR/node.sh
  . "$REPO/hack/node.sh"
  PREFIX=$KIND
fi
mkdir -p "$STATE"

case $WHICH-${1:-} in
*-up) locked "cluster-$WHICH" "${PREFIX}_up"; config_path ;;
*-down) locked "cluster-$WHICH" "${PREFIX}_down" "${@:2}" ;;
*-kubeconfig) config_path ;;
*-status) answers && echo "$WHICH runs" ;;
kube-kind) echo "$KIND" ;;
kube-load) locked "cluster-$WHICH" "${PREFIX}_load" "${2:?load takes an archive}" ;;
*) sed -n '2,/^\./s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
