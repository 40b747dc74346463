# `make help` lists the targets by group.
#
# Each target installs what it needs, once: npm runs again when the lockfile changes, a tool is built again
# when its pinned version changes, and Go's build cache does the rest.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# A CI system that traces its own steps, such as Dagger, sets OpenTelemetry's variables for every
# process. Programs that a target starts must not export traces because of that.
unexport $(filter OTEL_% TRACEPARENT TRACESTATE BAGGAGE,$(.VARIABLES))

# On Windows, executables need a suffix.
exe := $(if $(filter Windows_NT,$(OS)),.exe)
linter := bin/tools/golangci-lint$(exe)
k6 := bin/tools/k6$(exe)
gotestsum := bin/tools/gotestsum$(exe)
pulumi := bin/tools/pulumi$(exe) bin/tools/pulumi-language-go$(exe)
commitlint := bin/tools/commitlint$(exe)
hooks := bin/tools/lefthook$(exe) bin/tools/gitleaks$(exe) $(commitlint)
govulncheck := bin/tools/govulncheck$(exe)
cyclonedx := bin/tools/cyclonedx-gomod$(exe)
cosign := bin/tools/cosign$(exe)
vale := bin/tools/vale$(exe)
# Prefer the installed promtool (Debian package prometheus): building it takes five minutes.
promtool := $(or $(shell command -v promtool),bin/tools/promtool$(exe))
# The linter configuration for ci/.
style := build/ci-golangci.yml
# Flags that compile ci/ without a Dagger engine: they include offline.go and hide the file that
# `dagger develop` generates.
offline := -tags=offline -overlay=offline.json
# Embed the git revision in the programs, which write it into model files. Outside a git checkout, such as
# an unpacked archive, the build works without it.
stamp := $(if $(shell git rev-parse --verify -q HEAD 2>/dev/null),-buildvcs=true)
# Leave out gRPC's xDS support, 20 MB that only the gRPC transport of Google's storage library needs, and the
# code that looks for libheif and libavif on the system: the programs contain both.
tags := -tags disable_grpc_modules,nodynamic
# Python for interop, 3.11 or newer.
PYTHON ?= python3
# Model file for bench-serve, interop, loadtest and watch. If it's missing, the demo trains it.
MODEL ?= runs/demo/run/model.onnx
# Stack for the infra targets, and further arguments for Pulumi, such as ARGS=--diff.
STACK ?= dev
ARGS ?=
# Minimum test coverage, in percent of statements.
COVERAGE := 82
# Duration of `make watch`, such as 30s. Default: until Ctrl-C.
WATCH_FOR ?=
# Container images: platforms, comma-separated (default: all that have a compiler here); base image
# (default: that of ci/images.yaml); and, outside a git checkout, the commit and its time.
PLATFORMS ?=
BASE ?=
REVISION ?=
CREATED ?=
# The reference of the image in the layout BASE; the builder ID for the provenance, a URI; and whether to
# package the programs that `make stage` built.
BASE_NAME ?=
BUILDER ?=
STAGED ?=
# Non-empty: `make demo` keeps its server running until Ctrl-C.
DEMO_KEEP ?=
# Duration of each fuzz target.
FUZZTIME ?= 5s
fuzz := internal/config:FuzzParse internal/imaging:FuzzDecode internal/imaging:FuzzJPEG internal/imaging:FuzzPlan internal/imaging:FuzzVP8L internal/imaging:FuzzHEIF internal/model:FuzzParse \
	server/form:FuzzParts server/oip:FuzzJSON server/oip:FuzzBinary server/oip:FuzzMessage
# npm writes this file last, so it marks a complete installation.
installed := node_modules/.package-lock.json
site := docs/site/$(installed)
# Used by `make docs`: the base path of the site, and the repository's URL for links to files.
export DOCS_BASE DOCS_REPOSITORY

##@ Get started

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what the tests need and no target builds: a C compiler, curl, Chromium, promtool
	@tools/setup/setup.sh test

.PHONY: setup-build
setup-build:
	@tools/setup/setup.sh build

