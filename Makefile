# make            builds ./llmc
# make test       the README's test command
# make ci         everything that a submission must pass
# make interop    compares with other engines (needs Python and npm; see scripts/interop)

GO ?= go

.PHONY: all test lint levels fuzz bench asm kill demo interop interop-full interop-torch ci clean

all:
	$(GO) build -o llmc ./cmd/llmc

test:
	$(GO) test ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GOARCH=arm64 $(GO) vet ./...

# Every CPU level that this machine has, then the build without assembly. Only
# packages whose results depend on the kernels run again.
LEVELS = ./kernels/... ./internal/solve ./model/... ./eval/...
levels:
	LLMC_CPU=portable $(GO) test -count=1 $(LEVELS)
	LLMC_CPU=avx2 $(GO) test -count=1 $(LEVELS)
	LLMC_CPU=avx512 $(GO) test -count=1 $(LEVELS)
	$(GO) test -tags noasm $(LEVELS)

# Each fuzz target for FUZZTIME.
FUZZTIME ?= 30s
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg || exit 1; \
		done; \
	done

bench:
	$(GO) test -run '^$$' -bench . ./kernels/... ./internal/solve ./tokenizer

# Kills calibrated runs at KILLS random moments and resumes them.
KILLS ?= 10
kill:
	LLMC_KILLS=$(KILLS) $(GO) test -count=1 -run TestKilledAndResumed ./cmd/llmc

# Regenerates the committed assembly.
asm:
	cd kernels/internal/asmgen && $(GO) run . -out ../..

demo:
	scripts/demo/train.sh

interop: all
	scripts/interop/run.sh light

interop-full: all
	scripts/interop/run.sh full

interop-torch: all
	scripts/interop/run.sh torch

ci:
	bash .ci/run

clean:
	rm -f llmc
