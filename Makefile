# shoal's Makefile. `make help` lists what it can do.
#
# Every target installs what it needs: Debian packages only when the thing they
# bring is missing, Go modules by Go itself. Nothing outside bin/ and .cache/ is
# written, except by `demo`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# sudo resets PATH; Go is usually here.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin:/usr/sbin:/sbin

# The Kubernetes release whose API is served: kubectl compares it with its own.
KUBERNETES := v1.37.2
VERSION    ?= v0.1.0
COMMIT     := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's date, so that one commit gives one binary.
BUILD_DATE := $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null || echo 1970-01-01T00:00:00Z)

component  := k8s.io/component-base/version
kube_parts := $(subst ., ,$(patsubst v%,%,$(KUBERNETES)))
kube_flags  = -X $(component).gitMajor=$(word 1,$(kube_parts)) -X $(component).gitMinor=$(word 2,$(kube_parts))
LDFLAGS    := -s -w $(kube_flags) \
	-X $(component).gitVersion=$(KUBERNETES)+shoal \
	-X $(component).gitCommit=$(COMMIT) \
	-X $(component).gitTreeState=clean \
	-X $(component).buildDate=$(BUILD_DATE) \
	-X main.version=$(VERSION)
# Go asks the system's linker to export every symbol, for plug-ins: 35 MB of
# names that nobody looks up.
LDFLAGS    += -extldflags=-Wl,--no-export-dynamic

# REPRODUCIBLE=1 drops this machine's paths from the binary. It is off by default
# because Go then compiles every dependency a second time beside the tests' copy.
GOFLAGS_BUILD := $(if $(REPRODUCIBLE),-trimpath)

TOOLS := .cache/bin
# Packages of ours; test/e2e is run apart because it needs the built binary.
UNIT   = $(shell go list ./... | grep -v -e /test/e2e)
# One after another, each with a cache of its own results: all at once is more memory
# than a small machine has, and what was interrupted would begin anew.
LINTED ?= ./store/... ./gossip/... ./netdp/... ./bpf/... ./agent/... ./sched/... ./sim/... ./api/... ./cmd/... ./test/... ./examples/...
RACE  ?= ./store/... ./sched/... ./agent/... ./netdp/... ./api/... ./cmd/...
# Text after -run for `make test`, `make bench`; e.g. make bench RUN=size
RUN   ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: deps-build deps-check deps-run deps-generate
deps-build:
	@test/tools/packages build
	@command -v go >/dev/null || { echo "make: Go 1.26 is missing: see https://go.dev/dl"; exit 1; }
deps-run: ; @test/tools/packages run
deps-check: ; @test/tools/packages run check
deps-generate: ; @test/tools/packages generate

.PHONY: build
build: deps-build ## build bin/shoal
	CGO_ENABLED=1 go build $(GOFLAGS_BUILD) -ldflags '$(LDFLAGS)' -o bin/shoal ./cmd/shoal

.PHONY: clients
clients: deps-build ## check that the client commands build for macOS and Windows
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/shoal
	CGO_ENABLED=0 GOOS=windows GOARCH=amd64 go build -o /dev/null ./cmd/shoal

# The stock clients the end-to-end tests use, from source, pinned by go.mod files.
kubectl_flags := -s -w $(kube_flags) -X $(component).gitVersion=$(KUBERNETES)
.PHONY: tools
tools: $(TOOLS)/kubectl-$(KUBERNETES) $(TOOLS)/helm
$(TOOLS)/kubectl-$(KUBERNETES): | deps-build
	CGO_ENABLED=0 go build -ldflags '$(kubectl_flags)' -o $@ k8s.io/kubernetes/cmd/kubectl
	ln -sf $(@F) $(TOOLS)/kubectl
$(TOOLS)/helm: test/tools/helm/go.mod | deps-build
	CGO_ENABLED=0 go -C test/tools/helm build -ldflags '-s -w' -o $(CURDIR)/$@ helm.sh/helm/v4/cmd/helm
$(TOOLS)/golangci-lint: test/tools/lint/go.mod | deps-build
	CGO_ENABLED=0 go -C test/tools/lint build -ldflags '-s -w' -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# The tests' machines have no network: what builds their images is fetched before.
.PHONY: image-tool
image-tool: deps-build
	go -C test/images build -o /dev/null .

.PHONY: test unit e2e
test: generate-check unit e2e ## all tests; run as root, or the parts that need it are skipped
unit: deps-check deps-build
	go test -timeout 30m $(if $(RUN),-run '$(RUN)') $(UNIT)
	go -C test/images test ./...
e2e: deps-check build tools image-tool ## the end-to-end tests alone
	go test -count=1 -p 1 -timeout 45m $(if $(RUN),-run '$(RUN)' -v) ./test/e2e/...

.PHONY: churn
churn: deps-check build image-tool ## services, endpoints and policies change for a minute each and kernel maps are compared; then pods of every shape come and go for three minutes while the daemon is killed (root)
	go test -count=1 -p 1 -timeout 10m ./netdp ./netdp/services -run 'TestPolicyRandom|TestRandomObjects' -changes.for 1m
	go test -count=1 -timeout 20m ./test/e2e -run TestChurn -v

.PHONY: race
race: deps-check deps-build ## tests of the packages that hold goroutines, under the race detector
	CGO_ENABLED=1 go test -race -timeout 40m $(RACE)

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## vet and lint
	go vet ./...
	@failed=; for part in $(LINTED); do echo "lint $$part"; $(TOOLS)/golangci-lint run $$part || failed="$$failed $$part"; done; \
	[ -z "$$failed" ] || { echo "make: issues in$$failed"; exit 1; }

.PHONY: bench
bench: deps-check build image-tool ## print the figures; RUN=REGEX selects some
	go run ./test/bench -run '$(RUN)'

# N seeds from SEED on, for each of the drivers or DRIVER=simple|gossip; STORY=1
# prints all that happens.
N    ?= 1000
SEED ?= 1
.PHONY: sim
sim: deps-build ## simulate whole cells: N=seeds SEED=first DRIVER=simple|gossip PEERS=number STORY=1
	go test ./sim -count=1 -timeout 0 -v -run 'TestLong' -sim.n $(N) -sim.seed $(SEED) $(if $(DRIVER),-sim.driver $(DRIVER)) $(if $(STORY),-sim.story) $(if $(PEERS),-sim.peers $(PEERS))

.PHONY: generate generate-check
generate: deps-generate deps-build ## regenerate the compiled eBPF programs
	go generate ./bpf/... ./netdp/...
generate-check: generate
	@git diff --exit-code --stat -- bpf netdp || { echo "make: generated files are not current: commit what 'make generate' writes"; exit 1; }

bin/hello.tar: $(wildcard examples/hello/*.go test/images/*.go) | deps-build
	CGO_ENABLED=0 go build -ldflags '-s -w' -o bin/hello ./examples/hello
	go -C test/images run . -out $(CURDIR)/$@ -name hello:latest -bin $(CURDIR)/bin/hello

.PHONY: demo demo-down
demo: deps-run deps-check build bin/hello.tar ## start a host and walk from nothing to a page (root)
	@test/demo/demo up
demo-down: ## take away everything demo made (root)
	@test/demo/demo down

.PHONY: clean
clean: ## remove bin/ and .cache/
	rm -rf bin .cache
