package blocks

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"llmc/dtype"
)

// rowLen is the length of the rows that tests quantize: a few blocks of every
// type.
const rowLen = 1024

// sampleRows is how many rows make every kind of row meet every kind of
// importance.
const sampleRows = 16 * 4

// sampleRow returns row i of the test data. Every value is made of exact
// operations or one rounding, so that the rows are the same on every machine.
func sampleRow(i int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	row := make([]float32, rowLen)
	for c := range row {
		bell := rng.Float64() + rng.Float64() + rng.Float64() + rng.Float64() - 2
		row[c] = float32(sampleValue(i%16, bell, rng))
	}
	if i%16 == 15 {
		clear(row[256:512])
	}
	return row
}

// sampleValue turns a value around zero into one of a kind of row.
func sampleValue(kind int, v float64, rng *rand.Rand) float64 {
	switch kind {
	case 1: // heavy tails
		return v * v * v * v * v
	case 2: // outliers
		if rng.IntN(64) == 0 {
			return 50 * v
		}
	case 3: // one sign
		return math.Abs(v)
	case 4: // far from zero
		return -math.Abs(v) - 1
	case 5: // positive and zeros of both signs
		return math.Max(v, math.Copysign(0, rng.Float64()-0.5))
	case 6: // constant
		return 0.25
	case 7:
		return 1e-6 * v
	case 8:
		return 1e4 * v
	case 9: // ties
		return math.Round(4*v) / 8
	case 10: // ternary
		return math.Round(v)
	case 11: // scales without an inverse
		return 1e-39 * v
	case 12: // just beside powers of two
		return math.Ldexp(float64(1<<24+rng.IntN(5)-2), rng.IntN(40)-60)
	case 13:
		return 2e4 * v
	case 14:
		return 0
	}
	return v
}

// sampleImportance returns weights for the columns of row i, or nil.
func sampleImportance(i int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(i), 8))
	w := make([]float32, rowLen)
	for c := range w {
		u := rng.Float64()
		switch i / 16 % 4 {
		case 0:
			return nil
		case 1:
			w[c] = float32(u * u * u * u)
		case 2: // most columns without any
			if c%16 == 0 {
				w[c] = float32(u)
			}
		case 3:
			w[c] = float32(math.Ldexp(u, rng.IntN(60)-30))
		}
	}
	return w
}

// sampleBlocks returns count blocks of random bytes.
func sampleBlocks(t dtype.Type, count int) []byte {
	rng := rand.New(rand.NewPCG(uint64(t), 9))
	data := make([]byte, count*t.BlockBytes())
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

func blockTypes() (types []dtype.Type) {
	for t := range dequantizers {
		if dequantizers[t] != nil {
			types = append(types, dtype.Type(t))
		}
	}
	return types
}

// TestDump writes what scripts/interop/blocks.py compares with other
// implementations to the file that LLMC_DUMP names.
func TestDump(t *testing.T) {
	path := os.Getenv("LLMC_DUMP")
	if path == "" {
		t.Skip("LLMC_DUMP names no file; scripts/interop/blocks.py sets it")
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	for _, typ := range blockTypes() {
		src := sampleBlocks(typ, 512)
		dst := make([]float32, 512*typ.BlockSize())
		Dequantize(typ, dst, src)
		record(t, w, "dequantize", typ, src, nil, dst)
	}
	for _, typ := range blockTypes() {
		if !CanQuantize(typ) {
			continue
		}
		for i := range 2 * sampleRows {
			src, importance := sampleRow(i), sampleImportance(i)
			record(t, w, "quantize", typ, quantized(t, typ, src, importance), importance, src)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

func quantized(t testing.TB, typ dtype.Type, src, importance []float32) []byte {
	t.Helper()
	n, _ := typ.RowBytes(len(src))
	dst := make([]byte, n)
	if err := Quantize(typ, dst, src, len(src), importance); err != nil {
		t.Fatal(err)
	}
	return dst
}

// record is a line "verb type bytes weights values", then the three arrays.
func record(t *testing.T, w io.Writer, verb string, typ dtype.Type, data []byte, importance, values []float32) {
	t.Helper()
	fmt.Fprintln(w, verb, typ, len(data), len(importance), len(values))
	for _, v := range []any{data, importance, values} {
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
}

// checksum is over the bits of values, with one NaN for all.
func checksum(values []float32) uint32 {
	h := crc32.NewIEEE()
	var b [4]byte
	for _, v := range values {
		bits := math.Float32bits(v)
		if v != v {
			bits = 0x7fc00000
		}
		binary.LittleEndian.PutUint32(b[:], bits)
		h.Write(b[:])
	}
	return h.Sum32()
}
