package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set by the width of its vectors.
type isa struct {
	suffix string
	lanes  int // float32 numbers of a vector
}

var (
	avx2   = isa{"AVX2", 8}
	avx512 = isa{"AVX512", 16}
)

func (s isa) wide() bool { return s.lanes == 16 }

// bytes is the size of a vector.
func (s isa) bytes() int { return 4 * s.lanes }

// gen writes functions for one instruction set.
type gen struct {
	*build.Context
	isa
	consts map[string]bool // data sections of the file
}

// begin starts a function; its name ends with the instruction set.
func (g *gen) begin(name, signature string, doc ...string) {
	g.Function(name + g.suffix)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	doc[0] = name + g.suffix + " " + doc[0]
	g.Doc(doc...)
	g.SignatureExpr(signature)
}

func (g *gen) end() {
	g.VZEROUPPER()
	g.RET()
}

// arg loads an integer or pointer parameter.
func (g *gen) arg(name string) reg.GPVirtual {
	r := g.GP64()
	g.Load(g.Param(name), r)
	return r
}

// scalar loads a float32 parameter into all lanes.
func (g *gen) scalar(name string) reg.VecVirtual {
	m, err := g.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	v := g.vec()
	g.VBROADCASTSS(m.Addr, v)
	return v
}

// broadcast loads a number into all lanes.
func (g *gen) broadcast(m operand.Mem) reg.VecVirtual {
	v := g.vec()
	g.VBROADCASTSS(m, v)
	return v
}

// inRegister returns a number in memory as a vector of it, and all else as it
// is.
func (g *gen) inRegister(op operand.Op) operand.Op {
	if m, ok := op.(operand.Mem); ok {
		return g.broadcast(m)
	}
	return op
}

// multiply sets dst to x*v; x is a vector or a number in memory, which AVX-512
// broadcasts on the way.
func (g *gen) multiply(x operand.Op, v, dst reg.VecVirtual) {
	if m, ok := x.(operand.Mem); ok && g.wide() {
		g.VMULPS_BCST(m, v, dst)
		return
	}
	g.VMULPS(g.inRegister(x), v, dst)
}

// plus sets dst to x+v, as multiply does.
func (g *gen) plus(x operand.Op, v, dst reg.VecVirtual) {
	if m, ok := x.(operand.Mem); ok && g.wide() {
		g.VADDPS_BCST(m, v, dst)
		return
	}
	g.VADDPS(g.inRegister(x), v, dst)
}

func (g *gen) vec() reg.VecVirtual {
	if g.wide() {
		return g.ZMM()
	}
	return g.YMM()
}

// half is a register of half a vector.
func (g *gen) half() reg.VecVirtual {
	if g.wide() {
		return g.YMM()
	}
	return g.XMM()
}

func (g *gen) vecs(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = g.vec()
	}
	return v
}

func (g *gen) zero(v reg.VecVirtual) { g.VXORPS(v, v, v) }

func (g *gen) zeros(n int) []reg.VecVirtual {
	v := g.vecs(n)
	for i := range v {
		g.zero(v[i])
	}
	return v
}

// move adds bytes to a pointer.
func (g *gen) move(p reg.GPVirtual, bytes int) { g.ADDQ(operand.U32(uint32(bytes)), p) }

// at is the vector number i from a pointer on.
func (g *gen) at(p reg.Register, i int) operand.Mem {
	return operand.Mem{Base: p, Disp: i * g.bytes()}
}

// bits returns a vector with the 32 bits in every lane.
func (g *gen) bits(x uint32) reg.VecVirtual {
	v := g.vec()
	g.VBROADCASTSS(g.word(x), v)
	return v
}

// number returns a vector with the number in every lane.
func (g *gen) number(x float32) reg.VecVirtual { return g.bits(math.Float32bits(x)) }

// word is a 32-bit constant in memory.
func (g *gen) word(x uint32) operand.Mem {
	name := fmt.Sprintf("word%08x", x)
	return g.table(name, x)
}

// table is a list of 32-bit constants in memory.
func (g *gen) table(name string, words ...uint32) operand.Mem {
	if g.consts[name] {
		return operand.NewDataAddr(operand.NewStaticSymbol(name), 0)
	}
	g.consts[name] = true
	m := g.StaticGlobal(name)
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, w := range words {
		g.AddDatum(4*i, operand.U32(w))
	}
	return m
}

// count emits a loop over n, which it counts down; body must not change it.
func (g *gen) count(label string, n reg.GPVirtual, body func()) {
	g.TESTQ(n, n)
	g.JZ(operand.LabelRef(label + "done"))
	g.Label(label)
	body()
	g.DECQ(n)
	g.JNZ(operand.LabelRef(label))
	g.Label(label + "done")
}

// low returns the lower half of a vector under another name.
func low(v reg.VecVirtual, wide bool) reg.Register {
	if wide {
		return v.AsY()
	}
	return v.AsX()
}

// high returns the upper half of a vector in a new register.
func (g *gen) high(v reg.VecVirtual) reg.VecVirtual {
	h := g.half()
	if g.wide() {
		g.VEXTRACTF64X4(operand.Imm(1), v, h)
	} else {
		g.VEXTRACTF128(operand.Imm(1), v, h)
	}
	return h
}

// fold adds up the lanes of a vector into the lowest, halves first; op is
// applied to (upper, lower, result).
func (g *gen) fold(v reg.VecVirtual, op func(ops ...operand.Op)) reg.Register {
	if g.wide() {
		h := g.YMM()
		g.VEXTRACTF64X4(operand.Imm(1), v, h)
		op(h, v.AsY(), v.AsY())
	}
	h := g.XMM()
	g.VEXTRACTF128(operand.Imm(1), v.AsY(), h)
	op(h, v.AsX(), v.AsX())
	g.VMOVHLPS(v.AsX(), h, h)
	op(h, v.AsX(), v.AsX())
	g.VMOVSHDUP(v.AsX(), h)
	op(h, v.AsX(), v.AsX())
	return v.AsX()
}
