# The front door: `make help` lists what there is.
#
# A target installs what it needs and does nothing twice: npm runs when the
# lockfile has changed, the linter is built when its pin has changed, and Go's
# build cache knows the rest.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# A CI system that traces its own steps, such as Dagger, sets OpenTelemetry's variables for
# every program. The programs that a target starts must not trace because of that.
unexport $(filter OTEL_% TRACEPARENT TRACESTATE BAGGAGE,$(.VARIABLES))

# On Windows a program's name ends so.
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
# Debian's package prometheus has it as well, at no cost: building it takes five minutes.
promtool := $(or $(shell command -v promtool),bin/tools/promtool$(exe))
# The linter's configuration for ci/.
style := build/ci-golangci.yml
# Flags for ci/ without an engine: with offline.go, and without the file that `dagger develop` generates.
offline := -tags=offline -overlay=offline.json
# Wherever git can tell the revision it goes into the programs, and by them into
# the models; elsewhere (an unpacked archive) the build works all the same.
stamp := $(if $(shell git rev-parse --verify -q HEAD 2>/dev/null),-buildvcs=true)
# Google's storage library otherwise brings all of gRPC's xDS along, 20 MB, which only
# its own gRPC transport needs.
tags := -tags disable_grpc_modules
# What `make bench-serve` and `make loadtest` serve: any model file; made by the demo if it is missing.
MODEL ?= runs/demo/run/model.onnx
# The stack that the infra targets are about, and what else its pulumi is told: ARGS=--diff.
STACK ?= dev
ARGS ?=
# The least percentage of statements that the tests have to run.
COVERAGE := 85
# How long `make watch` lasts, such as 30s; without it, until Ctrl-C.
WATCH_FOR ?=
# The platforms of images, comma-separated; by default, each that there is a compiler for. Their
# base image; by default, that of ci/images.yaml. The commit and its time, where there is no
# .git to read them from.
PLATFORMS ?=
BASE ?=
REVISION ?=
CREATED ?=
# The image that the layout in BASE was made from, a URI that names the build system in the provenance, and
# whether to use the programs that `make stage` has built.
BASE_NAME ?=
BUILDER ?=
STAGED ?=
# Anything here has `make demo` leave its server running, for a look at its page.
DEMO_KEEP ?=
# How long each fuzz target is tried.
FUZZTIME ?= 5s
fuzz := internal/imaging:FuzzDecode internal/imaging:FuzzJPEG internal/model:FuzzParse \
	server/form:FuzzParts server/oip:FuzzJSON server/oip:FuzzBinary
# npm writes this file last, so that it stands for a finished installation.
installed := node_modules/.package-lock.json
site := docs/site/$(installed)
# What `make docs` is told of where the site will be: the folder of its server, and the
# repository that it links to.
export DOCS_BASE DOCS_REPOSITORY

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Prepare data, train, evaluate, serve, and tell a real picture from a generated one (DEMO_KEEP=1 keeps the server)
	go run ./internal/demo $(if $(DEMO_KEEP),--keep)

.PHONY: test
test: lint-go vet workflows docs-check cover slo-check fuzz smoke ## Run every check that CI and the pipeline run

.PHONY: build
build: deps ## Build bin/trainer and bin/server, with the source revision inside
	go build $(stamp) $(tags) -o bin/ ./trainer ./server

.PHONY: deps
deps: toolchain $(installed) ## Install ONNX Runtime from npm

$(installed): package.json package-lock.json .npmrc
	npm ci --ignore-scripts
	touch $@

$(linter): tools/build.sh tools/lint/go.mod tools/lint/go.sum
	tools/build.sh lint golangci-lint $@
	touch $@

.PHONY: lint
lint: lint-go ## Check the code

.PHONY: lint-go
lint-go: toolchain $(linter) $(style) ## Check the code with golangci-lint
	$(linter) run
	cd tools/vale && ../../$(linter) run --config ../../.golangci.yml
	cd ci && GOFLAGS="$$(go env GOFLAGS) $(offline)" ../$(linter) run --config ../$(style)

