// Command asmgen writes the amd64 assembly of the packages kernels and blocks
// and its Go declarations. Run it with "make asm" at the root of the repository.
//
// Every kernel is written once for both instruction sets: an [isa] says how
// wide its vectors are. Kernels take whole vectors only; the Go code around
// them does the rest of a row.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

// files are the parts of the output, each a pair of NAME_amd64.s and
// NAME_amd64.go in package kernels or one below it.
var files = []struct {
	name  string
	write func(g *gen)
}{
	{"blocks/asm_search", func(g *gen) { g.searches() }},
	{"blocks/asm_rows", func(g *gen) { g.rows() }},
	{"asm_product", func(g *gen) { g.products() }},
	{"asm_vector", func(g *gen) { g.vectors(); g.packs() }},
	{"asm_blocks", func(g *gen) { g.blocks() }},
	{"asm_codes", func(g *gen) { g.codes() }},
	{"asm_integer", func(g *gen) { g.integers() }},
}

func main() {
	log.SetFlags(0)
	// Not the default set, in which avo has flags of its own.
	flags := flag.NewFlagSet("asmgen", flag.ExitOnError)
	out := flags.String("out", ".", "directory of package kernels")
	_ = flags.Parse(os.Args[1:])
	for _, f := range files {
		ctx := build.NewContext()
		ctx.ConstraintExpr("!noasm")
		ctx.ConstraintExpr("!purego")
		consts := map[string]bool{}
		for _, set := range []isa{avx2, avx512} {
			f.write(&gen{Context: ctx, isa: set, consts: consts})
		}
		pkg := "kernels"
		if dir := filepath.Dir(f.name); dir != "." {
			pkg = dir
		}
		if err := write(ctx, pkg, filepath.Join(*out, f.name+"_amd64")); err != nil {
			log.Fatalf("%s: %v", f.name, err)
		}
	}
}

// write compiles a file and prints it as assembly and as declarations.
func write(ctx *build.Context, pkg, name string) error {
	file, err := ctx.Result()
	if err != nil {
		return err
	}
	if err := pass.Compile.Execute(file); err != nil {
		return err
	}
	cfg := printer.Config{Name: "asmgen", Argv: []string{"make", "asm"}, Pkg: pkg}
	asm, err := printer.NewGoAsm(cfg).Print(file)
	if err != nil {
		return err
	}
	if err := checkRegisters(asm); err != nil {
		return err
	}
	stubs, err := printer.NewStubs(cfg).Print(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".s", asm, 0o644); err != nil {
		return err
	}
	return os.WriteFile(name+".go", stubs, 0o644)
}

var (
	function = regexp.MustCompile(`(?m)^TEXT ·(\w+)\(SB\)[^\n]*\n(?:[^T\n][^\n]*\n|\n)*`)
	only512  = regexp.MustCompile(`\b(Z\d+|[XY](1[6-9]|2\d|3[01])|K[1-7])\b`)
)

// checkRegisters finds registers in AVX2 functions that machines without
// AVX-512 do not have, which the allocator would use when it runs out.
func checkRegisters(asm []byte) error {
	for _, f := range function.FindAllSubmatch(asm, -1) {
		name := string(f[1])
		if !regexp.MustCompile(`AVX2`).MatchString(name) {
			continue
		}
		if r := only512.Find(f[0]); r != nil {
			return fmt.Errorf("%s uses %s, which AVX2 lacks", name, r)
		}
	}
	return nil
}