.PHONY: demo
demo: setup-build build ## Prepare data, train, evaluate, serve and classify two images (DEMO_KEEP=1 keeps the server)
	go run ./tools/demo $(if $(DEMO_KEEP),--keep)

.PHONY: test
test: setup
test: lint-go prose workflows docs-check cover slo-check fuzz smoke ## Run every check that CI and the pipeline run, except interop

# New module path and URL of the repository for a fork.
MODULE ?=
REPOSITORY ?=
.PHONY: init
init: ## Rename a fork: MODULE=github.com/acme/detector REPOSITORY=https://github.com/acme/detector
	@go run ./tools/init --module '$(MODULE)' --repository '$(REPOSITORY)'
	go run ./monitoring/derive

.PHONY: clean
clean: ## Remove build output (keeps data/, runs/ and node_modules/)
	rm -rf bin build

##@ Build

.PHONY: build
build: deps ## Build bin/trainer and bin/server
	tools/gobuild.sh $(stamp) $(tags) -o bin/ ./trainer ./server

.PHONY: deps
deps: toolchain $(installed) ## Install ONNX Runtime from npm

$(installed): package.json package-lock.json .npmrc
	npm ci --ignore-scripts
	touch $@

.PHONY: toolchain
toolchain: ## Check that Go, a C compiler and npm are installed
	@missing() { echo "make: $$1 is missing: $$2" >&2; exit 1; }; \
	command -v go >/dev/null || missing go "install Go 1.26.8 or newer from https://go.dev/dl/"; \
	set -- $$(go env CC); \
	command -v "$$1" >/dev/null || missing "the C compiler $$1" "cgo calls ONNX Runtime through it; on Debian: sudo apt-get install gcc libc6-dev"; \
	command -v npm >/dev/null || missing npm "it brings ONNX Runtime; on Debian: sudo apt-get install nodejs npm"

$(linter): tools/build.sh tools/gobuild.sh tools/lint/go.mod tools/lint/go.sum
	tools/build.sh lint golangci-lint $@
	touch $@

# Each is the one tool of its module.
$(gotestsum) $(k6) $(govulncheck) $(cyclonedx) $(cosign) $(vale) $(pulumi) bin/tools/promtool$(exe): bin/tools/%$(exe): tools/build.sh tools/gobuild.sh tools/%/go.mod tools/%/go.sum
	tools/build.sh $* $* $@
	touch $@

##@ Check

.PHONY: lint
lint: lint-go prose ## Check the code and the language

.PHONY: lint-go
lint-go: toolchain $(linter) $(style) ## Run golangci-lint
	@echo "golangci-lint: type-checks all packages; this takes minutes the first time"
	$(linter) run
	$(linter) fmt --diff
	cd tools/vale && ../../$(linter) run --config ../../.golangci.yml
	cd tools/avo && ../../$(linter) run --config ../../.golangci.yml && go test -count=1 ./... # Go's test cache ignores files outside of the module
	cd ci && GOFLAGS="$$(go env GOFLAGS) $(offline)" ../$(linter) run --config ../$(style)

# Files and directories that `make prose` checks, by default all: PROSE="README.md server".
PROSE ?=
.PHONY: prose
prose: toolchain $(vale) ## Check the language of docs, comments and messages with Vale (PROSE=PATH…)
	cd tools/vale && go test -count=1 ./... && go run . $(PROSE) # Go's test cache ignores the rules

.PHONY: fmt
fmt: toolchain $(linter) $(style) ## Format the Go code
	$(linter) fmt
	cd ci && ../$(linter) fmt --config ../$(style)

.PHONY: kernels
kernels: toolchain ## Generate the AVX2 code of internal/imaging from tools/avo
	cd tools/avo && go run . -out ../../internal/imaging/kernels_amd64.s -stubs ../../internal/imaging/kernels_amd64.go -pkg imaging

# ci/ is a module with another name, which the formatter must know.
$(style): .golangci.yml
	@mkdir -p $(@D)
	sed 's,module-path: .*,module-path: dagger/fakeart,' $< > $@

.PHONY: vet
vet: toolchain ## Run go vet, which is also part of golangci-lint
	go vet ./...
	cd ci && go vet $(offline) ./...
	cd tools/vale && go vet ./...

