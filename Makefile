# Everything there is to do with this repository. `make` alone lists it.

CARGO ?= cargo
ARGS ?=
QUICK ?=
SECONDS ?= 30

.PHONY: help demo test fuzz e2e bench bench-control cluster-up cluster-down cluster-shell setup build release images profile docs fmt

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## build and run a whole mesh on this machine (ARGS="--check" asserts what it shows)
	$(CARGO) build --quiet -p meshctl
	target/debug/meshctl demo $(ARGS)

test: ## everything CI runs: installs what it needs, says at the end what it ran
	scripts/test.sh

fuzz: ## look for bytes that the codecs do not stand, guided by coverage (SECONDS=600 for each target, ARGS="h1_request")
	SECONDS_EACH=$(SECONDS) scripts/fuzz.sh $(ARGS)

e2e: ## the suite on a real Kubernetes (PROVIDER=processes|kind, KEEP=1, ARGS="NAME..." selects scenarios)
	$(CARGO) build --quiet -p mesh-e2e --bins
	$(CARGO) run --quiet -p mesh-e2e --bin mesh-e2e -- $(ARGS)

bench: ## this mesh beside HAProxy and nginx on this machine, as root (QUICK=1 takes two minutes; ARGS="--trial h1_100b")
	scripts/setup.sh --bench
	scripts/images.sh
	$(CARGO) build --quiet -p mesh-e2e --bins
	target/debug/mesh-bench $(if $(QUICK),--quick) $(ARGS)

bench-control: ## the control plane as the mesh grows (QUICK=1 takes about a minute; ARGS="--services 100,1000 --proxies 10")
	scripts/images.sh
	$(CARGO) build --quiet -p mesh-e2e --bins
	target/debug/mesh-bench-control $(if $(QUICK),--quick) $(ARGS)

cluster-up: ## a real Kubernetes on this machine, as root (ARGS="--nodes 2")
	$(CARGO) run --quiet -p mesh-e2e --bin mesh-cluster -- up $(ARGS)

cluster-down: ## remove it, and check that nothing is left
	$(CARGO) run --quiet -p mesh-e2e --bin mesh-cluster -- down

cluster-shell: ## a shell in which kubectl and helm talk to it (ARGS="kubectl get pods -A" runs that instead)
	@$(CARGO) run --quiet -p mesh-e2e --bin mesh-cluster -- shell $(ARGS)

setup: ## install what the tests need (Debian packages; needs root)
	scripts/setup.sh

build: ## debug build of everything
	$(CARGO) build --workspace --all-targets

release: ## release build of the programs
	$(CARGO) build --release -p mesh-proxy
	$(CARGO) build --release -p meshctl

images: ## static programs and container images, without Docker (ARGS=--load imports them into the test cluster)
	scripts/images.sh $(ARGS)

profile: ## take the profile anew by which the proxy in the images is laid out, as root (about a quarter of an hour)
	scripts/setup.sh --bench
	scripts/profile.sh

docs: ## write the generated reference pages anew
	MESH_UPDATE_DOCS=1 $(CARGO) test --workspace --exclude mesh-e2e -q reference_

fmt: ## format
	$(CARGO) fmt --all
