# The targets that a person needs have a "##" comment, which make help prints.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Images for make deploy; empty leaves what config/ says.
MANAGER_IMG ?=
DATASTORAGE_IMG ?=

GOLANGCI_LINT_VERSION := v2.15.0
KUBE_API_LINTER_VERSION := v0.0.0-20260716143926-092fe0c72997

# The same flags everywhere, so that no dependency is compiled twice.
GO := CGO_ENABLED=0 GOFLAGS="$(GOFLAGS) -trimpath" go
TOOL := go tool -modfile=tools/go.mod
CONTROLPLANE := go -C hack/controlplane run .
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubernaut-notification/tools
GOLANGCI_LINT := $(CACHE)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
KUBE_API_LINTER := $(CACHE)/kube-api-linter-$(KUBE_API_LINTER_VERSION)/golangci-lint-kube-api-linter
POSTGRES := $(shell command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1)

.DEFAULT_GOAL := help
.PHONY: help run test e2e chaos bench lint fmt generate manifests verify-generated build deploy undeploy clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: build ## Show it working on this machine until Ctrl-C (ONCE=1: until it is shown)
	@assets=$$($(CONTROLPLANE)) && $(GO) build -o bin/demo ./hack/run && KUBEBUILDER_ASSETS=$$assets ONCE=$(ONCE) bin/demo

test: ## Run the unit and integration tests, with a real API server (PKG=./one/package/)
	@echo "PostgreSQL: $(or $(POSTGRES),not found, its tests are skipped)"
	@echo "Redis: $(or $(shell command -v redis-server),not found, its tests are skipped)"
	@echo "strace: $(or $(shell command -v strace),not found, its tests are skipped)"
	@assets=$$($(CONTROLPLANE)) && echo "control plane: $$assets" && \
		go -C hack/controlplane test . && KUBEBUILDER_ASSETS=$$assets $(GO) test $(TESTFLAGS) $(or $(PKG),./...)

e2e: ## Test in the cluster of KUBECONFIG; images are loaded with $E2E_LOAD NAME:TAG BINARY
	@test -n "$$KUBECONFIG" || { echo "make e2e: KUBECONFIG is not set: point it at the cluster to test in" >&2; exit 1; }
	@test -n "$$E2E_LOAD" || { echo "make e2e: E2E_LOAD is not set: name a command that takes NAME:TAG BINARY..., makes an image of the static binaries and loads it into the cluster" >&2; exit 1; }
	@$(MAKE) build
	$$E2E_LOAD localhost/notification-manager:e2e bin/manager
	$$E2E_LOAD localhost/notification-datastorage:e2e bin/datastorage
	$(GO) test -tags e2e -count=1 -timeout 30m -v ./test/e2e

chaos: ## Kill and break everything, then judge (KILLS=25 REQUESTS= SEED= SLOW=30s SETUP= ONLY= KINDS= MUTANTS=)
	@assets=$$($(CONTROLPLANE)) && $(GO) test -c -o bin/chaos ./test/chaos && cd test/chaos && KUBEBUILDER_ASSETS=$$assets \
		../../bin/chaos -test.run '$(if $(MUTANTS),TestMutants,TestChaos)' -test.timeout 0 -kills $(or $(KILLS),25) -requests $(or $(REQUESTS),0) \
		-seed $(or $(SEED),0) -slow $(or $(SLOW),30s) -setup '$(SETUP)' -only '$(ONLY)' -kinds '$(KINDS)' -mutants '$(MUTANTS)'

bench: ## Measure, beside limits and marks (BENCH=NAME BENCHTIME=2s BENCH_REQUESTS=1000,10000 BENCH_ROWS=100000)
	@echo "PostgreSQL: $(or $(POSTGRES),not found, its benchmarks are skipped)"
	@assets=$$($(CONTROLPLANE)) && KUBEBUILDER_ASSETS=$$assets \
		$(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchtime $(or $(BENCHTIME),2s) -timeout 0 \
		./internal/audit/... ./internal/datastorage/... ./test/bench | $(GO) run ./test/bench/table

lint: $(GOLANGCI_LINT) $(KUBE_API_LINTER) ## Run all linters
	$(GOLANGCI_LINT) run ./...
	cd hack/controlplane && $(GOLANGCI_LINT) run --config ../../.golangci.yml .
	$(KUBE_API_LINTER) run --config .golangci-kal.yml ./api/...
	$(TOOL) logcheck ./...

fmt: $(GOLANGCI_LINT) ## Format the code
	$(GOLANGCI_LINT) fmt ./...

generate: ## Generate the deep copies of the kinds
	$(TOOL) controller-gen object paths=./api/...

manifests: ## Generate the CRDs and the manager's role
	$(TOOL) controller-gen crd rbac:roleName=notification-manager \
		'paths=./api/...;./internal/controller/...' \
		output:crd:dir=config/crd output:rbac:dir=config/rbac

verify-generated: generate manifests ## Fail where generated files are not what the code says
	@test -z "$$(git status --porcelain -- api config/crd config/rbac)" || { \
		git --no-pager diff -- api config/crd config/rbac; git status --short -- api config/crd config/rbac; \
		echo "make verify-generated: run make generate manifests and commit the result" >&2; exit 1; }

build: ## Build static binaries into bin/
	@test -e bin/manager || echo "Building bin/manager and bin/datastorage; the first time takes some minutes"
	$(GO) build -ldflags '-s -w -X kubernaut.ai/notification/internal/version.linked=$(VERSION)' -o bin/ ./cmd/...

deploy: ## Install into the cluster of KUBECONFIG (MANAGER_IMG=, DATASTORAGE_IMG=)
	kubectl apply --server-side -f config/default/namespace.yaml
	kubectl -n notification-system get secret datastorage-tls >/dev/null 2>&1 || \
		go run ./hack/certs | kubectl apply --server-side -f -
	$(TOOL) kustomize build config/default | sed \
		$(if $(MANAGER_IMG),-e 's|image: .*notification-manager:.*|image: $(MANAGER_IMG)|') \
		$(if $(DATASTORAGE_IMG),-e 's|image: .*notification-datastorage:.*|image: $(DATASTORAGE_IMG)|') \
		-e '' | kubectl apply --server-side -f -

undeploy: ## Remove from the cluster of KUBECONFIG; the namespace stays, with DataStorage's volume
	@# First, or a request that comes when the manager has gone would never go.
	$(TOOL) kustomize build config/admission | kubectl delete --ignore-not-found -f -
	@# While the manager runs: it lets no request go before it is audited.
	! kubectl get crd notificationrequests.notification.kubernaut.ai >/dev/null 2>&1 || \
		kubectl delete notificationrequests --all --all-namespaces
	@# The evidence outlives what recorded it, so the namespace and its claims stay.
	for part in manager datastorage rbac crd; do \
		$(TOOL) kustomize build config/$$part | kubectl delete --ignore-not-found -f - || exit; done

clean: ## Remove what the build left in the work tree
	rm -rf bin

$(GOLANGCI_LINT):
	GOFLAGS=-trimpath GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(KUBE_API_LINTER):
	GOFLAGS=-trimpath GOBIN=$(@D) go install sigs.k8s.io/kube-api-linter/cmd/golangci-lint-kube-api-linter@$(KUBE_API_LINTER_VERSION)
