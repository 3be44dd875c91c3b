package kernels

// Peak multiplies and adds in registers on every thread, as fast as the
// machine can, for some milliseconds, and returns the number of operations:
// what benchmarks measure themselves against.
func (c *CPU) Peak() float64 {
	t := &peakTask{ops: c.ops, done: make([]float64, c.pool.threads)}
	c.pool.run(c.pool.threads, t)
	return float64(len(t.done)) * t.done[0]
}

type peakTask struct {
	ops  *ops
	done []float64
}

func (t *peakTask) run(_, part int) { t.done[part] = multiplyAdd(t.ops) }

// multiplyAdd runs independent multiply-adds on registers, on one thread, and
// returns how many operations they are.
func multiplyAdd(o *ops) float64 {
	const k, repeat = 256, 300
	if o.peak != nil {
		const n = 200000
		return o.peak(n) * n
	}
	a, w, c := alignedFloats(o.mr*k), alignedFloats(k*o.nr), alignedFloats(o.mr*o.nr)
	for range repeat {
		o.micro(o.mr, k, a, k, w, c, o.nr, false)
	}
	return repeat * 2 * float64(o.mr) * float64(o.nr) * k
}
