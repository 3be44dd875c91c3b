// Package hfquant reads and writes the quantized linears of Hugging Face
// checkpoints: compressed-tensors, GPTQ and AWQ.
//
// [FromConfig] reads what a config.json says, [Config.Decode] turns the tensors
// of one linear into a kernels.Matrix. The other way, [NewCompressed], [NewGPTQ]
// and [NewAWQ] describe a checkpoint to be, [Config.Layout] names its tensors
// and [Config.Encode] fills them; [Config.JSON] is the quantization_config that
// goes into config.json.
package hfquant

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/internal/jsonobj"
	"llmc/kernels"
)

// Method is the quant_method of a checkpoint.
type Method string

// The supported methods.
const (
	CompressedTensors Method = "compressed-tensors"
	GPTQ              Method = "gptq"
	AWQ               Method = "awq"
)

// The formats of the methods: how codes are laid out.
const (
	PackQuantized  = "pack-quantized"  // compressed-tensors: codes in int32 words
	IntQuantized   = "int-quantized"   // compressed-tensors: one int8 per code
	FloatQuantized = "float-quantized" // compressed-tensors: float8
	NaiveQuantized = "naive-quantized" // compressed-tensors: either, where activations are not rounded
	MixedPrecision = "mixed-precision" // compressed-tensors: every group says its own
	GPTQv1         = "gptq"            // zero points stored minus one
	GPTQv2         = "gptq_v2"         // zero points stored as they are
	AWQGemm        = "gemm"
)

// Config is a checkpoint's quantization_config.
type Config struct {
	Method  Method
	Format  string   // one of the constants above
	Schemes []Scheme // one for GPTQ and AWQ; at least one
	Ignore  []string // modules left alone: names, class names, or "re:" and a pattern
	DescAct bool     // GPTQ: columns were quantized in the order of their importance
	// ScaleType is the number format that Encode stores scales in: F16 for
	// GPTQ and AWQ, the model's own for compressed-tensors.
	ScaleType dtype.Type
	// Version is the release of the package that wrote the checkpoint, when it
	// says so: it settles the few layouts that look alike.
	Version string
	// Unapplied lists what the configuration has an engine round besides, which
	// no forward pass here does: "the outputs of linears (group_0)".
	Unapplied []string
}

// Scheme is how the weights of some linears are stored.
type Scheme struct {
	Name      string   // of the group in compressed-tensors' config_groups
	Targets   []string // like Config.Ignore; "Linear" is every linear
	Bits      int
	GroupSize int // columns that share a scale; 0: the whole row
	Symmetric bool
	Float     bool // float8 instead of integers
	PerTensor bool // one scale for the whole matrix
	Block     [2]int
	// Inputs is how activations are rounded. A static scale is that of one
	// linear: [Config.Inputs] reads it, [Config.Encode] takes it.
	Inputs kernels.Rounding
}

// format is how compressed-tensors stores the scheme when it is free to
// choose, which its loader takes for granted.
func (s *Scheme) format() string {
	rounded := s.Inputs.Bits > 0
	switch {
	case s.Float && rounded:
		return FloatQuantized
	case s.Float:
		return NaiveQuantized
	case rounded:
		return IntQuantized
	}
	return PackQuantized
}

// NewCompressed describes a compressed-tensors checkpoint. Scales are stored as
// scaleType: the number format of the rest of the model. Integer codes are
// packed; where activations are rounded, and for float8, every number takes a
// byte.
func NewCompressed(schemes []Scheme, ignore []string, scaleType dtype.Type) *Config {
	format := schemes[0].format()
	for i := range schemes {
		if schemes[i].format() != format {
			format = MixedPrecision
		}
	}
	return &Config{Method: CompressedTensors, Format: format, Schemes: schemes, Ignore: ignore, ScaleType: scaleType}
}

// NewGPTQ describes a GPTQ checkpoint. Symmetric codes are written as version
// 1, which every engine reads. Asymmetric ones are written as version 2:
// version 1 cannot hold a zero point of 0 where readers add one to whole words.
func NewGPTQ(bits, groupSize int, symmetric, descAct bool) *Config {
	format := GPTQv2
	if symmetric {
		format = GPTQv1
	}
	return &Config{
		Method: GPTQ, Format: format, DescAct: descAct, ScaleType: dtype.F16,
		Schemes: []Scheme{{Bits: bits, GroupSize: groupSize, Symmetric: symmetric}},
	}
}

// NewAWQ describes an AWQ checkpoint for the gemm kernels, which know 4 bits
// with zero points. ignore are the modules that stay as they are.
func NewAWQ(groupSize int, ignore []string) *Config {
	return &Config{
		Method: AWQ, Format: AWQGemm, ScaleType: dtype.F16, Ignore: ignore,
		Schemes: []Scheme{{Bits: 4, GroupSize: groupSize}},
	}
}

