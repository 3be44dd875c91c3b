package kernels

import (
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"

	"llmc/dtype"
)

// slowRound is the definition, in float64 but for the scale, which is stored in
// float32.
func slowRound(x []float32, r Rounding) []float32 {
	lo, hi := 0.0, 0.0
	for _, v := range x {
		lo, hi = math.Min(lo, float64(v)), math.Max(hi, float64(v))
	}
	largest, steps := math.Max(-lo, hi), math.Exp2(float64(r.Bits))-1
	scale, zero := float32(largest/(steps/2)), 0.0
	least := -math.Exp2(float64(r.Bits - 1))
	switch {
	case r.Static:
		scale, zero = r.Scale, float64(r.Zero)
	case r.Float:
		scale = float32(largest / 448)
	case r.Asymmetric:
		scale = float32((hi - lo) / steps)
		zero = math.RoundToEven(least - lo/float64(scale))
	}
	out := make([]float32, len(x))
	for i, v := range x {
		q := float64(v / scale)
		if r.Float {
			q = float64(dtype.F8E4M3ToF32(dtype.F32ToF8E4M3(float32(math.Max(-448, math.Min(448, q))))))
		} else {
			q = math.RoundToEven(math.Max(least, math.Min(-least-1, q+zero))) - zero
		}
		out[i] = float32(q) * scale
	}
	return out
}

func TestRound(t *testing.T) {
	const rows, cols = 5, 96
	for _, r := range []Rounding{
		{Bits: 8}, {Bits: 4}, {Bits: 8, Asymmetric: true}, {Bits: 8, Group: 32}, {Bits: 8, Group: 40},
		{Bits: 8, Float: true}, {Bits: 8, Float: true, Group: 16},
		{Bits: 8, Static: true, Scale: 0.011}, {Bits: 8, Static: true, Scale: 0.02, Zero: -31, Asymmetric: true},
		{Bits: 8, Float: true, Static: true, Scale: 0.004},
	} {
		t.Run(r.String(), func(t *testing.T) {
			c := NewCPU(2)
			defer c.Close()
			rng := rand.New(rand.NewPCG(5, 6))
			x := randomTensor(c, rng, rows, cols)
			for i := range x.Data {
				x.Data[i] += 0.3 // so that zero points are not in the middle
			}
			want := make([]float32, 0, rows*cols)
			for i := range rows {
				size := cols
				if r.Group > 0 {
					size = r.Group
				}
				for from := 0; from < cols; from += size {
					want = append(want, slowRound(x.Data[i*cols+from:i*cols+min(from+size, cols)], r)...)
				}
			}
			c.Round(x, x, r)
			checkClose(t, r.String(), x.Data, want, 1e-6)
		})
	}
}

// TestRoundGolden compares checksums of rounded numbers with those that
// compressed-tensors 0.20 computes of the same numbers (fake_quantize with
// compute_dynamic_scales_and_zp, float32 on a CPU).
func TestRoundGolden(t *testing.T) {
	const rows, cols = 6, 256
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = (float32(i*7919%1009) - 480) / 37 * []float32{1, 3, 0.5, 7, 0.01, 11}[i/cols]
	}
	if got := crc32.ChecksumIEEE(bytesOf(x)); got != 2371055553 {
		t.Fatalf("the numbers to round are others: checksum %d", got)
	}
	for _, tt := range []struct {
		rounding Rounding
		want     uint32
	}{
		{Rounding{Bits: 8}, 0xaa4a3cea},
		{Rounding{Bits: 4}, 0x981c427c},
		{Rounding{Bits: 8, Asymmetric: true}, 0xc6545ca9},
		{Rounding{Bits: 8, Float: true}, 0xb5bfd753},
		{Rounding{Bits: 8, Float: true, Group: 128}, 0x2b7fdbcb},
		{Rounding{Bits: 8, Static: true, Scale: 0.3}, 0x5b38e5e2},
		{Rounding{Bits: 8, Static: true, Asymmetric: true, Scale: 0.25, Zero: -11}, 0xe7484ba7},
		{Rounding{Bits: 8, Static: true, Float: true, Scale: 0.11}, 0xca8d64f1},
	} {
		got := make([]float32, len(x))
		for r := range rows {
			tt.rounding.row(got[r*cols:][:cols], x[r*cols:][:cols])
		}
		for i := range got {
			got[i] += 0 // -0 is 0
		}
		if sum := crc32.ChecksumIEEE(bytesOf(got)); sum != tt.want {
			t.Errorf("%s: checksum %#x, want %#x", tt.rounding, sum, tt.want)
		}
	}
}

