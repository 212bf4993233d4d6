# Everything a fresh Debian or Ubuntu machine with Rust and Python needs, the targets install themselves.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bakehouse
BIN := $(or $(CARGO_TARGET_DIR),target)/debug/bakehouse
export BAKEHOUSE_ORT_LIB ?= $(CACHE)/ort/1.32.0/libonnxruntime.so

.PHONY: demo test clouds check lint ort build acceptance scoreboard bench deny crd fuzz packaging cluster cluster-down e2e scale clean help

help:            ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: build ort  ## Build, bake an example, print the result and where the report lies
	$(BIN) bake -f examples/cnn/bakejob.yaml

test: tools ort servers  ## Everything that needs no cluster
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test e2e --bench scale -- -D warnings
	BAKEHOUSE_REQUIRE_ORT=1 $(REQUIRE_S3) $(REQUIRE_REGISTRY) cargo test --locked
	cargo check --locked --no-default-features --features operator
	scripts/scoreboard.sh --self-test
	scripts/deny.sh

build: tools
	cargo build --locked

.PHONY: tools
tools:
	@scripts/tools.sh

# The servers of the storage tests: for S3, made once (a minute or two of Go), and Debian's registry. Where one cannot be had, this says why, and its tests
# are skipped.
REQUIRE_S3 = $(shell ls $(CACHE)/versitygw-*/versitygw >/dev/null 2>&1 && echo BAKEHOUSE_REQUIRE_S3=1)
REQUIRE_REGISTRY = $(shell command -v docker-registry >/dev/null && command -v skopeo >/dev/null && echo BAKEHOUSE_REQUIRE_REGISTRY=1)
.PHONY: servers
servers:
	@e2e/cluster/components.sh versitygw || echo "the tests of object storage are skipped" >&2
	@e2e/cluster/components.sh docker-registry || echo "the tests of registries are skipped" >&2

clouds: tools ort  ## The storage tests against what stands for Google's and Azure's stores (fake-gcs-server, Azurite: made once, with Go and npm)
	BAKEHOUSE_REQUIRE_ORT=1 BAKEHOUSE_REQUIRE_GCS=1 BAKEHOUSE_REQUIRE_AZURE=1 cargo test --locked --test store clouds

ort:             ## Fetch ONNX Runtime's library (without it, the embedded engine serves)
	@scripts/ort.sh >/dev/null

acceptance: build ort  ## Print every figure Bakehouse is measured by, with its value at this commit
	scripts/acceptance.sh

scoreboard: tools ort  ## Bake six real models with Bakehouse and its peers, score all, write BENCHMARKS.md (ARGS="--only TASK --no-peers ...")
	scripts/scoreboard.sh $(ARGS)

bench: ort       ## Run the benchmarks
	cargo bench --locked

deny:            ## Licences, sources and bans of the dependencies
	scripts/deny.sh

crd: build       ## Write the CRD again after a change of the API
	$(BIN) crd > crds/bakehouse.dev_bakejobs.yaml

packaging:       ## Check charts, manifests, alerts, dashboard and Argo CD's health check (BAKEHOUSE_KUBECONFIG: against that API server too)
	scripts/packaging.sh

fuzz:            ## Fuzz the model loader for a minute
	scripts/fuzz.sh

cluster: tools ort  ## A real Kubernetes cluster on this machine, with Bakehouse in it (root; e2e/README.md)
	e2e/cluster/binaries.sh
	e2e/cluster/components.sh
	e2e/cluster/up.sh >/dev/null
	e2e/cluster/images.sh
	e2e/cluster/operator.sh
	@e2e/cluster/next.sh

e2e: tools ort    ## The operator's cases on a real cluster, Helm chart and manifests included (root; e2e/README.md)
	e2e/run.sh

scale: tools ort  ## What thousands of BakeJobs cost the controller (needs `make cluster`; e2e/README.md)
	e2e/scale.sh

cluster-down:    ## Remove that cluster and all that it made
	e2e/cluster/down.sh

clean:
	cargo clean