# Files and directories that `make prose` checks, by default all: PROSE="README.md server".
PROSE ?=
.PHONY: prose
prose: toolchain $(vale) ## Check the language of docs, comments and messages with Vale (PROSE=PATH…)
	cd tools/vale && go test -count=1 ./... && go run . $(PROSE) # go doesn't see that the rules change

.PHONY: fmt
fmt: toolchain $(linter) $(style) ## Format the Go code
	$(linter) fmt
	cd ci && ../$(linter) fmt --config ../$(style)

# The pipeline's module has a name of its own, which the formatter has to know.
$(style): .golangci.yml
	@mkdir -p $(@D)
	sed 's,module-path: fakeart,module-path: dagger/fakeart,' $< > $@

$(hooks): bin/tools/%$(exe): tools/build.sh tools/hooks/go.mod tools/hooks/go.sum
	tools/build.sh hooks $* $@
	touch $@

# Each is the one tool of its module.
$(gotestsum) $(k6) $(govulncheck) $(cyclonedx) $(cosign) $(vale) $(pulumi) bin/tools/promtool$(exe): bin/tools/%$(exe): tools/build.sh tools/%/go.mod tools/%/go.sum
	tools/build.sh $* $* $@
	touch $@

.PHONY: hooks
hooks: toolchain $(linter) $(style) $(hooks) ## Have git check what is committed and pushed, by lefthook.yaml
	bin/tools/lefthook install

.PHONY: hooks-test
hooks-test: toolchain $(linter) $(style) $(hooks) ## See that the hooks refuse what they shall
	cd tools/hooks && go test -count=1 ./...

.PHONY: workflows
workflows: toolchain $(linter) ## Hold .github to what it names: targets, Dagger functions, Pulumi outputs
	cd tools/workflows && go vet ./... && ../../$(linter) run --config ../../.golangci.yml && go test -count=1 ./... # go does not see that files outside of the module change

.PHONY: pr-title
pr-title: $(commitlint) ## Check a pull request's title, in the variable PR_TITLE, like a commit's first line
	@printf '%s\n' "$$PR_TITLE" | $(commitlint) lint

.PHONY: vet
vet: toolchain ## Run go vet
	go vet ./...
	cd ci && go vet $(offline) ./...
	cd tools/vale && go vet ./...

.PHONY: test-short
test-short: deps ## Vet, and run the tests that are quick, as before each push
	go vet ./...
	go test -short ./...
	cd ci && go vet $(offline) ./... && go test -short $(offline) ./...

.PHONY: test-long
test-long: deps ## Try the server's faults again and again: kills, signals, model changes, damage
	FAKEART_TEST_LONG=1 go test -race -timeout 10m ./server

# One run of the tests finds races and counts covered statements. A package counts as covered by its own
# tests only: Go then caches the results package by package, and repeats only what a change affects.
report := --format pkgname-and-test-fails --format-hide-empty-pkg --hide-summary skipped --junitfile
coverage := -covermode atomic -coverprofile
# In loops over pixels the coverage counters that the race detector needs are many times slower than the loop itself. These packages are
# tested twice: for races, and for coverage.
pixels := internal/imaging internal/drift trainer/dataset

