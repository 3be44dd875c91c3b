package hfquant

import (
	"fmt"
	"slices"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// The layout of GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel write it:
// qweight I32 [cols*bits/32, rows], each column of words one row's stream of
// codes; qzeros I32 [groups, rows*bits/32], a stream along the rows; scales
// [groups, rows]; g_idx I32 [cols], the group of each column.

func (c *Config) planGPTQ(p *reader) (func() (kernels.Matrix, error), error) {
	qweight := p.take("qweight", []int{-1, p.rows}, dtype.I32, dtype.U32)
	scales := p.take("scales", []int{-1, p.rows}, scaleTypes...)
	if p.err != nil {
		return nil, p.err
	}
	height := qweight.Shape[0]
	bits := height * 32 / p.cols
	if !slices.Contains([]int{2, 3, 4, 8}, bits) || height*32 != p.cols*bits || p.rows*bits%32 != 0 {
		return nil, fmt.Errorf("qweight has %d rows of words for a linear of %d to %d, which makes no 2, 3, 4 or 8 bits", height, p.cols, p.rows)
	}
	groups := scales.Shape[0]
	qzeros := p.take("qzeros", []int{groups, p.rows * bits / 32}, dtype.I32, dtype.U32)
	index := p.takeIndex("g_idx")
	if p.err != nil {
		return nil, p.err
	}
	size, err := groupSizeOf(c.Schemes[0].GroupSize, p.cols, groups)
	if err != nil {
		return nil, err
	}
	return func() (kernels.Matrix, error) {
		g := &kernels.Groups{Rows: p.rows, Cols: p.cols, Bits: bits, GroupSize: size}
		g.Codes = make([]byte, len(qweight.Data))
		transpose(g.Codes, qweight.Data, height, p.rows)
		s, err := floats("scales", scales)
		if err != nil {
			return nil, err
		}
		g.Scales = flip(s, groups, p.rows)
		if index != nil {
			if g.GroupOf, err = groupOf(index, size, groups); err != nil {
				return nil, err
			}
		}
		stored := make([]uint8, groups*p.rows)
		for i := range stored {
			stored[i] = code(qzeros.Data[i/p.rows*qzeros.Shape[1]*4:], i%p.rows, bits)
		}
		g.Zeros = flip(stored, groups, p.rows)
		c.settleZeros(g)
		return g, nil
	}, nil
}

// flip turns [a, b] into [b, a].
func flip[T any](v []T, a, b int) []T {
	out := make([]T, len(v))
	for i := range a {
		for j := range b {
			out[j*a+i] = v[i*b+j]
		}
	}
	return out
}

// settleZeros turns stored zero points into those that are meant. Version 1
// stores them minus one. The label is not to be relied on, so the data is
// asked first: symmetric codes have one zero point, the middle, so what is
// stored tells the version; with few bits, asymmetric codes average to their
// zero point, since weights average to nothing.
func (c *Config) settleZeros(g *kernels.Groups) {
	mid := uint8(1) << (g.Bits - 1)
	all := func(z uint8) bool { return !slices.ContainsFunc(g.Zeros, func(v uint8) bool { return v != z }) }
	switch {
	case all(mid) && (c.Schemes[0].Symmetric || c.Format == GPTQv2), all(mid-1) && (c.Schemes[0].Symmetric || c.Format == GPTQv1):
		g.Zeros = nil
		return
	case !c.storedMinusOne(g):
		return
	}
	mask := uint8(1)<<g.Bits - 1
	for i, z := range g.Zeros {
		g.Zeros[i] = (z + 1) & mask
	}
}

// storedMinusOne reports whether the zero points are version 1's. Codes lie on
// average at the zero point that is meant: at 0 from the stored ones for
// version 2, at 1 for version 1. The label decides unless the average is far
// from what it says and close to the other.
func (c *Config) storedMinusOne(g *kernels.Groups) bool {
	label := c.Format == GPTQv1
	const enough = 1 << 14
	if g.Bits > 4 || g.Rows*g.Cols < enough {
		return label
	}
	groups := len(g.Zeros) / g.Rows
	width := g.Cols * g.Bits / 8
	var sum int64
	for r := range g.Rows {
		row := g.Codes[r*width : (r+1)*width]
		for col := range g.Cols {
			group := col / g.GroupSize
			if g.GroupOf != nil {
				group = int(g.GroupOf[col])
			}
			sum += int64(code(row, col, g.Bits)) - int64(g.Zeros[r*groups+group])
		}
	}
	mean := float64(sum) / float64(g.Rows*g.Cols)
	switch {
	case label && mean > -0.25 && mean < 0.25:
		return false
	case !label && mean > 0.75 && mean < 1.25:
		return true
	}
	return label
}

func (c *Config) layoutGPTQ(s Scheme, rows, cols int) ([]raw.Tensor, error) {
	switch {
	case !slices.Contains([]int{2, 3, 4, 8}, s.Bits):
		return nil, fmt.Errorf("%d bits, GPTQ holds 2, 3, 4, 8", s.Bits)
	case cols*s.Bits%32 != 0 || rows*s.Bits%32 != 0:
		return nil, fmt.Errorf("a linear of %d to %d with %d bits does not fill whole 32-bit words, which GPTQ needs", cols, rows, s.Bits)
	case s.GroupSize > 0 && cols%s.GroupSize != 0:
		return nil, fmt.Errorf("groups of %d do not divide %d columns, which GPTQ needs", s.GroupSize, cols)
	}
	groups := groupsIn(cols, s.GroupSize)
	return []raw.Tensor{
		{Name: "qweight", Type: dtype.I32, Shape: []int{cols * s.Bits / 32, rows}},
		{Name: "qzeros", Type: dtype.I32, Shape: []int{groups, rows * s.Bits / 32}},
		{Name: "scales", Type: c.ScaleType, Shape: []int{groups, rows}},
		{Name: "g_idx", Type: dtype.I32, Shape: []int{cols}},
	}, nil
}

func (c *Config) encodeGPTQ(g *kernels.Groups, out []raw.Tensor) error {
	transpose(out[0].Data, g.Codes, g.Rows, g.Cols*g.Bits/32)
	groups := out[2].Shape[0]
	mask := uint8(1)<<g.Bits - 1
	for i := range g.Scales {
		row, group := i/groups, i%groups
		z := zeroOf(g, i)
		if c.Format == GPTQv1 {
			if z == 0 {
				return fmt.Errorf("a zero point is 0, which version 1 of GPTQ's format cannot hold")
			}
			z = (z - 1) & mask
		}
		putCode(out[1].Data[4*group*out[1].Shape[1]:], row, g.Bits, z)
	}
	for col := range g.Cols {
		group := col / g.GroupSize
		if g.GroupOf != nil {
			group = int(g.GroupOf[col])
		}
		putWord(out[3].Data, col, uint32(group))
	}
	return c.putScales(out[2].Data, len(g.Scales), func(i int) float32 {
		return g.Scales[i%g.Rows*groups+i/g.Rows]
	})
}
