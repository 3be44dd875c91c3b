package blocks

import (
	"hash/crc32"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"llmc/dtype"
)

// The checksums are of the results that scripts/interop/blocks.py found equal
// to the gguf package's (dequantized, bit for bit) and to ggml_quantize_chunk's
// (quantized, byte for byte, with and without an importance matrix).
var golden = []struct {
	typ                    dtype.Type
	dequantized, quantized uint32
}{
	{dtype.Q4_0, 0x1194f904, 0x731a1262},
	{dtype.Q4_1, 0xed06e76d, 0xdb7f4340},
	{dtype.Q5_0, 0xa4467fda, 0xfdb3907d},
	{dtype.Q5_1, 0xe84cccaf, 0xd23e9972},
	{dtype.Q8_0, 0x1043fa7b, 0x3ae5c801},
	{typ: dtype.Q8_1, dequantized: 0xa541bcdd},
	{dtype.Q2_K, 0xcaefd01a, 0x24a6310a},
	{dtype.Q3_K, 0x6013dcf9, 0x99c77aed},
	{dtype.Q4_K, 0x8d2e54af, 0x1d0d18e6},
	{dtype.Q5_K, 0x5d8fd884, 0xe43312bd},
	{dtype.Q6_K, 0x13b13366, 0xabac8b5b},
	{typ: dtype.Q8_K, dequantized: 0x4254b03c},
	{typ: dtype.IQ1_S, dequantized: 0xc03b79fa},
	{typ: dtype.IQ1_M, dequantized: 0x36368508},
	{typ: dtype.IQ2_XXS, dequantized: 0xc8e83133},
	{typ: dtype.IQ2_XS, dequantized: 0x59bddabd},
	{typ: dtype.IQ2_S, dequantized: 0xa806c4b2},
	{typ: dtype.IQ3_XXS, dequantized: 0xe195192f},
	{typ: dtype.IQ3_S, dequantized: 0xca8d8c98},
	{dtype.IQ4_NL, 0xc07671ec, 0xb30a8037},
	{dtype.IQ4_XS, 0x2ba06bda, 0x38a63a61},
	{dtype.TQ1_0, 0x4a747365, 0x29c0420d},
	{dtype.TQ2_0, 0x9f80449c, 0x3a060b18},
	{dtype.MXFP4, 0x97386418, 0x023a77c8},
	{typ: dtype.NVFP4, dequantized: 0x56ba6a76},
}

func TestDequantizeGolden(t *testing.T) {
	if len(golden) != len(blockTypes()) {
		t.Fatalf("%d golden checksums for %d types", len(golden), len(blockTypes()))
	}
	for _, g := range golden {
		dst := make([]float32, 512*g.typ.BlockSize())
		Dequantize(g.typ, dst, sampleBlocks(g.typ, 512))
		if got := checksum(dst); got != g.dequantized {
			t.Errorf("%s: checksum of the values is %#08x, want %#08x", g.typ, got, g.dequantized)
		}
	}
}

func TestQuantizeGolden(t *testing.T) {
	eachLevel(t, func(level string) {
		for _, g := range golden {
			if !CanQuantize(g.typ) {
				continue
			}
			h := crc32.NewIEEE()
			for i := range sampleRows {
				h.Write(quantized(t, g.typ, sampleRow(i), sampleImportance(i)))
			}
			if got := h.Sum32(); got != g.quantized {
				t.Errorf("%s, %s: checksum of the rows is %#08x, want %#08x", g.typ, level, got, g.quantized)
			}
		}
	})
}

// TestNothingFused looks for fused multiply-adds in what the compiler makes of
// this package for a machine that has them: each would change results there. A
// product that is added to something needs a conversion around it.
func TestNothingFused(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package for another machine")
	}
	build := exec.Command("go", "build", "-gcflags=llmc/kernels/blocks=-S", ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0")
	listing, err := build.CombinedOutput()
	if err != nil {
		t.Skipf("cannot compile for arm64: %v\n%s", err, listing)
	}
	if !strings.Contains(string(listing), "FMULS") {
		t.Fatal("the listing of the compiler holds no multiplication")
	}
	for _, m := range regexp.MustCompile(`\((\S+\.go:\d+)\)\s+(FN?M(?:ADD|SUB)[SD])`).FindAllStringSubmatch(string(listing), -1) {
		t.Errorf("%s is compiled to %s", m[1], m[2])
	}
}