.PHONY: cover
cover: deps $(gotestsum) $(k6) ## Run all tests with the race detector and measure coverage, in build/coverage; reports in build/tests
	@rm -rf build/coverage build/tests && mkdir -p build/coverage build/tests
	$(gotestsum) $(report) build/tests/programs.xml -- -race -timeout 20m $(coverage) build/coverage/cover.out \
		$$(go list ./... | grep -v -x -F $(addprefix -e fakeart/,docs $(pixels)))
	$(gotestsum) $(report) build/tests/pixels-race.xml -- -race -timeout 20m $(addprefix ./,$(pixels))
	$(gotestsum) $(report) build/tests/pixels.xml -- -coverprofile build/coverage/pixels.out $(addprefix ./,$(pixels))
	cd ci && ../$(gotestsum) $(report) ../build/tests/pipeline.xml -- -race $(offline) $(coverage) ../build/coverage/ci.out ./internal/...
	# These compress and build a lot, and are ten times slower with the race detector.
	cd ci && ../$(gotestsum) $(report) ../build/tests/images.xml -- $(offline) $(coverage) ../build/coverage/ci-cmd.out . ./cmd/...
	@awk -v least=$(COVERAGE) -f tools/coverage.awk build/coverage/*.out > build/coverage/coverage.txt; failed=$$?; \
	cat build/coverage/coverage.txt; exit $$failed

.PHONY: docs-check
docs-check: toolchain ## Check the documentation: links, commands, generated pages
	go test ./docs

# Where the vulnerability database is, when https://vuln.go.dev cannot be reached: a URL,
# such as file:///FOLDER.
GOVULNDB ?=
# Where our code is, with build tags: FOLDER:TAGS. Of the pipeline, the program: its module
# is only ever run by an engine, which says what it is made of (docs/how-to/ci.md).
ours := .:disable_grpc_modules ci/cmd:offline tools/workflows: tools/vale:
.PHONY: vulns
vulns: toolchain $(govulncheck) ## Look for known vulnerabilities in what our code calls
	@failed=; for code in $(ours); do \
		echo "govulncheck $${code%%:*}"; \
		$(govulncheck) -C $${code%%:*} -tags "$${code#*:}" $(if $(GOVULNDB),-db $(GOVULNDB)) ./... || failed=1; \
	done; \
	test -z "$$failed" || { echo "hint: update the dependency, or Go for the standard library: docs/how-to/ci.md#known-vulnerabilities" >&2; exit 1; }

.PHONY: release-files
release-files: $(cyclonedx) ## Gather a release in build/release, from build/dist: dagger call build export --path=build/dist
	rm -rf build/release && mkdir -p build/release
	@set -e; for folder in build/dist/*_*/; do \
		platform=$$(basename $$folder); \
		tar -czf build/release/fakeart_$$platform.tar.gz -C $$folder .; \
		for program in server trainer; do $(cyclonedx) bin -json -std -output build/release/$${program}_$$platform.cdx.json $$folder$$program; done; \
	done
	cd build/release && sha256sum * > SHA256SUMS

# A version that CHANGELOG.md has a section for, such as v1.2.3.
VERSION ?=
.PHONY: release-notes
release-notes: ## Print what CHANGELOG.md says of a version (VERSION=v1.2.3)
	@awk -v version="$(VERSION)" -f tools/release-notes.awk CHANGELOG.md

.PHONY: fuzz
fuzz: deps ## Try each fuzz target for a while (FUZZTIME=5s)
	@set -e; for target in $(fuzz); do \
		echo "go test -fuzz $${target#*:} ./$${target%:*}"; \
		go test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(FUZZTIME) ./$${target%:*}; \
	done

.PHONY: smoke
smoke: build $(k6) ## Run the demo in a folder of its own, then all that the API takes against its server
	go run ./internal/demo --dir runs/smoke
	SCENARIO=smoke go run ./loadtest --model runs/smoke/run/model.onnx --dir runs/smoke/loadtest

.PHONY: bench
bench: build ## Measure the hot paths, then training against inference
	go test -run '^$$' -bench . -benchmem ./...
	bin/trainer benchmark

.PHONY: bench-serve
bench-serve: build ## Measure the server against its limit (MODEL=FILE, WRITE=1 for the docs)
	@test -e $(MODEL) || go run ./internal/demo
	bin/server benchmark --model $(MODEL) $(if $(WRITE),--write docs/explanation/performance.md)

# The variables SCENARIO, DURATION and RATE reach k6 by themselves, through the environment.
.PHONY: loadtest
loadtest: build $(k6) ## Start the server and put it under load with k6 (SCENARIO=users DURATION=30s RATE=50)
	@test -e $(MODEL) || go run ./internal/demo
	go run ./loadtest --model $(MODEL)

.PHONY: watch
watch: build ## Start the server and a Prometheus that watches it, by monitoring/prometheus (WATCH_FOR=30s, MODEL=FILE)
	@test -e $(MODEL) || go run ./internal/demo
	go run ./monitoring/watch --model $(MODEL) $(if $(WATCH_FOR),--for $(WATCH_FOR))

