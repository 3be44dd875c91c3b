package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"llmc/dtype"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
	"llmc/quantize"
)

// schemeOptions are the flags that say what becomes of activations, and
// --scheme, which names the usual combinations.
type schemeOptions struct {
	scheme      string
	activations string
	smooth      float64

	float bool // weights are 8-bit floats
}

// preset is what a name of --scheme stands for.
type preset struct {
	name        string
	bits        int
	float       bool
	asymmetric  bool
	groupSize   string
	activations string
}

// presets have the names and the meanings that llm-compressor gives them.
var presets = []preset{
	{name: "W4A16", bits: 4, groupSize: "128", activations: "none"},
	{name: "W4A16_ASYM", bits: 4, groupSize: "128", asymmetric: true, activations: "none"},
	{name: "W8A16", bits: 8, groupSize: "128", activations: "none"},
	{name: "W8A8", bits: 8, groupSize: "channel", activations: "dynamic"},
	{name: "FP8", bits: 8, float: true, groupSize: "tensor", activations: "static"},
	{name: "FP8_DYNAMIC", bits: 8, float: true, groupSize: "channel", activations: "dynamic"},
}

func presetNames() []string {
	var names []string
	for _, p := range presets {
		names = append(names, p.name)
	}
	return names
}

// activationKinds are what --activations may be.
var activationKinds = []string{"none", "dynamic", "static"}

// settleScheme puts what --scheme stands for in the place of flags that were
// not given.
func (o *quantizeOptions) settleScheme() error {
	if o.scheme == "" {
		if o.activations != "none" && !o.given("group-size") {
			o.groupSize = "channel"
		}
		return nil
	}
	for _, flag := range []string{"bits", "type"} {
		if o.given(flag) {
			return fault.Usage("--scheme %s and --%s both say how small", o.scheme, flag)
		}
	}
	at := slices.IndexFunc(presets, func(p preset) bool { return strings.EqualFold(p.name, o.scheme) })
	if at < 0 {
		return nonlinearHint(fault.Usage("--scheme is %q, allowed are %s", o.scheme, strings.Join(presetNames(), ", ")), o.scheme)
	}
	p := presets[at]
	o.scheme, o.bits, o.float = p.name, p.bits, p.float
	if !o.given("group-size") {
		o.groupSize = p.groupSize
	}
	if !o.given("symmetric") && !o.given("asymmetric") {
		o.asymmetric = p.asymmetric
	}
	if !o.given("activations") {
		o.activations = p.activations
	}
	return nil
}

// inputs settles how activations are rounded: to numbers like the weights'.
func (o *quantizeOptions) inputs() (kernels.Rounding, error) {
	switch {
	case !slices.Contains(activationKinds, o.activations):
		return kernels.Rounding{}, fault.Usage("--activations is %q, allowed are %s", o.activations, strings.Join(activationKinds, ", "))
	case o.activations == "none":
		return kernels.Rounding{}, nil
	case o.bits != 8:
		return kernels.Rounding{}, fault.Hint(fault.Usage("--activations %s goes with weights of 8 bits, not %d", o.activations, o.bits), "use --scheme W8A8 or FP8_DYNAMIC")
	}
	return kernels.Rounding{Bits: 8, Float: o.float, Static: o.activations == "static"}, nil
}

// smoothed puts SmoothQuant before a method, if it is asked for.
func (o *quantizeOptions) smoothed(m quantize.Method, in kernels.Rounding) (quantize.Method, error) {
	if !o.given("smooth") {
		return m, nil
	}
	_, scales := m.(quantize.Scaler)
	switch {
	case !(o.smooth > 0 && o.smooth < 1):
		return nil, fault.Usage("--smooth is %g, allowed is between 0 and 1", o.smooth)
	case in.Bits == 0:
		return nil, fault.Hint(fault.Usage("--smooth makes activations easier to round, and they are left as they are"), "add --scheme W8A8, or leave it out")
	case scales:
		return nil, fault.Usage("--smooth does not go with --method %s, which scales channels itself", m.Name())
	}
	return quantize.Smooth{Method: m, Alpha: o.smooth}, nil
}