.PHONY: test-short
test-short: deps ## Run go vet and the quick tests, as the pre-push hook does
	go vet ./...
	go test -short ./...
	cd ci && go vet $(offline) ./... && go test -short $(offline) ./...

# One test run detects races and measures coverage. A package is covered by its own tests only, so that Go
# can cache results per package and repeat only what a change affects.
report := --format pkgname-and-test-fails --format-hide-empty-pkg --hide-summary skipped --junitfile
coverage := -covermode atomic -coverprofile
# The atomic coverage counters that the race detector needs slow down loops over pixels many times. These
# packages are tested twice instead: once for races, once for coverage.
pixels := internal/imaging internal/drift trainer/dataset

.PHONY: cover
cover: deps $(gotestsum) $(k6) ## Run all tests with the race detector; writes build/coverage and JUnit reports in build/tests
	@rm -rf build/coverage build/tests && mkdir -p build/coverage build/tests
	$(gotestsum) $(report) build/tests/programs.xml -- -race -timeout 20m $(coverage) build/coverage/cover.out \
		$$(go list ./... | grep -v -x -F $(addprefix -e $$(go list -m)/,docs server $(pixels)))
	# The tests that start the whole server also cover its packages.
	$(gotestsum) $(report) build/tests/server.xml -- -race -timeout 20m -coverpkg ./server/... $(coverage) build/coverage/server.out ./server
	$(gotestsum) $(report) build/tests/pixels-race.xml -- -race -timeout 20m $(addprefix ./,$(pixels))
	$(gotestsum) $(report) build/tests/pixels.xml -- -coverprofile build/coverage/pixels.out $(addprefix ./,$(pixels))
	cd ci && ../$(gotestsum) $(report) ../build/tests/pipeline.xml -- -race $(offline) $(coverage) ../build/coverage/ci.out ./internal/...
	# The race detector makes these ten times slower: they compress and build a lot.
	cd ci && ../$(gotestsum) $(report) ../build/tests/images.xml -- $(offline) $(coverage) ../build/coverage/ci-cmd.out . ./cmd/...
	@awk -v least=$(COVERAGE) -f tools/coverage.awk build/coverage/*.out > build/coverage/coverage.txt; failed=$$?; \
	cat build/coverage/coverage.txt; exit $$failed

.PHONY: test-long
test-long: deps ## Repeat the server's fault tests for up to ten minutes: kills, signals, model swaps, damaged files
	FAKEART_TEST_LONG=1 go test -race -timeout 10m ./server

# If the time ends while an input is running, Go sometimes reports a failure, "context deadline exceeded",
# without an input that fails. That isn't a finding.
.PHONY: fuzz
fuzz: deps ## Run each fuzz target (FUZZTIME=5s)
	@set -e; for target in $(fuzz); do \
		echo "go test -fuzz $${target#*:} ./$${target%:*}"; \
		out=$$(go test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./$${target%:*} 2>&1) && failed= || failed=1; \
		printf '%s\n' "$$out"; \
		if [ -n "$$failed" ]; then \
			case $$out in *'Failing input'*) exit 1;; *'context deadline exceeded'*) ;; *) exit 1;; esac; \
		fi; \
	done

.PHONY: smoke
smoke: build $(k6) ## Run the demo, then send its server every kind of request
	go run ./tools/demo --dir runs/smoke
	SCENARIO=smoke go run ./loadtest --model runs/smoke/run/model.onnx --dir runs/smoke/loadtest

# This file marks a complete installation of the clients and tools that requirements.txt locks.
clients := build/interop/installed
$(clients): tools/interop/requirements.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)/venv
	$(@D)/venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r $<
	touch $@

.PHONY: setup-interop
setup-interop:
	@PYTHON='$(PYTHON)' tools/setup/setup.sh interop

.PHONY: interop
interop: setup-interop build $(clients) ## Test the server with other projects' clients and tools, in Python (PYTHON=python3.12 MODEL=FILE)
	@test -e $(MODEL) || go run ./tools/demo
	OMP_NUM_THREADS=1 $(dir $(clients))venv/bin/python -m pytest -p no:cacheprovider tools/interop --model $(MODEL)

.PHONY: workflows
workflows: toolchain $(linter) ## Check that .github refers only to targets, Dagger functions and outputs that exist
	cd tools/workflows && go vet ./... && ../../$(linter) run --config ../../.golangci.yml && go test -count=1 ./... # Go's test cache ignores files outside of the module

# URL of the vulnerability database, such as file:///DIRECTORY. Default: https://vuln.go.dev.
GOVULNDB ?=
# Our code as DIRECTORY:BUILD_TAGS. Of ci/ only the command: the rest runs inside a Dagger engine, which
# pins its own dependencies (docs/how-to/ci.md).
ours := .:disable_grpc_modules,nodynamic ci/cmd:offline tools/workflows: tools/vale:
.PHONY: vulns
vulns: toolchain $(govulncheck) ## Find known vulnerabilities in the code that we call
	@failed=; for code in $(ours); do \
		echo "govulncheck $${code%%:*}"; \
		$(govulncheck) -C $${code%%:*} -tags "$${code#*:}" $(if $(GOVULNDB),-db $(GOVULNDB)) ./... || failed=1; \
	done; \
	test -z "$$failed" || { echo "hint: update the dependency, or Go itself for the standard library; set GOVULNDB if the database is unreachable: docs/how-to/ci.md#known-vulnerabilities" >&2; exit 1; }

$(hooks): bin/tools/%$(exe): tools/build.sh tools/gobuild.sh tools/hooks/go.mod tools/hooks/go.sum
	tools/build.sh hooks $* $@
	touch $@

.PHONY: hooks
hooks: toolchain $(linter) $(style) $(hooks) ## Install the git hooks of lefthook.yaml
	bin/tools/lefthook install

.PHONY: hooks-test
hooks-test: toolchain $(linter) $(style) $(hooks) ## Test the git hooks
	cd tools/hooks && go test -count=1 ./...

.PHONY: pr-title
pr-title: $(commitlint) ## Check a pull request's title (PR_TITLE=…) against Conventional Commits
	@printf '%s\n' "$$PR_TITLE" | $(commitlint) lint

##@ Benchmark and load-test

.PHONY: bench
bench: build ## Run the Go benchmarks and the training benchmark
	go test -run '^$$' -bench . -benchmem ./...
	bin/trainer benchmark

.PHONY: bench-serve
bench-serve: build ## Benchmark the server against its theoretical maximum (MODEL=FILE, WRITE=1 updates the docs)
	@test -e $(MODEL) || go run ./tools/demo
	bin/server benchmark --model $(MODEL) $(if $(WRITE),--write docs/explanation/performance.md)

# k6 reads SCENARIO, DURATION, RATE, SIZE and MODEL_NAME from the environment.
.PHONY: loadtest
loadtest: build $(k6) ## Start the server and load-test it with k6 (SCENARIO=users DURATION=30s RATE=50)
	@test -e $(MODEL) || go run ./tools/demo
	go run ./loadtest --model $(MODEL)

.PHONY: watch
watch: build ## Start the server and a Prometheus server that scrapes it (WATCH_FOR=30s MODEL=FILE)
	@test -e $(MODEL) || go run ./tools/demo
	go run ./monitoring/watch --model $(MODEL) $(if $(WATCH_FOR),--for $(WATCH_FOR))

##@ Documentation

$(site): $(addprefix docs/site/,package.json package-lock.json .npmrc)
	cd docs/site && npm ci --ignore-scripts
	touch $@

.PHONY: docs
docs: deps docs-check $(site) ## Build the documentation site in build/docs
	$(reference)
	cd docs/site && node_modules/.bin/vitepress build

.PHONY: docs-serve
docs-serve: docs ## Build and serve the documentation site at http://localhost:4173
	cd docs/site && node_modules/.bin/vite preview --outDir ../../build/docs --base $(or $(DOCS_BASE),/)

.PHONY: docs-check
docs-check: toolchain ## Check the links, commands and generated pages of the documentation
	go test ./docs

# The tests that compare generated pages of docs/reference with the code, and with -update write them.
reference := go test -run '^TestReference' ./docs ./infra/cloud ./server ./server/telemetry ./trainer

.PHONY: reference
reference: deps ## Generate the pages of docs/reference that come from the code
	$(reference) -update

##@ SLOs

.PHONY: slo
slo: ## Generate rules and dashboards from the SLOs in monitoring/slo
	go run ./monitoring/derive

.PHONY: slo-check
slo-check: toolchain $(promtool) ## Test the Prometheus rules: each alert must fire and resolve
	$(promtool) check config monitoring/prometheus/prometheus.yaml
	$(promtool) test rules monitoring/prometheus/*_test.yaml

##@ Container images and releases

# The command that builds container images is in the module ci/ and runs there.
images := cd ci && go run ./cmd/images
staging = --tags '$(lastword $(tags))' $(and $(PLATFORMS),--platforms '$(PLATFORMS)') \
	$(and $(REVISION),--revision '$(REVISION)') $(and $(CREATED),--created '$(CREATED)')
onbase = $(staging) $(and $(BASE),--base '$(if $(wildcard $(BASE)),$(abspath $(BASE)),$(BASE))')

.PHONY: stage
stage: deps ## Build the programs for container images in build/stage (PLATFORMS=linux/amd64,linux/arm64)
	$(images) stage $(staging)

.PHONY: images
images: deps ## Build container images as OCI layouts in build/images, without a container engine (BASE=LAYOUT)
	$(images) write $(onbase) $(and $(BASE_NAME),--base-name '$(BASE_NAME)') $(and $(BUILDER),--builder '$(BUILDER)') $(if $(STAGED),--staged)

.PHONY: images-check
images-check: deps ## Build the container images twice from scratch and compare the digests
	$(images) check $(onbase)

.PHONY: reproduce
reproduce: deps ## Rebuild a container image from its commit and compare the digests (DIGEST=sha256:… or HOST/PATH@sha256:…)
	@test -n '$(DIGEST)' || { echo 'make: DIGEST is missing, such as sha256:… of build/images or HOST/PATH@sha256:…' >&2; exit 1; }
	$(images) reproduce '$(DIGEST)' $(and $(BASE),--base '$(if $(wildcard $(BASE)),$(abspath $(BASE)),$(BASE))')

.PHONY: publish
publish: toolchain $(if $(SIGN),$(cosign)) ## Push build/images (REGISTRY=HOST/PATH TAGS=v1.2.3 SIGN=KEY or SIGN=keyless)
	@test -n '$(REGISTRY)' || { echo 'make: REGISTRY is missing, such as 127.0.0.1:5000/fakeart' >&2; exit 1; }
	$(images) push --registry '$(REGISTRY)' $(and $(TAGS),--tags '$(TAGS)') $(if $(filter keyless,$(SIGN)),--keyless,$(and $(SIGN),--sign-key '$(if $(wildcard $(SIGN)),$(abspath $(SIGN)),$(SIGN))'))

.PHONY: renew
renew: toolchain ## Update the digests of base images in ci/images.yaml
	$(images) renew

.PHONY: release-files
release-files: $(cyclonedx) ## Write archives, SBOMs and checksums to build/release (from `dagger call build export --path=build/dist`)
	rm -rf build/release && mkdir -p build/release
	@set -e; for folder in build/dist/*_*/; do \
		platform=$$(basename $$folder); \
		tar -czf build/release/fakeart_$$platform.tar.gz -C $$folder .; \
		for program in server trainer; do $(cyclonedx) bin -json -std -output build/release/$${program}_$$platform.cdx.json $$folder$$program; done; \
	done
	cd build/release && sha256sum * > SHA256SUMS