# The state of the stacks is in a folder of the checkout, unless PULUMI_BACKEND_URL names
# a place for it, such as a bucket. What `pulumi login` has chosen does not count.
infra := infra-preview infra-up infra-destroy deploy cloud-up cloud-down
$(infra): export PATH := $(CURDIR)/bin/tools:$(PATH)
$(infra): export PULUMI_BACKEND_URL ?= file://$(CURDIR)/.pulumi-state
$(infra): export PULUMI_SKIP_UPDATE_CHECK := true
# The provider would ask Compute Engine for its regions, an API that the program doesn't use.
$(infra): export PULUMI_GCP_SKIP_REGION_VALIDATION := true

.PHONY: cloud-up
cloud-up: ## From an empty Google Cloud project to a service that answers: check, preview, ask, apply (STACK=dev, ARGS=--yes)
	go run ./infra/cloud up --stack $(STACK) $(ARGS)

.PHONY: cloud-down
cloud-down: ## Delete what cloud-up created, unless it is protected; it asks first (STACK=dev, ARGS=--yes)
	go run ./infra/cloud down --stack $(STACK) $(ARGS)

.PHONY: infra-preview
infra-preview: infra-ready $(pulumi) ## Show what infra-up would change on Google Cloud (STACK=dev)
	bin/tools/pulumi stack select --create $(STACK)
	bin/tools/pulumi preview --stack $(STACK) $(ARGS)

.PHONY: infra-up
infra-up: infra-ready $(pulumi) ## Make the stack what Pulumi.STACK.yaml says; it asks first
	bin/tools/pulumi stack select --create $(STACK)
	bin/tools/pulumi up --stack $(STACK) $(ARGS)

.PHONY: deploy
deploy: infra-ready $(pulumi) ## Have the stack run other images, by digest (STACK=dev, IMAGE=…@sha256:…, TRAINER_IMAGE=…)
	@case '$(IMAGE)' in *@sha256:*) ;; *) echo "make: IMAGE is '$(IMAGE)': name the server's image by its digest, HOST/PATH@sha256:…" >&2; exit 1;; esac
	bin/tools/pulumi stack select --create $(STACK)
	bin/tools/pulumi config set --stack $(STACK) fakeart:image '$(IMAGE)'
	$(and $(TRAINER_IMAGE),bin/tools/pulumi config set --stack $(STACK) fakeart:trainerImage '$(TRAINER_IMAGE)')
	bin/tools/pulumi up --stack $(STACK) $(ARGS)

.PHONY: infra-destroy
infra-destroy: infra-ready $(pulumi) ## Destroy the stack, unless it is protected; it asks first
	bin/tools/pulumi destroy --stack $(STACK) $(ARGS)

.PHONY: infra-ready
infra-ready: toolchain # first, for the tools take some minutes to build
	@wrong() { echo "make: $$1" >&2; exit 1; }; \
	test -e Pulumi.$(STACK).yaml || wrong "there is no Pulumi.$(STACK).yaml: copy Pulumi.dev.yaml to it, or say STACK=dev"; \
	case "$${PULUMI_CONFIG_PASSPHRASE+set}$${PULUMI_CONFIG_PASSPHRASE_FILE+set}$$PULUMI_BACKEND_URL" in set*|http*) ;; \
	*) grep -q '^secretsprovider:' Pulumi.$(STACK).yaml || \
		wrong "PULUMI_CONFIG_PASSPHRASE is missing: the stack's secrets are encrypted with it; choose one, keep it, and export it (or its file's name as PULUMI_CONFIG_PASSPHRASE_FILE)";; \
	esac; \
	case "$$PULUMI_BACKEND_URL" in "file://$(CURDIR)/.pulumi-state") mkdir -p .pulumi-state;; esac; \
	echo "stack $(STACK), state in $$PULUMI_BACKEND_URL"

$(site): $(addprefix docs/site/,package.json package-lock.json .npmrc)
	cd docs/site && npm ci --ignore-scripts
	touch $@

# What the pages of docs/reference that are made from the code are made and checked by.
reference := go test -run '^TestReference' ./docs ./infra/cloud ./server ./server/telemetry ./trainer