// FromConfig reads the quantization_config of a config.json. A checkpoint that
// has none is not quantized: nil and no error.
func FromConfig(configJSON []byte) (*Config, error) {
	obj, err := jsonobj.Parse(configJSON)
	if err != nil {
		return nil, fault.Invalid("config.json: %w", err)
	}
	for _, key := range []string{"quantization_config", "compression_config"} {
		if obj.Has(key) {
			return Parse(obj.Values[key])
		}
	}
	if obj.Has("text_config") {
		return FromConfig(obj.Values["text_config"])
	}
	return nil, nil
}

// Parse reads the object that config.json calls quantization_config.
func Parse(data []byte) (*Config, error) {
	var raw struct {
		Method Method `json:"quant_method"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fault.Invalid("quantization_config: %w", err)
	}
	var c *Config
	var err error
	switch raw.Method {
	case CompressedTensors:
		c, err = parseCompressed(data)
	case GPTQ:
		c, err = parseGPTQ(data)
	case AWQ:
		c, err = parseAWQ(data)
	default:
		err = fmt.Errorf("quant_method is %.100q, supported are compressed-tensors, gptq, awq", raw.Method)
	}
	if err != nil {
		return nil, fault.Invalid("quantization_config: %w", err)
	}
	return c, nil
}

type compressedJSON struct {
	Groups  map[string]groupJSON `json:"config_groups"`
	Format  string               `json:"format"`
	Ignore  []string             `json:"ignore"`
	Method  Method               `json:"quant_method"`
	Status  string               `json:"quantization_status"`
	Version string               `json:"version,omitempty"`
	KVCache *argsJSON            `json:"kv_cache_scheme,omitempty"`
}

type groupJSON struct {
	Targets []string  `json:"targets"`
	Weights *argsJSON `json:"weights"`
	Inputs  *argsJSON `json:"input_activations,omitempty"`
	Outputs *argsJSON `json:"output_activations,omitempty"`
	Format  string    `json:"format,omitempty"`
}

// argsJSON says how weights or activations are rounded.
type argsJSON struct {
	Bits      int    `json:"num_bits"`
	Type      string `json:"type"`
	Symmetric *bool  `json:"symmetric"`
	Strategy  string `json:"strategy"`
	GroupSize *int   `json:"group_size,omitempty"`
	Block     []int  `json:"block_structure,omitempty"`
	Dynamic   any    `json:"dynamic"`
}

func (a *argsJSON) symmetric() bool { return a.Symmetric == nil || *a.Symmetric }

func (a *argsJSON) groupSize() int {
	if a.GroupSize == nil {
		return 0
	}
	return max(*a.GroupSize, 0)
}

func parseCompressed(data []byte) (*Config, error) {
	var in compressedJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	c := &Config{Method: CompressedTensors, Format: in.Format, Ignore: in.Ignore, Version: in.Version, ScaleType: dtype.BF16}
	names := make([]string, 0, len(in.Groups))
	for name := range in.Groups {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		g := in.Groups[name]
		if g.Format != "" {
			c.Format = g.Format
		}
		if g.Outputs != nil {
			c.Unapplied = append(c.Unapplied, fmt.Sprintf("the outputs of linears (%s) to %d bits", name, g.Outputs.Bits))
		}
		if g.Weights == nil {
			continue
		}
		s, err := g.scheme(name)
		if err != nil {
			return nil, err
		}
		c.Schemes = append(c.Schemes, s)
	}
	if in.KVCache != nil {
		c.Unapplied = append(c.Unapplied, fmt.Sprintf("keys and values to %d bits", in.KVCache.Bits))
	}
	switch {
	case len(c.Schemes) == 0:
		return nil, fmt.Errorf("config_groups quantizes no weights")
	case !slices.Contains([]string{PackQuantized, IntQuantized, FloatQuantized, NaiveQuantized, MixedPrecision}, c.Format):
		return nil, fmt.Errorf("format is %.100q, supported are pack-quantized, int-quantized, float-quantized", c.Format)
	}
	return c, nil
}

func (g *groupJSON) scheme(name string) (Scheme, error) {
	w := g.Weights
	s := Scheme{Name: name, Targets: g.Targets, Bits: w.Bits, Float: w.Type == "float", Symmetric: w.symmetric()}
	switch w.Strategy {
	case "group", "":
		s.GroupSize = w.groupSize()
	case "channel":
	case "tensor":
		s.PerTensor = true
	case "block":
		if len(w.Block) != 2 || w.Block[0] < 1 || w.Block[1] < 1 {
			return s, fmt.Errorf("%s: block_structure is %v, allowed are two numbers from 1 on", name, w.Block)
		}
		s.Block = [2]int{w.Block[0], w.Block[1]}
	default:
		return s, fmt.Errorf("%s: strategy is %.100q, supported are group, channel, tensor, block", name, w.Strategy)
	}
	if s.Bits < 2 || s.Bits > 8 || s.Float && s.Bits != 8 {
		return s, fmt.Errorf("%s: num_bits is %d of type %.20q, supported are 2 to 8 of int, 8 of float", name, s.Bits, w.Type)
	}
	if g.Inputs == nil {
		return s, nil
	}
	var err error
	if s.Inputs, err = g.Inputs.rounding(); err != nil {
		return s, fmt.Errorf("%s: input_activations: %w", name, err)
	}
	return s, nil
}

// rounding reads how activations are rounded.
func (a *argsJSON) rounding() (kernels.Rounding, error) {
	r := kernels.Rounding{Bits: a.Bits, Float: a.Type == "float", Asymmetric: !a.symmetric()}
	dynamic, ok := a.Dynamic.(bool)
	r.Static = !dynamic
	switch {
	case r.Bits < 2 || r.Bits > 8 || r.Float && r.Bits != 8:
		return r, fmt.Errorf("num_bits is %d of type %.20q, supported are 2 to 8 of int, 8 of float", a.Bits, a.Type)
	case !ok && a.Dynamic != nil:
		return r, fmt.Errorf("dynamic is %.20q, supported are true and false", fmt.Sprint(a.Dynamic))
	case dynamic && a.Strategy == "group" && a.groupSize() > 0:
		r.Group = a.groupSize()
	case dynamic && a.Strategy != "token", !dynamic && a.Strategy != "tensor" && a.Strategy != "":
		return r, fmt.Errorf("strategy is %.20q with dynamic %t, supported are token and group with dynamic, tensor without", a.Strategy, dynamic)
	}
	return r, nil
}

type gptqJSON struct {
	Bits           int    `json:"bits"`
	GroupSize      int    `json:"group_size"`
	DescAct        bool   `json:"desc_act"`
	Sym            *bool  `json:"sym"`
	LMHead         bool   `json:"lm_head"`
	Method         Method `json:"quant_method"`
	Format         string `json:"checkpoint_format"`
	OldFormat      string `json:"format,omitempty"`
	TrueSequential bool   `json:"true_sequential"`
	Damp           any    `json:"damp_percent,omitempty"`
	Marlin         bool   `json:"is_marlin_format,omitempty"` // for one engine's kernels, in its own order
	// Dynamic has other settings for modules by pattern; "-:" before one leaves
	// what it matches alone, as GPTQModel and vLLM read it.
	Dynamic map[string]map[string]any `json:"dynamic,omitempty"`
}

func parseGPTQ(data []byte) (*Config, error) {
	var in gptqJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	if in.Format == "" {
		in.Format = in.OldFormat
	}
	if in.Format == "" {
		in.Format = GPTQv1
	}
	if in.Marlin {
		return nil, fmt.Errorf("is_marlin_format is true, supported is only the common order of codes")
	}
	if in.Format != GPTQv1 && in.Format != GPTQv2 {
		return nil, fmt.Errorf("checkpoint_format is %.100q, supported are gptq, gptq_v2", in.Format)
	}
	if !slices.Contains([]int{2, 3, 4, 8}, in.Bits) {
		return nil, fmt.Errorf("bits is %d, supported are 2, 3, 4, 8", in.Bits)
	}
	c := NewGPTQ(in.Bits, max(in.GroupSize, 0), in.Sym == nil || *in.Sym, in.DescAct)
	c.Format = in.Format
	for key := range in.Dynamic {
		if pattern, ok := strings.CutPrefix(key, "-:"); ok {
			c.Ignore = append(c.Ignore, "re:"+pattern)
		}
	}
	sort.Strings(c.Ignore)
	return c, nil
}

type awqJSON struct {
	Bits      int      `json:"bits"`
	GroupSize int      `json:"group_size"`
	ZeroPoint bool     `json:"zero_point"`
	Version   string   `json:"version"`
	Format    string   `json:"checkpoint_format,omitempty"` // GPTQModel's key beside version
	Method    Method   `json:"quant_method"`
	Ignore    []string `json:"modules_to_not_convert"`
}

func parseAWQ(data []byte) (*Config, error) {
	in := awqJSON{Bits: 4, GroupSize: 128, ZeroPoint: true, Version: AWQGemm}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	if in.Format != "" {
		in.Version = in.Format
	}
	if v := strings.ToLower(in.Version); v != AWQGemm {
		return nil, fmt.Errorf("version is %.100q, supported is gemm", in.Version)
	}
	if in.Bits != 4 {
		return nil, fmt.Errorf("bits is %d, supported is 4", in.Bits)
	}
	return NewAWQ(max(in.GroupSize, 0), in.Ignore), nil
}

// JSON is the object that config.json calls quantization_config, with exactly
// the keys that the loaders of transformers and vLLM accept.
func (c *Config) JSON() ([]byte, error) {
	switch c.Method {
	case GPTQ:
		s := c.Schemes[0]
		dynamic := map[string]map[string]any{}
		for _, ignored := range c.Ignore {
			dynamic["-:"+strings.TrimPrefix(ignored, "re:")] = map[string]any{}
		}
		return json.Marshal(gptqJSON{
			Bits: s.Bits, GroupSize: orMinusOne(s.GroupSize), DescAct: c.DescAct, Sym: &s.Symmetric,
			Method: GPTQ, Format: c.Format, TrueSequential: true, Damp: 0.01, Dynamic: dynamic,
		})
	case AWQ:
		return json.Marshal(awqJSON{
			Bits: 4, GroupSize: orMinusOne(c.Schemes[0].GroupSize), ZeroPoint: true,
			Version: AWQGemm, Method: AWQ, Ignore: append([]string{}, c.Ignore...),
		})
	}
	out := compressedJSON{
		Groups: map[string]groupJSON{}, Format: c.Format, Ignore: append([]string{}, c.Ignore...),
		Method: CompressedTensors, Status: "compressed",
	}
	for i, s := range c.Schemes {
		name := s.Name
		if name == "" {
			name = fmt.Sprintf("group_%d", i)
		}
		g := groupJSON{Targets: s.Targets, Weights: s.weightsJSON(), Inputs: inputsJSON(s.Inputs)}
		if c.Format == MixedPrecision {
			g.Format = s.format()
		}
		out.Groups[name] = g
	}
	return json.Marshal(out)
}

// numberType is what compressed-tensors calls a kind of numbers.
func numberType(float bool) string {
	if float {
		return "float"
	}
	return "int"
}

func (s *Scheme) weightsJSON() *argsJSON {
	w := &argsJSON{Bits: s.Bits, Type: numberType(s.Float), Symmetric: &s.Symmetric, Strategy: "channel", Dynamic: false}
	switch {
	case s.GroupSize > 0:
		w.Strategy, w.GroupSize = "group", &s.GroupSize
	case s.PerTensor && s.format() != PackQuantized:
		w.Strategy = "tensor"
	}
	return w
}

// inputsJSON is nil for activations that are left as they are.
func inputsJSON(r kernels.Rounding) *argsJSON {
	if r.Bits == 0 {
		return nil
	}
	symmetric := !r.Asymmetric
	a := &argsJSON{Bits: r.Bits, Type: numberType(r.Float), Symmetric: &symmetric, Strategy: "token", Dynamic: !r.Static}
	switch {
	case r.Static:
		a.Strategy = "tensor"
	case r.Group > 0:
		a.Strategy, a.GroupSize = "group", &r.Group
	}
	return a
}

func orMinusOne(groupSize int) int {
	if groupSize == 0 {
		return -1
	}
	return groupSize
}

// SchemeOf returns the scheme of a linear by the name of its module, and false
// for one that is left alone. As in compressed-tensors, an exact name stands
// before a pattern, and a pattern before a class.
func (c *Config) SchemeOf(module string) (Scheme, bool) {
	if c.Method != CompressedTensors {
		return c.Schemes[0], !c.skips(module)
	}
	for _, ignored := range c.Ignore {
		if matches(ignored, module) {
			return Scheme{}, false
		}
	}
	best, found := Scheme{}, -1
	pattern := ""
	for _, s := range c.Schemes {
		for _, t := range s.Targets {
			rank := rankOf(t, module)
			// Of two patterns that match, the one that sorts first counts.
			if rank > found || rank == found && rank == 1 && t < pattern {
				best, found, pattern = s, rank, t
			}
		}
	}
	return best, found >= 0
}

// rankOf says how closely a target means a module: 2 by name, 1 by pattern, 0
// by class, -1 not at all.
func rankOf(target, module string) int {
	switch {
	case target == module:
		return 2
	case target == "Linear":
		return 0
	case matches(target, module):
		return 1
	}
	return -1
}

// matches reports whether a target names a module: exactly, or by a pattern
// that matches from its beginning. A pattern that Go's regexp does not know
// matches nothing.
func matches(target, module string) bool {
	pattern, ok := strings.CutPrefix(target, "re:")
	if !ok {
		return target == module
	}
	re, err := regexp.Compile("^(?:" + pattern + ")")
	return err == nil && re.MatchString(module)
}

// skips reports whether AWQ's modules_to_not_convert holds a part of the
// module's name.
func (c *Config) skips(module string) bool {
	return slices.ContainsFunc(c.Ignore, func(part string) bool { return strings.Contains(module, part) })
}