# A version in CHANGELOG.md, such as v1.2.3.
VERSION ?=
.PHONY: release-notes
release-notes: ## Print the changelog of a version (VERSION=v1.2.3)
	@awk -v version="$(VERSION)" -f tools/release-notes.awk CHANGELOG.md

##@ Google Cloud

# Pulumi stores the stacks' state in the checkout, unless PULUMI_BACKEND_URL names another backend, such as a
# bucket. The backend of `pulumi login` is ignored.
infra := infra-preview infra-up infra-destroy deploy cloud-up cloud-down
$(infra): export PATH := $(CURDIR)/bin/tools:$(PATH)
$(infra): export PULUMI_BACKEND_URL ?= file://$(CURDIR)/.pulumi-state
$(infra): export PULUMI_SKIP_UPDATE_CHECK := true
# Validating the region needs the Compute Engine API, which the program doesn't use otherwise.
$(infra): export PULUMI_GCP_SKIP_REGION_VALIDATION := true

.PHONY: cloud-up
cloud-up: ## Deploy to an empty Google Cloud project: check, preview, ask, apply, test (STACK=dev ARGS=--yes)
	go run ./infra/cloud up --stack $(STACK) $(ARGS)

.PHONY: cloud-down
cloud-down: ## Delete everything that cloud-up created, except protected resources; asks first (STACK=dev ARGS=--yes)
	go run ./infra/cloud down --stack $(STACK) $(ARGS)