.PHONY: reference
reference: deps ## Write the pages of docs/reference that are made from the code
	$(reference) -update

.PHONY: docs
docs: deps docs-check $(site) ## Build the documentation's site in build/docs
	$(reference)
	cd docs/site && node_modules/.bin/vitepress build

.PHONY: docs-serve
docs-serve: docs ## Show it at http://localhost:4173
	cd docs/site && node_modules/.bin/vite preview --outDir ../../build/docs --base $(or $(DOCS_BASE),/)

.PHONY: slo
slo: ## Write what follows from the objectives in monitoring/slo
	go run ./monitoring/derive

.PHONY: slo-check
slo-check: toolchain $(promtool) ## Check Prometheus's rules, and that each alert fires and ends as it should
	$(promtool) check config monitoring/prometheus/prometheus.yaml
	$(promtool) test rules monitoring/prometheus/*_test.yaml

# The program that makes images is of the pipeline's module, and works in its folder.
images := cd ci && go run ./cmd/images
staging = --tags '$(lastword $(tags))' $(and $(PLATFORMS),--platforms '$(PLATFORMS)') \
	$(and $(REVISION),--revision '$(REVISION)') $(and $(CREATED),--created '$(CREATED)')
onbase = $(staging) $(and $(BASE),--base '$(if $(wildcard $(BASE)),$(abspath $(BASE)),$(BASE))')

.PHONY: stage
stage: deps ## Build the programs for images in build/stage (PLATFORMS=linux/amd64,linux/arm64)
	$(images) stage $(staging)

.PHONY: images
images: deps ## Make the images as OCI layouts in build/images, with no container engine (BASE=LAYOUT)
	$(images) write $(onbase) $(and $(BASE_NAME),--base-name '$(BASE_NAME)') $(and $(BUILDER),--builder '$(BUILDER)') $(if $(STAGED),--staged)

.PHONY: images-check
images-check: deps ## Make them twice more, from nothing in other folders, and compare the digests
	$(images) check $(onbase)

.PHONY: reproduce
reproduce: deps ## Make the image of a digest anew from its commit, and compare (DIGEST=sha256:… or HOST/PATH@sha256:…)
	@test -n '$(DIGEST)' || { echo 'make: DIGEST is missing: sha256:… of build/images, or HOST/PATH@sha256:…' >&2; exit 1; }
	$(images) reproduce '$(DIGEST)' $(and $(BASE),--base '$(if $(wildcard $(BASE)),$(abspath $(BASE)),$(BASE))')

.PHONY: publish
publish: toolchain $(if $(SIGN),$(cosign)) ## Push build/images (REGISTRY=HOST/PATH, TAGS=v1.2.3, SIGN=KEY or SIGN=keyless)
	@test -n '$(REGISTRY)' || { echo 'make: REGISTRY is missing: HOST/PATH, such as 127.0.0.1:5000/fakeart' >&2; exit 1; }
	$(images) push --registry '$(REGISTRY)' $(and $(TAGS),--tags '$(TAGS)') $(if $(filter keyless,$(SIGN)),--keyless,$(and $(SIGN),--sign-key '$(if $(wildcard $(SIGN)),$(abspath $(SIGN)),$(SIGN))'))

.PHONY: renew
renew: toolchain ## Look up the digests of the images that images are made of, for ci/images.yaml
	$(images) renew

.PHONY: clean
clean: ## Remove what was built (data/, runs/ and node_modules/ stay)
	rm -rf bin build

.PHONY: toolchain
toolchain: ## Check for what no target installs: Go, a C compiler, npm
	@missing() { echo "make: $$1 is missing: $$2" >&2; exit 1; }; \
	command -v go >/dev/null || missing go "install Go 1.26.8 or newer from https://go.dev/dl/"; \
	set -- $$(go env CC); \
	command -v "$$1" >/dev/null || missing "the C compiler $$1" "cgo calls ONNX Runtime through it; on Debian: sudo apt-get install gcc libc6-dev"; \
	command -v npm >/dev/null || missing npm "it brings ONNX Runtime; on Debian: sudo apt-get install nodejs npm"
