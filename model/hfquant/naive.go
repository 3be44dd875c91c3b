package hfquant

import (
	"fmt"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// The layouts of compressed-tensors that store a number in a byte: see
// compressors/naive_quantized of that package.

// planInt reads int-quantized: weight I8 [rows, cols] with weight_scale and
// maybe weight_zero_point beside it.
func (c *Config) planInt(module string, p *reader) (func() (kernels.Matrix, error), error) {
	weight := p.take("weight", []int{p.rows, p.cols}, dtype.I8)
	scale, groups := p.takeScale()
	zeros := p.takeZeros(8, groups, false)
	if p.err != nil {
		return nil, p.err
	}
	s, _ := c.SchemeOf(module)
	size, err := groupSizeOf(s.GroupSize, p.cols, groups)
	if err != nil {
		return nil, err
	}
	return func() (kernels.Matrix, error) {
		g := &kernels.Groups{Rows: p.rows, Cols: p.cols, Bits: 8, GroupSize: size, Zeros: zeros()}
		g.Codes = make([]byte, len(weight.Data))
		for i, b := range weight.Data {
			g.Codes[i] = b ^ 0x80
		}
		var err error
		g.Scales, err = p.scales(scale, groups)
		return g, err
	}, nil
}

// planFloat reads float-quantized: float8 with scales per tensor, channel,
// group or block.
func (c *Config) planFloat(module string, p *reader) (func() (kernels.Matrix, error), error) {
	weight := p.take("weight", []int{p.rows, p.cols}, dtype.F8E4M3, dtype.F8E5M2)
	s, _ := c.SchemeOf(module)
	high, wide := 1, p.cols
	var scale raw.Tensor
	if s.Block[0] > 0 {
		high, wide = s.Block[0], s.Block[1]
		scale = p.take("weight_scale", []int{groupsIn(p.rows, high), groupsIn(p.cols, wide)}, scaleTypes...)
	} else {
		var groups int
		if scale, groups = p.takeScale(); p.err == nil {
			wide, p.err = groupSizeOf(s.GroupSize, p.cols, groups)
		}
		if scale.Elements() == 1 {
			high = p.rows
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	return func() (kernels.Matrix, error) {
		scales, err := floats("weight_scale", scale)
		if err != nil {
			return nil, err
		}
		return kernels.NewFloat8(p.rows, p.cols, weight.Type, weight.Data, high, wide, scales)
	}, nil
}

// Inputs returns how the activations that a linear multiplies are rounded;
// module is its name without the last part.
func (c *Config) Inputs(module string, parts Parts) (kernels.Rounding, error) {
	if c.Method != CompressedTensors {
		return kernels.Rounding{}, nil
	}
	s, _ := c.SchemeOf(module)
	r := s.Inputs
	if !r.Static {
		return r, nil
	}
	p := &reader{parts: parts}
	scale := p.takeOne("input_scale", scaleTypes...)
	if p.err != nil {
		return r, p.err
	}
	v, err := floats("input_scale", scale)
	if err != nil {
		return r, err
	}
	if r.Scale = v[0]; !(r.Scale > 0) {
		return r, fmt.Errorf("input_scale is %g, allowed is more than 0", r.Scale)
	}
	if r.Asymmetric && has(parts, "input_zero_point") {
		zero := p.takeOne("input_zero_point", dtype.I8)
		if p.err != nil {
			return r, p.err
		}
		r.Zero = float32(int8(zero.Data[0]))
	}
	return r, nil
}

// takeOne is take for a part of a single number, whatever its dimensions.
func (p *reader) takeOne(name string, types ...dtype.Type) raw.Tensor {
	t := p.parts[name]
	if len(t.Shape) < 3 && t.Elements() == 1 {
		return p.take(name, t.Shape, types...)
	}
	return p.take(name, []int{1}, types...)
}

// layoutNaive lists weight I8 or F8_E4M3 [rows, cols], weight_scale
// [rows, groups], or [1] for one per tensor, and input_scale [1] where
// activations have a static one.
func (c *Config) layoutNaive(s Scheme, rows, cols int) ([]raw.Tensor, error) {
	weight := raw.Tensor{Name: "weight", Type: dtype.I8, Shape: []int{rows, cols}}
	if s.Float {
		weight.Type = dtype.F8E4M3
	}
	switch {
	case !s.Symmetric:
		return nil, fmt.Errorf("%s has no zero points for weights", s.format())
	case s.GroupSize > 0 && cols%s.GroupSize != 0:
		return nil, fmt.Errorf("groups of %d do not divide %d columns, which compressed-tensors needs", s.GroupSize, cols)
	}
	scale := raw.Tensor{Name: "weight_scale", Type: c.ScaleType, Shape: []int{rows, groupsIn(cols, s.GroupSize)}}
	if s.PerTensor {
		scale.Shape = []int{1}
	}
	parts := []raw.Tensor{weight, scale}
	if s.Inputs.Static {
		parts = append(parts, raw.Tensor{Name: "input_scale", Type: c.ScaleType, Shape: []int{1}})
	}
	return parts, nil
}

// encodeNaive fills the tensors of layoutNaive.
func (c *Config) encodeNaive(s Scheme, m kernels.Matrix, out []raw.Tensor) error {
	scales, err := numbersOf(m, out[0].Data)
	if err != nil {
		return err
	}
	if s.PerTensor {
		for _, v := range scales {
			if v != scales[0] {
				return fmt.Errorf("the scales %g and %g are to be one for the whole tensor", scales[0], v)
			}
		}
		scales = scales[:1]
	}
	if n := out[1].Elements(); len(scales) != n {
		return fmt.Errorf("the matrix has %d scales, %d are stored", len(scales), n)
	}
	if err := c.putScales(out[1].Data, len(scales), func(i int) float32 { return scales[i] }); err != nil {
		return err
	}
	if !s.Inputs.Static {
		return nil
	}
	if !(s.Inputs.Scale > 0) {
		return fmt.Errorf("the scale of the activations is %g, allowed is more than 0", s.Inputs.Scale)
	}
	return c.putScales(out[2].Data, 1, func(int) float32 { return s.Inputs.Scale })
}

// numbersOf writes a matrix's numbers, one a byte, and returns their scales.
func numbersOf(m kernels.Matrix, dst []byte) ([]float32, error) {
	switch m := m.(type) {
	case *kernels.Float8:
		if m.Type != dtype.F8E4M3 || m.High != 1 && m.High != m.Rows {
			return nil, fmt.Errorf("%s with scales for %d rows, written is F8_E4M3 with scales for one or all", m.Type, m.High)
		}
		copy(dst, m.Codes)
		return m.Scales, nil
	case *kernels.Groups:
		switch {
		case m.GroupOf != nil:
			return nil, errActOrder
		case m.Zeros != nil:
			return nil, fmt.Errorf("int-quantized has no zero points for weights")
		}
		row, half := make([]uint8, m.Cols), uint8(1)<<(m.Bits-1)
		for r := range m.Rows {
			m.RowCodes(row, r)
			for c, code := range row {
				dst[r*m.Cols+c] = code - half
			}
		}
		return m.Scales, nil
	}
	return nil, fmt.Errorf("the matrix to be written as codes is a %T", m)
}
