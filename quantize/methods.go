package quantize

import (
	"strings"

	"llmc/internal/fault"
)

// Options are what methods can be told.
type Options struct {
	Clip    Clip
	Threads int // 0 means one per core

	// Of methods that solve against a Hessian; see [GPTQSolver].
	Damp         float64
	FirstToken   float64
	ActOrder     bool
	StaticGroups bool
	Zeros        Zeros
	Pruner       Pruner
}

// methods are the methods by name. A new one is a line here.
var methods = []struct {
	name string
	clip Clip // how it chooses ranges unless told otherwise
	make func(Options) Method
}{
	{"rtn", ClipNone, func(o Options) Method { return RTN{Clip: o.Clip, Threads: o.Threads} }},
	{"gptq", ClipNone, func(o Options) Method { return GPTQSolver(o) }},
	{"awq", ClipOutput, func(o Options) Method { return AWQScaler{Clip: o.Clip, Threads: o.Threads, FirstToken: o.FirstToken} }},
	{"awq+gptq", ClipNone, func(o Options) Method {
		return AWQScaler{Threads: o.Threads, FirstToken: o.FirstToken, Rounder: GPTQSolver(o)}
	}},
}

// NewMethod returns the method of a name.
func NewMethod(name string, o Options) (Method, error) {
	var known []string
	for _, m := range methods {
		if m.name != name {
			known = append(known, m.name)
			continue
		}
		if o.Clip == ClipOutput && m.clip != ClipOutput {
			return nil, fault.Usage("method %s does not choose ranges by the output, allowed are clip none and mse", name)
		}
		return m.make(o), nil
	}
	return nil, fault.Usage("method %q is not known, allowed are %s", name, strings.Join(known, ", "))
}

// DefaultClip is how the method of a name chooses ranges unless told otherwise.
func DefaultClip(name string) Clip {
	for _, m := range methods {
		if m.name == name {
			return m.clip
		}
	}
	return ClipNone
}