// TestQuantizeError bounds the relative error on normal values: more bits, less
// error, and never worse than the type's step allows.
func TestQuantizeError(t *testing.T) {
	bound := map[dtype.Type]float64{
		dtype.Q2_K: 0.30, dtype.Q3_K: 0.17, dtype.Q4_0: 0.10, dtype.Q4_1: 0.09, dtype.Q4_K: 0.085,
		dtype.IQ4_NL: 0.085, dtype.IQ4_XS: 0.085, dtype.MXFP4: 0.13, dtype.Q5_0: 0.05, dtype.Q5_1: 0.045,
		dtype.Q5_K: 0.042, dtype.Q6_K: 0.022, dtype.Q8_0: 0.007, dtype.TQ1_0: 0.9, dtype.TQ2_0: 0.9,
	}
	src := sampleRow(0)
	dst := make([]float32, len(src))
	for typ := range quantizers {
		typ := dtype.Type(typ)
		if !CanQuantize(typ) {
			continue
		}
		Dequantize(typ, dst, quantized(t, typ, src, nil))
		var errors, squares float64
		for i, v := range src {
			errors += float64(v-dst[i]) * float64(v-dst[i])
			squares += float64(v) * float64(v)
		}
		if got := math.Sqrt(errors / squares); !(got < bound[typ]) {
			t.Errorf("%s: relative error %.4f, allowed is %.4f", typ, got, bound[typ])
		}
	}
}

// TestImportance checks that weights move the error to where it matters less.
func TestImportance(t *testing.T) {
	src, w := sampleRow(0), make([]float32, rowLen)
	for i := range w {
		w[i] = 1e-3
		if i%4 == 0 {
			w[i] = 1
		}
	}
	cost := func(typ dtype.Type, importance []float32) (total float64) {
		dst := make([]float32, len(src))
		Dequantize(typ, dst, quantized(t, typ, src, importance))
		for i, v := range src {
			total += float64(w[i]) * float64(v-dst[i]) * float64(v-dst[i])
		}
		return total
	}
	for _, typ := range []dtype.Type{dtype.Q2_K, dtype.Q3_K, dtype.Q4_K, dtype.Q5_K, dtype.Q6_K, dtype.Q4_0, dtype.IQ4_NL} {
		if plain, weighted := cost(typ, nil), cost(typ, w); weighted >= plain {
			t.Errorf("%s: weighted error %g with importance, %g without", typ, weighted, plain)
		}
	}
}

func TestQuantizeRefuses(t *testing.T) {
	row, negative := make([]float32, 256), make([]float32, 256)
	negative[2] = -1
	for _, c := range []struct {
		name, want string
		typ        dtype.Type
		dst        int
		rowLen     int
		importance []float32
	}{
		{"type", "cannot quantize to IQ2_S, allowed are Q4_0, Q4_1", dtype.IQ2_S, 82, 256, nil},
		{"scalar", "cannot quantize to F16", dtype.F16, 512, 256, nil},
		{"row", "multiple of 256 values, not 128", dtype.Q4_K, 72, 128, nil},
		{"bytes", "256 values in rows of 256 to 7 bytes", dtype.Q4_K, 7, 256, nil},
		{"importance", "importance has 3 weights for rows of 256", dtype.Q4_K, 144, 256, row[:3]},
		{"negative importance", "importance of column 2 is -1, allowed are finite", dtype.Q4_K, 144, 256, negative},
	} {
		err := Quantize(c.typ, make([]byte, c.dst), row, c.rowLen, c.importance)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestQuantizeRefusesValues checks that no value is lost in silence: numbers
// that are none, and those whose scale does not fit half precision.
func TestQuantizeRefusesValues(t *testing.T) {
	for typ := range quantizers {
		typ := dtype.Type(typ)
		if !CanQuantize(typ) {
			continue
		}
		n, _ := typ.RowBytes(256)
		for v, want := range map[float32]string{
			float32(math.NaN()):   "value 200 is NaN, " + typ.String() + " takes finite magnitudes up to",
			float32(math.Inf(-1)): "value 200 is -Inf, ",
			1e30:                  "value 200 is 1e+30, ",
			0x1p28:                "a magnitude of 2.6843546e+08 is too large for the half-precision scales of " + typ.String(),
		} {
			row := make([]float32, 256)
			row[200] = v
			err := Quantize(typ, make([]byte, n), row, 256, nil)
			if typ == dtype.MXFP4 && !math.IsInf(float64(v), 0) && v == v { // its scale is a power of two up to 2^127
				if err != nil {
					t.Errorf("%s of %g: %v", typ, v, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %g: %v, want %q", typ, v, err, want)
			}
		}
	}
}

func BenchmarkDequantize(b *testing.B) {
	for _, typ := range blockTypes() {
		b.Run(typ.String(), func(b *testing.B) {
			dst := make([]float32, 4096)
			src := sampleBlocks(typ, len(dst)/typ.BlockSize())
			b.SetBytes(int64(4 * len(dst)))
			for b.Loop() {
				Dequantize(typ, dst, src)
			}
		})
	}
}

func BenchmarkQuantize(b *testing.B) {
	src := sampleRow(0)
	weights := sampleImportance(16)
	for _, typ := range blockTypes() {
		if !CanQuantize(typ) {
			continue
		}
		n, _ := typ.RowBytes(len(src))
		dst := make([]byte, n)
		eachLevel(b, func(level string) {
			for i, importance := range [][]float32{nil, weights} {
				b.Run(typ.String()+"/"+level+[]string{"", "/importance"}[i], func(b *testing.B) {
					b.SetBytes(int64(4 * len(src)))
					for b.Loop() {
						if err := Quantize(typ, dst, src, len(src), importance); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
