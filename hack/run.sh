#!/usr/bin/env bash
# run.sh unit|fuzz|siege|mutants|integration|e2e|demo|rollouts|bench|soak|lint|docs|generate|format [ARGS...]: makes sure that what a run needs is there, puts its addresses into
# the environment, and runs it. The Makefile's targets are calls of this script; ARGS go to pytest, or to the program; tests that they name
# (tests/unit/sim) are run in place of all.
#
#   PARTYMQ_AMQP_URL, PARTYMQ_MANAGEMENT_URL      the broker, with credentials            integration, e2e, demo, bench
#   PARTYMQ_POD_AMQP_URL                          the same broker as pods see it          e2e, demo, rollouts
#   KUBECONFIG                                    bare API server for integration, cluster for e2e, demo and rollouts
#   PARTYMQ_OPERATOR_IMAGE, PARTYMQ_EXAMPLE_IMAGE                                         e2e, demo, rollouts
#   PARTYMQ_HOST_NETWORK=1                        where pods have to use the host's network
#   PARTYMQ_CACHE, and PATH with kubectl and helm                                         all
#   PARTYMQ_TEST_JOBS                             tests at a time (0, the default, is one)     integration, e2e
. "$(dirname "$0")/lib.sh"

cd "$REPO" || exit
PYTHON=$REPO/.venv/bin/python
hack() { local script=$1; shift; "$REPO/hack/$script.sh" "$@"; }

with_broker() {
  local external=${PARTYMQ_AMQP_URL:-}
  PARTYMQ_AMQP_URL=$(hack broker up)
  if [ -z "$external" ] || [ -n "${PARTYMQ_MANAGEMENT_URL:-}" ]; then PARTYMQ_MANAGEMENT_URL=$(hack broker management-url); fi
  export PARTYMQ_AMQP_URL PARTYMQ_MANAGEMENT_URL
}

with_prometheus() { hack tools prometheus || [ $? = 3 ]; } # where it can't be had, what needs it is skipped

with_api() {
  KUBECONFIG=$(hack cluster api up)
  export KUBECONFIG
}

with_cluster() {
  local kind images
  kind=$(hack cluster kind)
  [ "$kind" != external ] || [ -n "${PARTYMQ_AMQP_URL:-}" ] ||
    lack "For a cluster of your own (KUBECONFIG) set PARTYMQ_AMQP_URL, too, to a RabbitMQ 4 that its pods can reach."
  with_broker
  hack tools helm
  KUBECONFIG=$(hack cluster up)
  images=$(hack image build)
  PARTYMQ_OPERATOR_IMAGE=$(sed -n 's/^operator=//p' <<<"$images")
  PARTYMQ_EXAMPLE_IMAGE=$(sed -n 's/^example=//p' <<<"$images")
  case $kind in
  node) export PARTYMQ_HOST_NETWORK=1 ;;
  kind) : "${PARTYMQ_POD_AMQP_URL:=$(hack broker pod-url)}" ;;
  esac
  : "${PARTYMQ_POD_AMQP_URL:=$PARTYMQ_AMQP_URL}"
  export KUBECONFIG PARTYMQ_OPERATOR_IMAGE PARTYMQ_EXAMPLE_IMAGE PARTYMQ_POD_AMQP_URL KUBECACHEDIR=$CACHE/kube/kube-cache
}

docs() { # BUILDER FOLDER: a link or an anchor that leads nowhere is an error
  .venv/bin/sphinx-build --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees --conf-dir docs --builder "$1" . "$2"
}

generate() { PYTHONPATH=hack "$PYTHON" -m generate "$@"; }

lint() { # all of them, so that one run shows everything
  local failed=()
  check() { say "$*"; "$@" >&2 || failed+=("${1##*/}"); }
  hack tools helm
  check .venv/bin/ruff check .
  check .venv/bin/ruff format --check .
  check .venv/bin/mypy
  check .venv/bin/lint-imports
  check .venv/bin/shellcheck hack/*.sh .ci/run
  check helm lint --strict helm/partymq
  check docs dummy build/dummy
  check generate --check
  check .venv/bin/python hack/audit.py # of dependencies, where its data can be had
  [ ${#failed[@]} = 0 ] || die "lint failed: ${failed[*]}"
}

parts() { # FOLDER FIRST SECOND [ARGS...]: its tests in two parts; those not marked `alone` PARTYMQ_TEST_JOBS at a time
  local folder=$1 marks=("$2" "$3") mark jobs found=()
  shift 3
  [[ " $* " == *" tests/"* ]] || set -- "tests/$folder" "$@"
  for mark in "${marks[@]}"; do
    if [ "$mark" = alone ]; then jobs=0; else jobs=${PARTYMQ_TEST_JOBS:-0}; fi
    if "$PYTHON" -m pytest -m "$mark" -n "$jobs" --dist loadgroup "$@"; then found+=("$mark"); else [ $? = 5 ]; fi
  done # 5: none is selected
  [ ${#found[@]} -gt 0 ] || die "no test is selected"
}

format() {
  .venv/bin/ruff check --fix-only .
  .venv/bin/ruff format .
}

what=${1:-}
[ $# = 0 ] || shift
hack venv
case $what in
lint | generate | format) "$what" ;;
docs)
  docs html build/docs
  say "open build/docs/index.html" ;;
unit)
  hack tools helm # for the tests of the chart, which skip where somebody runs pytest without it
  with_prometheus
  [[ " $* " == *" tests/"* ]] || set -- tests/unit "$@"
  exec "$PYTHON" -m pytest "$@" ;;
siege) # PARTYMQ_SIEGE_SECONDS; with a broker of its own
  with_api
  exec "$PYTHON" -m pytest tests/integration/kube/test_siege.py "$@" ;;
fuzz) # FUZZ_SECONDS, an hour if it is not set; each round with other examples
  until=$(($(date +%s) + ${FUZZ_SECONDS:-3600}))
  while [ "$(date +%s)" -lt "$until" ]; do
    "$PYTHON" -m pytest tests/unit -m fuzz -q --hypothesis-profile fuzz --hypothesis-seed "$RANDOM" "$@"
  done ;;
mutants) exec "$PYTHON" -m pytest tests/mutants "$@" ;;
integration)
  hack tools helm
  with_prometheus
  with_broker; with_api
  parts integration "not alone" alone "$@" ;;
e2e)
  with_cluster
  parts e2e alone "not alone" "$@" ;; # alone first: it brings the kind to the cluster
demo)
  with_cluster
  PYTHONPATH=tests exec "$PYTHON" -m demo "$@" ;;
rollouts)
  with_cluster
  PYTHONPATH=tests exec "$PYTHON" -m rollouts "$@" ;;
bench)
  with_broker
  PYTHONPATH=tests exec "$PYTHON" -m benchmarks "$@" ;;
soak) # with a broker of its own, which it kills
  PYTHONPATH=tests exec "$PYTHON" -m soak "$@" ;;
*) sed -n '2,/^\./s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
