# All targets of the project. The CI (.ci/run) only calls `make test`.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
GO          ?= go
# Static programs: hosts and pods have other C libraries, or none.
export CGO_ENABLED := 0
# `make clean` keeps the Go module cache and the bundle cache.
E2E_TIMEOUT ?= 90m
# `make test` is to end within this time. End-to-end tests for which no time is left are skipped, and say so: the least essential ones first.
MINUTES     ?= 80
BEGIN       := $(shell date +%s)
E2E_BUDGET  ?= $$(( $(MINUTES) * 60 - $$(date +%s) + $(BEGIN) ))s
# As go test -v prints them, and at the end what the failed ones said, which is thousands of lines above otherwise.
TEST        := $(GO) tool gotestsum --format standard-verbose --
# They start no goroutines, and their tests try so many clusters that the race detector takes minutes for nothing.
PURE        := ./internal/plan ./internal/cluster ./internal/spof

.PHONY: build up down check test test-alerts test-arm64 test-lab test-browser test-e2e test-whole test-crash test-soak test-agree test-images test-hosts test-vm bench-bootstrap bench-upgrade bench-failover bench-outages bench-elections bench-hosts bench-distribution bench-recover bench-scale tools clean

build: ## bin/quorate
	$(GO) build -ldflags '-s -w' -o bin/quorate ./cmd/quorate

bin/quorate-linux-%: FORCE ## for hosts of another architecture: bin/quorate-linux-arm64
	GOOS=linux GOARCH=$* $(GO) build -ldflags '-s -w' -o $@ ./cmd/quorate

FORCE:

up: build ## a highly available cluster on this machine
	bin/quorate up

down: build ## delete that cluster and its machines
	bin/quorate down

check: ## quick checks: format, vet, static analysis, unit tests
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not gofmt'd:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags lab,e2e,browser ./...
	$(GO) tool staticcheck -tags lab,e2e,browser ./...
	$(GO) run ./components/check
	$(GO) test $(PURE)
	CGO_ENABLED=1 $(GO) test -race $$($(GO) list ./... | grep -vxF "$$($(GO) list $(PURE))") # the race detector needs cgo

test: build check test-alerts test-lab test-e2e ## all tests

# Only the file, because the package would start a server.
bin/promtool:
	d=$$(mktemp -d); trap 'rm -rf $$d' EXIT; cd $$d; chmod 755 .; apt-get update -q; apt-get download -q prometheus; dpkg -x prometheus_*.deb .; install -D usr/bin/promtool $(CURDIR)/bin/promtool

test-alerts: bin/promtool ## evaluate the alert rules in many situations with Prometheus' own tool
	PROMTOOL=$(CURDIR)/bin/promtool $(GO) test -count=1 -run TestAlerts ./internal/monitoring

# Only the file, because the package would register itself as an interpreter with the kernel.
bin/qemu-aarch64-static:
	d=$$(mktemp -d); trap 'rm -rf $$d' EXIT; cd $$d; chmod 755 .; apt-get update -q; apt-get download -q qemu-user-static; dpkg -x qemu-user-static_*.deb .; install -D usr/bin/qemu-aarch64-static $(CURDIR)/bin/qemu-aarch64-static

test-arm64: build bin/qemu-aarch64-static ## compile the bundle for arm64, and run its programs in an emulator; takes a quarter of an hour, so it is not part of `make test`
	bin/quorate bundle build --arch arm64
	bin/quorate bundle verify --arch arm64
	QUORATE_QEMU=$(CURDIR)/bin/qemu-aarch64-static $(TEST) -count=1 -timeout 30m -run 'AnotherArchitecture' ./internal/bundle

test-lab: build ## machines, zones, faults, and power cuts
	bin/quorate lab requirements
	$(GO) test -tags lab -count=1 -timeout 20m ./internal/lab/... ./internal/hostside/programs/...
	$(TEST) -tags lab -count=1 -timeout 20m ./test/balancers
	$(GO) test -count=1 -run TestPrograms ./components # with nft, which the requirements have installed

# axe-core comes from the npm registry, which is why `make test` does not run this.
test-browser: ## open the pages of reports in a browser, and check them with axe
	command -v chromium >/dev/null || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium; }
	npm ci --prefix test/browser --ignore-scripts --no-audit --no-fund
	$(GO) test -tags browser -count=1 -timeout 10m ./test/browser

test-e2e: build ## build, break, and heal whole clusters
	bin/quorate bundle build
	bin/quorate bundle build --kubernetes-version v1.36.3
	$(GO) run ./components/check kubernetes
	$(TEST) -tags e2e -count=1 -timeout 20m -run TestAnAPI ./internal/backup/deep
	$(TEST) -tags e2e -count=1 -timeout $(E2E_TIMEOUT) ./test/e2e -budget=$(E2E_BUDGET) $(E2E_FLAGS)

test-whole: ## test-e2e with every case of the tests that otherwise run a sample
	$(MAKE) test-e2e E2E_FLAGS=-whole E2E_TIMEOUT=150m E2E_BUDGET=0

# The whole of it takes many hours. A part: CRASH='-series power-offs -operations upgrade -part 1/2 -accumulate'
CRASH ?=

