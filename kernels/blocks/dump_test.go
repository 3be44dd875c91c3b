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

// sampleRow returns row i of the test data: normal and heavy-tailed values,
// outliers, one sign only, zeros, constants, tiny and huge values, ties.
func sampleRow(i int) []float32 {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	row := make([]float32, rowLen)
	for c := range row {
		v := rng.NormFloat64()
		switch i % 10 {
		case 1:
			v = v * v * v
		case 2:
			if rng.IntN(64) == 0 {
				v *= 50
			}
		case 3:
			v = math.Abs(v)
		case 4:
			v = -math.Abs(v) - 1
		case 5:
			v = 0
		case 6:
			v = 0.25
		case 7:
			v *= 1e-6
		case 8:
			v *= 1e4
		case 9:
			v = math.Round(4*v) / 8
		}
		row[c] = float32(v)
	}
	if i%20 >= 10 && i%10 < 4 { // a zero block inside
		clear(row[256:512])
	}
	return row
}

// sampleImportance returns weights for the columns of row i: nil for every
// third row.
func sampleImportance(i int) []float32 {
	if i%3 == 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(uint64(i), 8))
	w := make([]float32, rowLen)
	for c := range w {
		w[c] = float32(math.Exp(2 * rng.NormFloat64()))
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
		for i := range 120 {
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
