package kernels

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

// CPU is the [Device] that computes on this machine's processors. Weights stay
// where they lie, in their own number format; activations are float32.
type CPU struct {
	*engine
}

// engine is what a CPU works with. It is apart from CPU so that a CPU that
// nothing refers to any more can be collected while workers still wait.
type engine struct {
	buffers
	ops     *ops
	pool    *pool
	jobs    jobs
	compute Compute
	panels  arena // of rearranged weights
	angles  map[*Rope]*angles
}

// buffers is the memory that operations work with.
type buffers struct {
	free      []*Tensor
	scratch   []scratch  // per worker
	packed    []float32  // the activations of a matrix product, see gemm.go
	packedB   []float32  // the second matrix of an update, see update.go
	sums      []float32  // of parts of rows, see gradient.go
	quantized quantized  // the activations of an integer product
	split     splitTiles // see attention_split.go
}

// retired are the buffers of closed devices, for the next ones: solvers make a
// device for every matrix, and new memory has to be cleared page by page.
var retired sync.Pool

// scratch is memory of one worker that a part of a task may use until it
// returns.
type scratch struct {
	row   []float32 // a dequantized row, or some
	panel []float32 // packed weights
	tile  []float32 // a tile that does not fit the result
	bytes []byte    // a row of codes
	attn  attentionTile

	gradient gradientTiles
}

// jobs are the tasks, kept so that running one allocates nothing.
type jobs struct {
	product product
	dots    dots
	pack    pack
	update  update
	moments momentsTask
	rows    rowTask
	attend  attend

	quantize quantizeTask
	integer  integerProduct
	panels   packPanels
}

var _ Device = (*CPU)(nil)

// NewCPU returns a device that computes on the given number of threads;
// threads <= 0 means GOMAXPROCS. It uses the best instructions that the machine
// has and the environment variable LLMC_CPU (portable, avx2, avx512) allows;
// [CheckLevel] tells whether that variable can be honoured.
func NewCPU(threads int) *CPU { return NewCPUFor(Exact, threads) }

// NewCPUFor is [NewCPU] for either way to compute.
func NewCPUFor(compute Compute, threads int) *CPU {
	c := newCPU(threads, chooseLevel(os.Getenv("LLMC_CPU")))
	c.compute = compute
	return c
}

func newCPU(threads int, o *ops) *CPU {
	e := &engine{ops: o, pool: newPool(threads), angles: map[*Rope]*angles{}}
	if b, ok := retired.Get().(*buffers); ok {
		e.buffers = *b
	}
	for len(e.scratch) < e.pool.threads {
		e.scratch = append(e.scratch, scratch{})
	}
	c := &CPU{e}
	runtime.AddCleanup(c, func(p *pool) { _ = p.close() }, e.pool)
	return c
}

// Close ends the device's threads. The device must not be used after it.
func (c *CPU) Close() {
	if c.pool.close() {
		b := c.buffers
		c.buffers = buffers{}
		retired.Put(&b)
	}
}

// Name says which instructions and how many threads the device uses.
func (c *CPU) Name() string {
	s := "s"
	if c.pool.threads == 1 {
		s = ""
	}
	return fmt.Sprintf("cpu %s, %d thread%s", c.ops.level, c.pool.threads, s)
}

// Compute is how the device multiplies with packed weights.
func (c *CPU) Compute() Compute { return c.compute }

// Threads is the number of threads that the device uses.
func (c *CPU) Threads() int { return c.pool.threads }

// wasteful is how much larger than asked for a tensor's memory may be, so that
// a vector does not keep the logits of a batch.
const wasteful = 8

// NewTensor returns a zeroed tensor of shape [rows, cols], in memory of a freed
// one where that fits.
func (c *CPU) NewTensor(rows, cols int) *Tensor {
	t, used := c.take(rows, cols)
	if used {
		clear(t.Data)
	}
	return t
}

// NewResult is NewTensor for what an operation will set all of: what is in it is
// not defined.
func (c *CPU) NewResult(rows, cols int) *Tensor {
	t, _ := c.take(rows, cols)
	return t
}

// take returns a tensor and whether its memory was used before.
func (c *CPU) take(rows, cols int) (t *Tensor, used bool) {
	n := rows * cols
	best := -1
	for i, t := range c.free {
		size := cap(t.Data)
		if size >= n && size <= wasteful*n+wasteful && (best < 0 || size < cap(c.free[best].Data)) {
			best = i
		}
	}
	if best < 0 {
		return &Tensor{Rows: rows, Cols: cols, Data: alignedFloats(n)}, false
	}
	t = c.free[best]
	last := len(c.free) - 1
	c.free[best], c.free = c.free[last], c.free[:last]
	t.Rows, t.Cols, t.Data = rows, cols, t.Data[:n]
	return t, true
}

// maxFree is how many freed tensors are kept: more than one forward pass uses.
const maxFree = 64

// Free gives a tensor's memory back for reuse; t must not be used again.
func (c *CPU) Free(t *Tensor) {
	if len(c.free) == maxFree {
		// The smallest is the cheapest to make again.
		least := 0
		for i := range c.free {
			if cap(c.free[i].Data) < cap(c.free[least].Data) {
				least = i
			}
		}
		c.free[least] = t
		return
	}
	c.free = append(c.free, t)
}

// Trim gives back the memory that is kept for reuse: freed tensors and what
// operations work with. The next operations take it again.
func (c *CPU) Trim() {
	c.buffers = buffers{scratch: make([]scratch, c.pool.threads)}
}

// Write copies src, row-major, into dst, which has as many elements.
func (c *CPU) Write(dst *Tensor, src []float32) {
	mustEqual("Write", len(src), len(dst.Data))
	copy(dst.Data, src)
}

// Read copies src, row-major, into dst, which has as many elements.
func (c *CPU) Read(dst []float32, src *Tensor) {
	mustEqual("Read", len(dst), len(src.Data))
	copy(dst, src.Data)
}

// row returns row i of t.
func (t *Tensor) row(i int) []float32 { return t.Data[i*t.Cols:][:t.Cols:t.Cols] }

// mustEqual panics when two lengths that the caller vouches for differ.
func mustEqual(op string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("kernels: %s: a shape is %d and must be %d", op, got, want))
	}
}

// floats returns buf with length n, with new memory if it is too small. What
// is in it is not defined.
func floats(buf *[]float32, n int) []float32 {
	if cap(*buf) < n {
		*buf = alignedFloats(n)
	}
	*buf = (*buf)[:n]
	return *buf
}