test-crash: build ## kill every operation at every step, and cut the power of hosts meanwhile (CRASH: flags for a part of it); the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	bin/quorate bundle build --kubernetes-version v1.36.3
	rm -f artifacts/crash.json
	status=0; $(TEST) -tags e2e -count=1 -timeout 48h -run 'TestCrash$$' ./test/e2e -whole $(CRASH) || status=$$?; cat artifacts/crash.json; exit $$status

SOAK ?= 1h
# 0: what a soak draws differs each time.
SEED ?= 0

test-soak: build ## break things by chance for an hour (SOAK=10m: ten minutes; SEED=N: what a soak drew that printed this seed) while quorate watch repairs them; the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	@rm -f artifacts/soak.json
	failed=; $(TEST) -tags e2e -count=1 -timeout 24h -run 'TestSoak$$' ./test/e2e -soak $(SOAK) -seed $(SEED) || failed=yes; \
	cat artifacts/soak.json; test -z "$$failed"

test-agree: build ## drill everything that can fail in a whole cluster and in six broken ones, and compare what is lost with what the audit says; the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	$(TEST) -tags e2e -count=1 -timeout 24h -run 'TestAuditAgrees$$' ./test/e2e -whole
	@cat artifacts/agree.json

test-images: build ## boot lab machines of every image, with the profiles that need packages
	bin/quorate lab requirements
	$(TEST) -tags lab -count=1 -timeout 30m -run 'TestImages$$' ./internal/lab -images

test-hosts: build ## set up what real servers are like, one situation after another, and compare what Quorate does about each with what is promised; the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	@rm -f artifacts/hosts.txt artifacts/hosts.json
	failed=; $(TEST) -tags e2e -count=1 -timeout 60m -run 'TestRealHosts$$' ./test/e2e -whole || failed=yes; \
	cat artifacts/hosts.txt artifacts/hosts.json; test -z "$$failed"

# Without KVM it takes hours. A part of it: VM='-images debian-13'; bin/test-vm -help lists all flags.
VM ?=

test-vm: build ## build a cluster, cut the power of a host, and remove everything in virtual machines with Debian 12 and 13, which have cgroup v2; as root; the last line is JSON
	bin/quorate bundle build
	$(GO) build -ldflags '-s -w' -o bin/test-vm ./test/vm
	bin/test-vm $(VM)

bench-bootstrap: build ## the documented kubeadm sequence against quorate apply, side by side
	$(GO) build -o bin/bench-bootstrap ./test/bench/bootstrap
	bin/bench-bootstrap

bench-upgrade: build ## what clients notice of a minor upgrade, with quorate apply and with kubeadm's documented procedure, and of maintenances and replacements; the last line is JSON
	$(GO) build -ldflags '-s -w' -o bin/bench-upgrade ./test/bench/upgrade
	bin/bench-upgrade

bench-failover: build ## outages behind kubeadm's documented load balancers, manually configured ones, and Quorate's with the profiles standard and fast, in one lab; the last line is JSON
	bin/quorate lab requirements
	$(TEST) -tags lab -count=1 -timeout 60m -run TestFailover ./test/balancers -compare
	@cat artifacts/failover.txt artifacts/failover.json

bench-outages: build ## the table of outages in docs/failover.md: single faults of a default cluster, 20 times each; it takes hours
	bin/quorate lab requirements
	bin/quorate bundle build
	$(GO) build -o bin/bench-outages ./test/bench/outages
	bin/bench-outages

# Another timeout, or less time: ELECTION_FLAGS='-timeout 500ms -for 5m', and see -help.
ELECTION_FLAGS ?=

bench-elections: build ## elections of etcd in the default cluster with an election timeout of 300 ms, in 30 minutes with all CPUs loaded: there must be none; the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	$(GO) build -o bin/bench-elections ./test/bench/elections
	bin/bench-elections $(ELECTION_FLAGS)

bench-hosts: ## plan and preflight against 200 SSH hosts, without and with missing packages: seconds and memory
	$(GO) build -o bin/bench-hosts ./test/bench/hosts
	bin/bench-hosts

bench-distribution: build ## how much the caller sends when 1, 4, and 8 hosts need the same bundle
	$(GO) build -o bin/bench-distribution ./test/bench/distribution
	bin/bench-distribution

bench-recover: build ## time and size of backups and restores of etcds with 2.5 MB, 500 MB, and 4 GB, time to recover a lost quorum, and requests that fail while certificates change; as root; the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	$(GO) build -ldflags '-s -w' -o bin/bench-recover ./test/bench/recover
	bin/bench-recover $(BENCH_FLAGS)

# The largest size that a machine carries depends on it: SCALE_FLAGS='-nodes 1000', and see -help.
SCALE_FLAGS ?=

bench-scale: build ## 200 simulated nodes and 6000 pods on a real control plane: latencies against Kubernetes' objectives, memory, CPU, etcd, also while nodes fail and faults are drilled (SCALE_FLAGS: other sizes); the last line is JSON
	bin/quorate lab requirements
	bin/quorate bundle build
	$(GO) build -ldflags '-s -w' -o bin/bench-scale ./test/bench/scale
	bin/bench-scale $(SCALE_FLAGS)

clean:
	rm -rf bin artifacts