// TestRoundZeros: a token of zeros stays one, and NaN is not hidden.
func TestRoundZeros(t *testing.T) {
	c := NewCPU(1)
	defer c.Close()
	for _, r := range []Rounding{{Bits: 8}, {Bits: 8, Asymmetric: true}, {Bits: 8, Float: true}} {
		x := c.NewTensor(2, 3)
		x.Data[4] = float32(math.NaN())
		dst := c.NewTensor(2, 3)
		c.Round(dst, x, r)
		for i, v := range dst.Data {
			if nan := v != v; nan != (i >= 3) || !nan && v != 0 {
				t.Errorf("%s: element %d is %v", r, i, v)
			}
		}
	}
}

// TestFloat8 multiplies by matrices with scales of every kind and compares
// with the numbers they stand for.
func TestFloat8(t *testing.T) {
	const rows, cols, n = 70, 300, 20
	eachLevel(t, func(t *testing.T, o *ops) {
		rng := rand.New(rand.NewPCG(7, 8))
		c := newCPU(2, o)
		defer c.Close()
		codes := make([]byte, rows*cols)
		for i := range codes {
			codes[i] = byte(rng.IntN(2)<<7 | rng.IntN(0x50))
		}
		for _, s := range []struct {
			typ        dtype.Type
			high, wide int
		}{{dtype.F8E4M3, rows, cols}, {dtype.F8E4M3, 1, cols}, {dtype.F8E5M2, 1, 64}, {dtype.F8E4M3, 32, 128}} {
			scales := randoms(rng, ceilDiv(rows, s.high)*ceilDiv(cols, s.wide))
			m, err := NewFloat8(rows, cols, s.typ, codes, s.high, s.wide, scales)
			if err != nil {
				t.Fatal(err)
			}
			plain := make([]float32, rows*cols)
			if err := dtype.Decode(plain, codes, s.typ); err != nil {
				t.Fatal(err)
			}
			for i := range plain {
				plain[i] *= scales[i/cols/s.high*ceilDiv(cols, s.wide)+i%cols/s.wide]
			}
			for _, batch := range []int{1, n} {
				x := randomTensor(c, rng, batch, cols)
				got, want := c.NewTensor(batch, rows), c.NewTensor(batch, rows)
				c.MatMul(got, x, c.Load(m))
				c.MatMul(want, x, c.Load(FromFloat32s(rows, cols, plain)))
				checkClose(t, s.typ.String(), got.Data, want.Data, 0)
			}
		}
	})
}

func TestNewFloat8Refuses(t *testing.T) {
	for name, f := range map[string]Float8{
		"type":    {Rows: 2, Cols: 2, Type: dtype.I8, Codes: make([]byte, 4), High: 1, Wide: 2, Scales: make([]float32, 2)},
		"shape":   {Rows: 0, Cols: 2, Type: dtype.F8E4M3, High: 1, Wide: 2},
		"codes":   {Rows: 2, Cols: 2, Type: dtype.F8E4M3, Codes: make([]byte, 3), High: 1, Wide: 2, Scales: make([]float32, 2)},
		"scales":  {Rows: 2, Cols: 2, Type: dtype.F8E4M3, Codes: make([]byte, 4), High: 1, Wide: 1, Scales: make([]float32, 2)},
		"extents": {Rows: 2, Cols: 2, Type: dtype.F8E4M3, Codes: make([]byte, 4), High: 0, Wide: 2, Scales: make([]float32, 2)},
	} {
		if _, err := NewFloat8(f.Rows, f.Cols, f.Type, f.Codes, f.High, f.Wide, f.Scales); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
