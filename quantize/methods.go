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
	ActOrder     bool
	StaticGroups bool
}

// methods are the methods by name. A new one is a line here.
var methods = []struct {
	name string
	make func(Options) Method
}{
	{"rtn", func(o Options) Method { return RTN{Clip: o.Clip, Threads: o.Threads} }},
	{"gptq", func(o Options) Method { return GPTQSolver(o) }},
}

// NewMethod returns the method of a name.
func NewMethod(name string, o Options) (Method, error) {
	var known []string
	for _, m := range methods {
		if m.name == name {
			return m.make(o), nil
		}
		known = append(known, m.name)
	}
	return nil, fault.Usage("method %q is not known, allowed are %s", name, strings.Join(known, ", "))
}