.PHONY: infra-preview
infra-preview: infra-ready $(pulumi) ## Preview the changes of infra-up (STACK=dev)
	@# Pulumi adds the passphrase's salt to the stack's file. A preview gives it a copy.
	@mkdir -p build/preview && cp Pulumi.yaml Pulumi.$(STACK).yaml build/preview/
	bin/tools/pulumi stack select --create $(STACK) --cwd build/preview
	bin/tools/pulumi stack select $(STACK)
	bin/tools/pulumi preview --stack $(STACK) --config-file build/preview/Pulumi.$(STACK).yaml $(ARGS)

.PHONY: infra-up
infra-up: infra-ready $(pulumi) ## Apply Pulumi.STACK.yaml; asks first (STACK=dev)
	bin/tools/pulumi stack select --create $(STACK)
	bin/tools/pulumi up --stack $(STACK) $(ARGS)

.PHONY: deploy
deploy: infra-ready $(pulumi) ## Deploy other container images by digest (STACK=dev IMAGE=…@sha256:… TRAINER_IMAGE=…)
	@case '$(IMAGE)' in *@sha256:*) ;; *) echo "make: IMAGE is '$(IMAGE)': use the digest of the server image, HOST/PATH@sha256:…" >&2; exit 1;; esac
	bin/tools/pulumi stack select --create $(STACK)
	bin/tools/pulumi config set --stack $(STACK) fakeart:image '$(IMAGE)'
	$(and $(TRAINER_IMAGE),bin/tools/pulumi config set --stack $(STACK) fakeart:trainerImage '$(TRAINER_IMAGE)')
	bin/tools/pulumi up --stack $(STACK) $(ARGS)

