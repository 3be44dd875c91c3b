package hfquant

import (
	"fmt"
	"math"
	"slices"

	"llmc/dtype"
	"llmc/formats/raw"
	"llmc/kernels"
)

// Parts are the stored tensors of one linear, by the last part of their names:
// "qweight", "weight_scale".
type Parts map[string]raw.Tensor

// IsPacked reports whether parts are codes and scales, not a plain weight.
func IsPacked(parts map[string]raw.Tensor) bool {
	for _, name := range []string{"weight_packed", "qweight", "weight_scale"} {
		if _, ok := parts[name]; ok {
			return true
		}
	}
	return false
}

// Check reports whether the parts of a linear [rows, cols] have the types and
// shapes that Decode needs; module is its name without the last part. Nothing
// is read.
func (c *Config) Check(module string, parts Parts, rows, cols int) error {
	if _, err := c.plan(module, parts, rows, cols); err != nil {
		return err
	}
	_, err := c.Inputs(module, parts)
	return err
}

// Decode returns the weight [rows, cols] of a linear: codes and scales as
// kernels.Groups, float8 as kernels.Float8. Values are exactly those stored.
func (c *Config) Decode(module string, parts Parts, rows, cols int) (kernels.Matrix, error) {
	decode, err := c.plan(module, parts, rows, cols)
	if err != nil {
		return nil, err
	}
	return decode()
}

// plan checks types and shapes and returns what reads the values.
func (c *Config) plan(module string, parts Parts, rows, cols int) (func() (kernels.Matrix, error), error) {
	p := &reader{parts: parts, rows: rows, cols: cols}
	switch {
	case has(parts, "weight_packed"):
		return c.planPacked(module, p)
	case has(parts, "qweight") && c.Method == AWQ:
		return c.planAWQ(p)
	case has(parts, "qweight"):
		return c.planGPTQ(p)
	case has(parts, "weight") && parts["weight"].Type.IsFloat():
		return c.planFloat(module, p)
	case has(parts, "weight"):
		return c.planInt(module, p)
	}
	return nil, fmt.Errorf("weight_packed, qweight and weight are missing")
}

func has(parts Parts, name string) bool {
	_, ok := parts[name]
	return ok
}

// reader takes parts of one linear and keeps the first error.
type reader struct {
	parts      Parts
	rows, cols int
	err        error
}

// take returns a part that must have one of the types and the shape; -1 stands
// for any length of at least one.
func (p *reader) take(name string, shape []int, types ...dtype.Type) raw.Tensor {
	t, ok := p.parts[name]
	switch {
	case p.err != nil:
	case !ok:
		p.err = fmt.Errorf("%s is missing", name)
	case !slices.Contains(types, t.Type):
		p.err = fmt.Errorf("%s holds %s, allowed is %v", name, t.Type, types)
	case !fits(t.Shape, shape):
		p.err = fmt.Errorf("%s has shape %v, allowed is %s", name, t.Shape, shapeText(shape))
	case len(t.Data) != t.Elements()*t.Type.BlockBytes():
		p.err = fmt.Errorf("%s has %d bytes for shape %v of %s", name, len(t.Data), t.Shape, t.Type)
	}
	return t
}

func fits(shape, want []int) bool {
	if len(shape) != len(want) {
		return false
	}
	for i, n := range want {
		if n >= 0 && shape[i] != n || shape[i] < 1 {
			return false
		}
	}
	return true
}

func shapeText(shape []int) string {
	text := []any{}
	for _, n := range shape {
		if n < 0 {
			text = append(text, "any")
		} else {
			text = append(text, n)
		}
	}
	return fmt.Sprint(text)
}

var scaleTypes = []dtype.Type{dtype.F16, dtype.BF16, dtype.F32}

// floats decodes a part of scales; one that is not finite is an error.
func floats(name string, t raw.Tensor) ([]float32, error) {
	out := make([]float32, t.Elements())
	if err := dtype.Decode(out, t.Data, t.Type); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for i, v := range out {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("%s holds %v at %d, where a finite number is needed", name, v, i)
		}
	}
	return out, nil
}

