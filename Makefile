# Each target is a call of a script in hack/, which says what it needs and how long it takes. ARGS go to pytest or to the program:
#   make test-unit ARGS="-k ledger -x"
# BROKER=4.3 runs on that version of RabbitMQ instead of 4.0:
#   make test-integration BROKER=4.3
.DEFAULT_GOAL := help
ifneq ($(BROKER),)
export PARTYMQ_BROKER_VERSION := $(BROKER)
endif
.PHONY: help venv lint docs generate format test test-unit test-integration e2e try demo rollouts bench soak fuzz siege mutants cluster-up cluster-down broker-up broker-down image clean distclean

help: ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

try: ## See it work on this machine: a broker, a router and some clients, in two minutes
	@hack/try.sh $(ARGS)

venv: ## The project and its tools in .venv
	@hack/venv.sh

lint: ## ruff, mypy, import-linter, shellcheck, helm lint, links between pages, stale generated files, known vulnerabilities of dependencies
	@hack/run.sh lint

docs: ## The documentation as a site in build/docs
	@hack/run.sh docs

generate: ## Write what is made of declarations: the kind and the chart's copy, reference pages, docs/openapi.json
	@hack/run.sh generate

format: ## Let ruff format the code and fix what it can
	@hack/run.sh format

test: test-unit test-integration ## Unit and integration tests

test-unit: ## Unit tests: no network, no services
	@hack/run.sh unit $(ARGS)

test-integration: ## Integration tests, with a real RabbitMQ and a bare API server
	@hack/run.sh integration $(ARGS)

e2e: ## End-to-end tests, with RabbitMQ and a Kubernetes cluster
	@hack/run.sh e2e $(ARGS)

demo: ## See all of it work: a cluster, a broker, the operator and some clients
	@hack/run.sh demo $(ARGS)

rollouts: ## Measure what rollouts cost on a cluster (10 min); ARGS name rows, --times N repeats them
	@hack/run.sh rollouts $(ARGS)

bench: ## Measure it beside the alternatives (25 min); ARGS name sections, --quick is a smoke run
	@hack/run.sh bench $(ARGS)

fuzz: ## Feed the readers of what others send with rubbish: SECONDS=3600
	@FUZZ_SECONDS=$(SECONDS) hack/run.sh fuzz $(ARGS)

siege: ## The real operator with its pod's memory, besieged in all ways that once ended it: SECONDS=300
	@PARTYMQ_SIEGE_SECONDS=$(or $(SECONDS),300) hack/run.sh siege $(ARGS)

mutants: ## Remove each rule of the protocol and see a simulated history fail
	@hack/run.sh mutants $(ARGS)

soak: ## Random faults under load, and an audit: SECONDS=600 SEED=7; NODES=3 on a cluster whose nodes fail, too
	@hack/run.sh soak $(if $(NODES),--nodes $(NODES)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

cluster-up: ## Start the Kubernetes cluster; prints its KUBECONFIG
	@hack/cluster.sh up

cluster-down: ## Stop the cluster and the API server of the integration tests
	@hack/cluster.sh down
	@hack/cluster.sh api down

broker-up: ## Start RabbitMQ; prints its URL
	@hack/broker.sh up

broker-down: ## Stop every RabbitMQ that was started here
	@hack/broker.sh down --all

image: ## Build the images and load them into the cluster
	@hack/cluster.sh up >/dev/null
	@hack/image.sh build

clean: broker-down cluster-down ## Stop everything and remove what was built here
	rm -rf build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## The same, and .venv and the cache folder (tools, broker, cluster): the next run takes 15 minutes more
	@hack/cluster.sh down --purge
	@hack/cluster.sh api down --purge
	@hack/broker.sh down --all --purge
	@hack/clean-cache.sh
	rm -rf .venv