.PHONY: infra-destroy
infra-destroy: infra-ready $(pulumi) ## Destroy the stack, unless it is protected; asks first (STACK=dev)
	bin/tools/pulumi destroy --stack $(STACK) $(ARGS)

.PHONY: infra-ready
infra-ready: toolchain # before the tools, which take minutes to build
	@wrong() { echo "make: $$1" >&2; exit 1; }; \
	test -e Pulumi.$(STACK).yaml || wrong "Pulumi.$(STACK).yaml is missing: copy Pulumi.dev.yaml to it, or use STACK=dev"; \
	case "$${PULUMI_CONFIG_PASSPHRASE+set}$${PULUMI_CONFIG_PASSPHRASE_FILE+set}$$PULUMI_BACKEND_URL" in set*|http*) ;; \
	*) grep -q '^secretsprovider:' Pulumi.$(STACK).yaml || \
		wrong "PULUMI_CONFIG_PASSPHRASE is missing: it encrypts the stack's secrets. Choose a passphrase, keep it, and export it (or a file name as PULUMI_CONFIG_PASSPHRASE_FILE)";; \
	esac; \
	case "$$PULUMI_BACKEND_URL" in "file://$(CURDIR)/.pulumi-state") mkdir -p .pulumi-state;; esac; \
	echo "stack $(STACK), state in $$PULUMI_BACKEND_URL"