// groupSizeOf settles how many columns share a scale: what the configuration
// says when that makes the number of groups stored, else an even split.
func groupSizeOf(said, cols, groups int) (int, error) {
	switch {
	case groups == 1:
		return cols, nil
	case said > 0 && (cols+said-1)/said == groups:
		return said, nil
	case cols%groups == 0:
		return cols / groups, nil
	}
	return 0, fmt.Errorf("%d groups do not divide %d columns", groups, cols)
}

// groupOf returns an act-order index for kernels.Groups: nil when it says no
// more than the group size does.
func groupOf(index []int32, groupSize, groups int) ([]int32, error) {
	plain := true
	for c, g := range index {
		if g < 0 || int(g) >= groups {
			return nil, fmt.Errorf("g_idx holds %d at column %d, allowed is 0 to %d", g, c, groups-1)
		}
		plain = plain && int(g) == c/groupSize
	}
	if plain {
		return nil, nil
	}
	return index, nil
}

// Layout names the tensors that Encode makes of a linear [rows, cols], with
// types and shapes but no data, in Encode's order. An error says why the
// format cannot hold it.
func (c *Config) Layout(s Scheme, rows, cols int) ([]raw.Tensor, error) {
	switch c.Method {
	case GPTQ:
		return c.layoutGPTQ(s, rows, cols)
	case AWQ:
		return c.layoutAWQ(s, rows, cols)
	}
	if s.format() == PackQuantized {
		return c.layoutPacked(s, rows, cols)
	}
	return c.layoutNaive(s, rows, cols)
}

// Encode returns the tensors that store m by the scheme s, named by their last
// parts. m is a *kernels.Groups, or a *kernels.Float8 for a scheme of float8.
// Scales are rounded to ScaleType: round them before the codes are chosen
// ([Config.RoundScale]), or the weights change.
func (c *Config) Encode(s Scheme, m kernels.Matrix) ([]raw.Tensor, error) {
	rows, cols := m.Shape()
	out, err := c.Layout(s, rows, cols)
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Data = make([]byte, out[i].Elements()*out[i].Type.BlockBytes())
	}
	if c.Method == CompressedTensors && s.format() != PackQuantized {
		return out, c.encodeNaive(s, m, out)
	}
	g, ok := m.(*kernels.Groups)
	if !ok {
		return nil, fmt.Errorf("the matrix to be written as codes is a %T", m)
	}
	switch c.Method {
	case GPTQ:
		err = c.encodeGPTQ(g, out)
	case AWQ:
		err = c.encodeAWQ(g, out)
	default:
		err = c.encodePacked(g, out)
	}
	return out, err
}

// RoundScale returns the nearest scale that the format can store, and false
// when there is none: too large, or so small that it would become zero.
func (c *Config) RoundScale(scale float32) (float32, bool) {
	r := scale
	switch c.ScaleType {
	case dtype.F16:
		r = dtype.F16ToF32(dtype.F32ToF16(scale))
	case dtype.BF16:
		r = dtype.BF16ToF32(dtype.F32ToBF16(scale))
	}
	ok := !math.IsInf(float64(r), 0) && !math.IsNaN(float64(r)) && (r != 0 || scale == 0)
	return r, ok
}

// putScales writes scales given by index i as ScaleType.
func (c *Config) putScales(dst []byte, n int, at func(i int) float32) error {
	for i := range n {
		v := at(i)
		r, ok := c.RoundScale(v)
		if !ok {
			return fmt.Errorf("the scale %g does not fit %s", v, c.ScaleType)
		}
		switch c.ScaleType {
		case dtype.F16:
			put16(dst, i, dtype.F32ToF16(r))
		case dtype.BF16:
			put16(dst, i, dtype.F32ToBF16(r))
		default:
			putWord(dst, i, math.Float32bits(r))
		}
	}
	return nil
}

// zeroOf returns a zero point, the middle code where g is symmetric.
func zeroOf(g *kernels.Groups, i int) uint8 {
	if g.Zeros == nil {
		return 1 << (g.Bits - 1)
	}
	return g.Zeros[i]
}

// groupsIn is how many scales a row has.
func groupsIn(cols, groupSize int) int {
	if groupSize <= 0 {
		return 1
	}
	return (cols + groupSize - 1) / groupSize
}
