package blocks

import (
	"hash/crc32"
	"math"
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
	{dtype.Q4_0, 0x1194f904, 0xbeff1a37},
	{dtype.Q4_1, 0xed06e76d, 0x99d1b281},
	{dtype.Q5_0, 0xa4467fda, 0x84e592ed},
	{dtype.Q5_1, 0xe84cccaf, 0x1dd70312},
	{dtype.Q8_0, 0x1043fa7b, 0x8deaf9ac},
	{typ: dtype.Q8_1, dequantized: 0xa541bcdd},
	{dtype.Q2_K, 0xcaefd01a, 0x6025ebbb},
	{dtype.Q3_K, 0x6013dcf9, 0x5dcdb6ba},
	{dtype.Q4_K, 0x8d2e54af, 0x12e29416},
	{dtype.Q5_K, 0x5d8fd884, 0x900acc14},
	{dtype.Q6_K, 0x13b13366, 0x5f7227d8},
	{typ: dtype.Q8_K, dequantized: 0x4254b03c},
	{typ: dtype.IQ1_S, dequantized: 0xc03b79fa},
	{typ: dtype.IQ1_M, dequantized: 0x36368508},
	{typ: dtype.IQ2_XXS, dequantized: 0xc8e83133},
	{typ: dtype.IQ2_XS, dequantized: 0x59bddabd},
	{typ: dtype.IQ2_S, dequantized: 0xa806c4b2},
	{typ: dtype.IQ3_XXS, dequantized: 0xe195192f},
	{typ: dtype.IQ3_S, dequantized: 0xca8d8c98},
	{dtype.IQ4_NL, 0xc07671ec, 0x03a9ee92},
	{dtype.IQ4_XS, 0x2ba06bda, 0x090df1eb},
	{typ: dtype.TQ1_0, dequantized: 0x4a747365},
	{typ: dtype.TQ2_0, dequantized: 0x9f80449c},
	{dtype.MXFP4, 0x97386418, 0x74e9c2ba},
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
	for _, g := range golden {
		if !CanQuantize(g.typ) {
			continue
		}
		h := crc32.NewIEEE()
		for i := range 30 {
			h.Write(quantized(t, g.typ, sampleRow(i), sampleImportance(i)))
		}
		if got := h.Sum32(); got != g.quantized {
			t.Errorf("%s: checksum of the rows is %#08x, want %#08x", g.typ, got, g.quantized)
		}
	}
}

// TestQuantizeError bounds the relative error on normal values: more bits, less
// error, and never worse than the type's step allows.
func TestQuantizeError(t *testing.T) {
	bound := map[dtype.Type]float64{
		dtype.Q2_K: 0.30, dtype.Q3_K: 0.17, dtype.Q4_0: 0.10, dtype.Q4_1: 0.09, dtype.Q4_K: 0.085,
		dtype.IQ4_NL: 0.085, dtype.IQ4_XS: 0.085, dtype.MXFP4: 0.13, dtype.Q5_0: 0.05, dtype.Q5_1: 0.045,
		dtype.Q5_K: 0.042, dtype.Q6_K: 0.022, dtype.Q8_0: 0.007,
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
	row := make([]float32, 256)
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
	} {
		err := Quantize(c.typ, make([]byte, c.dst), row, c.rowLen, c.importance)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	row[77] = float32(math.NaN())
	if err := Quantize(dtype.Q8_0, make([]byte, 272), row, 256, nil); err == nil || !strings.Contains(err.Error(), "value 77 is NaN") {
		t.Errorf("a NaN: %v", err)
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
	for _, typ := range blockTypes() {
		if !CanQuantize(typ) {
			continue
		}
		n, _ := typ.RowBytes(len(src))
		dst := make([]byte, n)
		b.Run(typ.String(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(src)))
			for b.Loop() {
				if err := Quantize(typ, dst, src, len(src), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
