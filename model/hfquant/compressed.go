package hfquant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// The packed layout of compressed-tensors: see compressors/pack_quantized of
// that package. naive.go has the others.

// planPacked reads pack-quantized: weight_packed I32 [rows, words], one stream
// of codes per row, stored with half their range added; weight_scale
// [rows, groups]; weight_zero_point I32, packed down the columns of
// [rows, groups], when asymmetric; weight_g_idx I32 [cols] when act-ordered.
func (c *Config) planPacked(module string, p *reader) (func() (kernels.Matrix, error), error) {
	s, ok := c.SchemeOf(module)
	if !ok {
		return nil, fmt.Errorf("weight_packed is there, but no group of quantization_config covers it")
	}
	packed := p.take("weight_packed", []int{p.rows, -1}, dtype.I32, dtype.U32)
	if p.err != nil {
		return nil, p.err
	}
	old, err := c.oldLayout(s.Bits, p.cols, packed.Shape[1])
	if err != nil {
		return nil, err
	}
	if has(p.parts, "weight_shape") {
		shape := p.take("weight_shape", []int{2}, dtype.I64, dtype.I32)
		if r, n := intAt(shape, 0), intAt(shape, 1); p.err == nil && (r != p.rows || n != p.cols) {
			p.err = fmt.Errorf("weight_shape says [%d %d], the configuration asks for [%d %d]", r, n, p.rows, p.cols)
		}
	}
	scale, groups := p.takeScale()
	zeros := p.takeZeros(s.Bits, groups, old)
	index := p.takeIndex("weight_g_idx")
	if p.err != nil {
		return nil, p.err
	}
	size, err := groupSizeOf(s.GroupSize, p.cols, groups)
	if err != nil {
		return nil, err
	}
	return func() (kernels.Matrix, error) {
		g := &kernels.Groups{Rows: p.rows, Cols: p.cols, Bits: s.Bits, GroupSize: size}
		g.Codes = unpackRows(packed.Data, p.rows, p.cols, s.Bits, packed.Shape[1], old)
		var err error
		if g.Scales, err = p.scales(scale, groups); err != nil {
			return nil, err
		}
		g.Zeros = zeros()
		if index != nil {
			if g.GroupOf, err = groupOf(index, size, groups); err != nil {
				return nil, err
			}
		}
		return g, nil
	}, nil
}

// oldLayout tells the layouts of 3, 5, 6 and 7 bits apart by the width of a
// row, and by the version where the widths agree.
func (c *Config) oldLayout(bits, cols, width int) (bool, error) {
	dense, old := words(cols, bits) == width, oldWords(cols, bits) == width
	switch {
	case !dense && !old:
		return false, fmt.Errorf("weight_packed has %d words a row, %d columns of %d bits take %d, or %d before release 0.18", width, cols, bits, words(cols, bits), oldWords(cols, bits))
	case dense && old && 32%bits != 0:
		var major, minor int
		n, _ := fmt.Sscanf(c.Version, "%d.%d", &major, &minor)
		return n == 2 && major == 0 && minor < 18, nil
	}
	return !dense, nil
}

// unpackRows copies the codes of each row from its words.
func unpackRows(data []byte, rows, cols, bits, width int, old bool) []byte {
	n := (cols*bits + 7) / 8
	codes := make([]byte, rows*n)
	for r := range rows {
		src, dst := data[4*r*width:4*(r+1)*width], codes[r*n:(r+1)*n]
		if !old {
			copy(dst, src)
			clearTail(dst, cols*bits)
			continue
		}
		for c := range cols {
			putCode(dst, c, bits, oldCode(src, c, bits))
		}
	}
	return codes
}

// clearTail zeroes what follows the first n bits.
func clearTail(row []byte, n int) {
	if n%8 != 0 {
		row[len(row)-1] &= 1<<(n%8) - 1
	}
}

// takeScale finds weight_scale in the shapes that the strategies give it: per
// group and per channel [rows, groups], per channel [rows], per tensor [1] or
// a scalar.
func (p *reader) takeScale() (raw.Tensor, int) {
	t := p.parts["weight_scale"]
	switch {
	case len(t.Shape) == 2 && t.Shape[0] == p.rows:
		return p.take("weight_scale", []int{p.rows, -1}, scaleTypes...), t.Shape[1]
	case len(t.Shape) == 1 && t.Shape[0] == p.rows:
		return p.take("weight_scale", []int{p.rows}, scaleTypes...), 1
	case t.Elements() == 1 && len(t.Shape) <= 2:
		return p.take("weight_scale", t.Shape, scaleTypes...), 1
	}
	return p.take("weight_scale", []int{p.rows, -1}, scaleTypes...), 1
}

// scales decodes them to [rows, groups].
func (p *reader) scales(t raw.Tensor, groups int) ([]float32, error) {
	v, err := floats("weight_scale", t)
	if err != nil || len(v) == p.rows*groups {
		return v, err
	}
	all := make([]float32, p.rows*groups)
	for i := range all {
		all[i] = v[0]
	}
	return all, nil
}