// policy turns flags into what happens to which tensor.
func (o *quantizeOptions) policy(target quantize.Target) (quantize.Policy, error) {
	p := quantize.Policy{Ignore: o.ignore, Embeddings: o.embeddings, Head: o.head}
	var err error
	switch {
	case o.typeName != "" && o.bits != 0:
		return p, fault.Usage("--bits %d and --type %s both say how small", o.bits, o.typeName)
	case o.typeName == "" && !o.given("bits") && o.scheme == "":
		return p, fault.Hint(fault.Usage("neither --bits nor --type says how small"), "llmc quantize MODEL --bits 4, or --type Q4_K_M")
	case o.typeName == "" && (o.bits < quantize.MinBits || o.bits > quantize.MaxBits):
		return p, fault.Usage("--bits is %d, allowed are %d to %d", o.bits, quantize.MinBits, quantize.MaxBits)
	case target == quantize.GGUF:
		p.Mix, err = o.mix()
	case o.typeName != "":
		err = fault.Usage("--type %s is for GGUF, and --to is %s", o.typeName, target)
	default:
		p.UniformGroups = target == quantize.GPTQ || target == quantize.AWQ
		p.Scheme, err = o.groups(target)
	}
	if err != nil {
		return p, err
	}
	if p.Inputs, err = o.inputs(); err != nil {
		return p, err
	}
	p.Roles, err = o.roles(target, p.Scheme)
	return p, err
}

// mix settles the GGUF types.
func (o *quantizeOptions) mix() (quantize.Mix, error) {
	for _, flag := range groupFlags {
		if o.given(flag) {
			return quantize.Mix{}, fault.Hint(fault.Usage("--%s does not go with GGUF, whose types fix it", flag),
				"leave it out, or use --to compressed-tensors")
		}
	}
	if o.typeName != "" {
		mix, ok := quantize.ParseMix(o.typeName)
		if !ok {
			err := fault.Usage("--type is %q, allowed are %s", o.typeName, strings.Join(quantize.MixNames(), ", "))
			return mix, nonlinearHint(err, o.typeName)
		}
		return mix, nil
	}
	mix, ok := quantize.MixOfBits(o.bits)
	if !ok {
		return mix, fault.Hint(fault.Usage("GGUF has no type of %d bits", o.bits), "use --bits 6 or 8, or --to compressed-tensors")
	}
	return mix, nil
}

// groups settles codes in groups. The type of the scales depends on the model
// and is filled in later.
func (o *quantizeOptions) groups(target quantize.Target) (quantize.Scheme, error) {
	s := quantize.Scheme{Bits: o.bits, Float: o.float, Symmetric: !o.asymmetric && target != quantize.AWQ, ScaleType: dtype.F16}
	if o.symmetric {
		s.Symmetric = true
	}
	if o.symmetric && o.asymmetric {
		return s, fault.Usage("--symmetric and --asymmetric exclude each other")
	}
	switch o.groupSize {
	case "channel", "-1": // -1 is how GPTQ's configurations write it
		s.GroupSize = quantize.PerChannel
	case "tensor":
		s.GroupSize = quantize.PerTensor
	default:
		n, err := strconv.Atoi(o.groupSize)
		if err != nil || n < 1 || n > 1<<20 {
			return s, fault.Usage("--group-size is %q, allowed are a number of columns, channel and tensor", o.groupSize)
		}
		s.GroupSize = n
	}
	return s, s.Check()
}

// roles settles --bits-for.
func (o *quantizeOptions) roles(target quantize.Target, base quantize.Scheme) (map[model.Role]quantize.Scheme, error) {
	roles := map[model.Role]quantize.Scheme{}
	for _, text := range o.bitsFor {
		name, value, found := strings.Cut(text, "=")
		role, ok := model.ParseRole(name)
		if !found || !ok || !role.IsMatrix() {
			return nil, fault.Usage("--bits-for is %q, allowed is ROLE=BITS with a role of q, k, v, o, gate, up, down, embed, head", text)
		}
		s, err := roleScheme(target, base, value)
		if err != nil {
			return nil, fault.Usage("--bits-for %s: %w", text, err)
		}
		roles[role] = s
	}
	return roles, nil
}

// roleScheme is the scheme of one role: a number of bits, or in GGUF a type.
func roleScheme(target quantize.Target, base quantize.Scheme, value string) (quantize.Scheme, error) {
	bits, err := strconv.Atoi(value)
	if err == nil && target != quantize.GGUF {
		base.Bits = bits
		return base, base.Check()
	}
	if err == nil {
		t, ok := quantize.TypeOfBits(bits)
		if !ok {
			return base, fmt.Errorf("GGUF has no type of %d bits, allowed are 2, 3, 4, 5, 6, 8, 16", bits)
		}
		return quantize.TypeScheme(t), nil
	}
	mix, ok := quantize.ParseMix(value)
	if !ok || mix.Default.String() != mix.Name {
		return base, fmt.Errorf("%q is neither a number of bits nor a type such as Q6_K", value)
	}
	return quantize.TypeScheme(mix.Default), nil
}

// nonlinearHint adds to an error, if what was asked for is NF4, where its like is.
func nonlinearHint(err error, asked string) error {
	if !strings.EqualFold(asked, "nf4") {
		return err
	}
	return fault.Hint(err, "--type IQ4_NL has 4 bits with nonlinear levels, in GGUF")
}
