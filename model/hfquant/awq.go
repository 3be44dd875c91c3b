package hfquant

import (
	"fmt"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// The gemm layout of AWQ (arXiv 2306.00978) as AutoAWQ writes it: 4 bits;
// qweight I32 [cols, rows/8], eight rows of one column in a word, in an order
// that suits its kernels; qzeros I32 [groups, rows/8] likewise; scales
// [groups, rows].

// awqOrder is which of a word's eight rows each nibble holds, lowest first.
var awqOrder = [8]int{0, 2, 4, 6, 1, 3, 5, 7}

func (c *Config) planAWQ(p *reader) (func() (kernels.Matrix, error), error) {
	if p.rows%8 != 0 {
		return nil, fmt.Errorf("AWQ holds multiples of 8 rows, this linear has %d", p.rows)
	}
	qweight := p.take("qweight", []int{p.cols, p.rows / 8}, dtype.I32, dtype.U32)
	scales := p.take("scales", []int{-1, p.rows}, scaleTypes...)
	if p.err != nil {
		return nil, p.err
	}
	groups := scales.Shape[0]
	qzeros := p.take("qzeros", []int{groups, p.rows / 8}, dtype.I32, dtype.U32)
	if p.err != nil {
		return nil, p.err
	}
	size, err := groupSizeOf(c.Schemes[0].GroupSize, p.cols, groups)
	if err != nil {
		return nil, err
	}
	return func() (kernels.Matrix, error) {
		g := &kernels.Groups{Rows: p.rows, Cols: p.cols, Bits: 4, GroupSize: size, Zeros: make([]uint8, p.rows*groups)}
		width := (p.cols + 1) / 2
		g.Codes = make([]byte, p.rows*width)
		eachNibble(qweight, func(col, row int, v uint8) { putCode(g.Codes[row*width:], col, 4, v) })
		eachNibble(qzeros, func(group, row int, v uint8) { g.Zeros[row*groups+group] = v })
		s, err := floats("scales", scales)
		if err != nil {
			return nil, err
		}
		g.Scales = flip(s, groups, p.rows)
		return g, nil
	}, nil
}

// eachNibble visits the codes of a packed tensor [n, rows/8].
func eachNibble(t raw.Tensor, visit func(i, row int, v uint8)) {
	for i := range t.Shape[0] {
		for w := range t.Shape[1] {
			packed := word(t.Data, i*t.Shape[1]+w)
			for nibble, row := range awqOrder {
				visit(i, 8*w+row, uint8(packed>>(4*nibble)&15))
			}
		}
	}
}

func (c *Config) layoutAWQ(s Scheme, rows, cols int) ([]raw.Tensor, error) {
	switch {
	case s.Bits != 4:
		return nil, fmt.Errorf("%d bits, AWQ holds 4", s.Bits)
	case rows%8 != 0:
		return nil, fmt.Errorf("%d rows, AWQ holds multiples of 8", rows)
	case s.GroupSize > 0 && cols%s.GroupSize != 0:
		return nil, fmt.Errorf("groups of %d do not divide %d columns, which AWQ needs", s.GroupSize, cols)
	}
	groups := groupsIn(cols, s.GroupSize)
	return []raw.Tensor{
		{Name: "qweight", Type: dtype.I32, Shape: []int{cols, rows / 8}},
		{Name: "qzeros", Type: dtype.I32, Shape: []int{groups, rows / 8}},
		{Name: "scales", Type: c.ScaleType, Shape: []int{groups, rows}},
	}, nil
}

func (c *Config) encodeAWQ(g *kernels.Groups, out []raw.Tensor) error {
	if g.GroupOf != nil {
		return fmt.Errorf("act-order with groups is not held by AWQ")
	}
	width, groups := (g.Cols+1)/2, out[2].Shape[0]
	fill := func(t raw.Tensor, at func(i, row int) uint8) {
		for i := range t.Shape[0] {
			for w := range t.Shape[1] {
				var packed uint32
				for nibble, row := range awqOrder {
					packed |= uint32(at(i, 8*w+row)) << (4 * nibble)
				}
				putWord(t.Data, i*t.Shape[1]+w, packed)
			}
		}
	}
	fill(out[0], func(col, row int) uint8 { return code(g.Codes[row*width:], col, 4) })
	fill(out[1], func(group, row int) uint8 { return zeroOf(g, row*groups+group) })
	return c.putScales(out[2].Data, len(g.Scales), func(i int) float32 {
		return g.Scales[i%g.Rows*groups+i/g.Rows]
	})
}