// takeZeros returns what reads the packed zero points; nil ones are symmetric.
func (p *reader) takeZeros(bits, groups int, old bool) func() []uint8 {
	if !has(p.parts, "weight_zero_point") {
		return func() []uint8 { return nil }
	}
	if t := p.parts["weight_zero_point"]; t.Type == dtype.I8 {
		return p.takeInt8Zeros(bits, groups)
	}
	height, get := words(p.rows, bits), code
	if old {
		height, get = oldWords(p.rows, bits), oldCode
	}
	t := p.take("weight_zero_point", []int{height, groups}, dtype.I32, dtype.U32)
	return func() []uint8 {
		columns := make([]byte, len(t.Data))
		transpose(columns, t.Data, height, groups)
		zeros := make([]uint8, p.rows*groups)
		for g := range groups {
			column := columns[4*g*height : 4*(g+1)*height]
			for r := range p.rows {
				zeros[r*groups+g] = get(column, r, bits)
			}
		}
		return zeros
	}
}

// takeInt8Zeros reads zero points stored one a byte, in the shape of the
// scales: signed, so half the range is added.
func (p *reader) takeInt8Zeros(bits, groups int) func() []uint8 {
	t := p.take("weight_zero_point", p.parts["weight_scale"].Shape, dtype.I8)
	return func() []uint8 {
		half := uint8(1) << (bits - 1)
		zeros := make([]uint8, p.rows*groups)
		symmetric := true
		for i := range zeros {
			z := t.Data[i%len(t.Data)] // a single one serves all
			symmetric = symmetric && z == 0
			zeros[i] = (z + half) & (1<<bits - 1)
		}
		if symmetric {
			return nil
		}
		return zeros
	}
}

func (p *reader) takeIndex(name string) []int32 {
	if !has(p.parts, name) {
		return nil
	}
	t := p.take(name, []int{p.cols}, dtype.I32, dtype.I64)
	if p.err != nil {
		return nil
	}
	if t.Type == dtype.I32 {
		return int32s(t)
	}
	out := make([]int32, p.cols)
	for i := range out {
		out[i] = int32(min(max(intAt(t, i), -1), math.MaxInt32))
	}
	return out
}

// intAt returns a number of an integer tensor, -1 when it is too short.
func intAt(t raw.Tensor, i int) int {
	switch {
	case t.Type == dtype.I64 && len(t.Data) >= 8*i+8:
		return int(int64(binary.LittleEndian.Uint64(t.Data[8*i:])))
	case t.Type == dtype.I32 && len(t.Data) >= 4*i+4:
		return int(int32(word(t.Data, i)))
	}
	return -1
}

func (c *Config) layoutPacked(s Scheme, rows, cols int) ([]raw.Tensor, error) {
	if s.Bits < 2 || s.Bits > 8 {
		return nil, fmt.Errorf("%d bits, compressed-tensors holds 2 to 8", s.Bits)
	}
	if s.GroupSize > 0 && cols%s.GroupSize != 0 {
		return nil, fmt.Errorf("groups of %d do not divide %d columns, which compressed-tensors needs", s.GroupSize, cols)
	}
	groups := groupsIn(cols, s.GroupSize)
	parts := []raw.Tensor{
		{Name: "weight_packed", Type: dtype.I32, Shape: []int{rows, words(cols, s.Bits)}},
		{Name: "weight_scale", Type: c.ScaleType, Shape: []int{rows, groups}},
		{Name: "weight_shape", Type: dtype.I64, Shape: []int{2}},
	}
	if !s.Symmetric {
		parts = append(parts, raw.Tensor{Name: "weight_zero_point", Type: dtype.I32, Shape: []int{words(rows, s.Bits), groups}})
	}
	return parts, nil
}

var errActOrder = errors.New("act-order with groups is not held by compressed-tensors, which dropped it")

func (c *Config) encodePacked(g *kernels.Groups, out []raw.Tensor) error {
	if g.GroupOf != nil {
		return errActOrder
	}
	width, n := out[0].Shape[1], (g.Cols*g.Bits+7)/8
	for r := range g.Rows {
		copy(out[0].Data[4*r*width:4*(r+1)*width], g.Codes[r*n:(r+1)*n])
	}
	if err := c.putScales(out[1].Data, len(g.Scales), func(i int) float32 { return g.Scales[i] }); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(out[2].Data, uint64(g.Rows))
	binary.LittleEndian.PutUint64(out[2].Data[8:], uint64(g.Cols))
	if g.Zeros == nil {
		return nil
	}
	height, groups := out[3].Shape[0], out[3].Shape[1]
	columns := make([]byte, len(out[3].Data))
	for i, z := range g.Zeros {
		putCode(columns[4*(i%groups)*height:], i/groups, g.Bits, z)
	}
	transpose(out[3].Data, columns, groups, height)
	return nil
}
