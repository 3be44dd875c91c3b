package kernels

// Device owns weights and activations and runs the operations of a
// transformer on them. The CPU is one ([NewCPU]); a GPU can stand behind the
// same calls. Calls return when their result is ready to be used by the next
// call on the same device. Shapes that do not fit are a programming error and
// panic; a Device is for one goroutine at a time. NaN in an operand gives NaN
// in every result that depends on it.
type Device interface {
	// Name says what the device is, for reports: "cpu avx512, 2 threads".
	Name() string
	// Compute is how MatMul multiplies.
	Compute() Compute

	// Load makes a weight ready for MatMul. The matrix's memory must stay valid
	// as long as the weight is used, unless it was copied.
	Load(m Matrix) Weight
	// LoadTable makes a weight ready for Embed. The matrix's memory must stay
	// valid as long as the weight is used.
	LoadTable(m Matrix) Weight
	// NewTensor returns a zeroed tensor of shape [rows, cols].
	NewTensor(rows, cols int) *Tensor
	// NewResult is NewTensor for what an operation will set all of: what is in it
	// is not defined.
	NewResult(rows, cols int) *Tensor
	// Free gives a tensor's memory back for reuse; t must not be used again.
	Free(t *Tensor)
	// Write copies src, row-major, into dst, which has as many elements.
	Write(dst *Tensor, src []float32)
	// Read copies src, row-major, into dst, which has as many elements.
	Read(dst []float32, src *Tensor)

	// Embed sets row i of dst to row ids[i] of table.
	Embed(dst *Tensor, table Weight, ids []int32)
	// MatMul sets dst [n, out] to x [n, in] times wᵀ, w [out, in].
	MatMul(dst, x *Tensor, w Weight)
	// Select sets row i of dst to row rows[i] of x.
	Select(dst, x *Tensor, rows []int32)
	// AddRows adds row i of x, multiplied by scale[i], to row rows[i] of dst.
	// No row is there twice.
	AddRows(dst, x *Tensor, rows []int32, scale []float32)
	// AddGram adds xᵀx, x [n, cols], to dst [cols, cols]: the symmetric matrix
	// whose elements on and above the diagonal are right; [Mirror] gives the
	// others.
	AddGram(dst, x *Tensor)
	// AddMoments adds the rows of x [n, cols] to the moments of its columns.
	AddMoments(m *Moments, x *Tensor)
	// Add adds x to dst: the same shape, or one row added to every row.
	Add(dst, x *Tensor)
	// Scale multiplies every element of x by s.
	Scale(x *Tensor, s float32)
	// SoftCap sets every element of x to limit*tanh(x/limit).
	SoftCap(x *Tensor, limit float32)
	// RMSNorm normalizes every run of weight.Cols elements of x by its root
	// mean square and multiplies by weight [1, n] (arXiv 1910.07467). n is
	// x.Cols, or a divisor of it: then each head is normalized by itself.
	// dst may be x.
	RMSNorm(dst, x, weight *Tensor, eps float32)
	// Gate sets dst to act(gate) * up, elementwise. dst may be gate or up.
	Gate(dst, gate, up *Tensor, act Activation)
	// Round sets dst to the rounded numbers of x. dst may be x.
	Round(dst, x *Tensor, r Rounding)
	// Rotate applies rotary position embedding (arXiv 2104.09864) to every head
	// of headDim elements of x; row i is at position start+i.
	Rotate(x *Tensor, headDim int, rope *Rope, start int)

	// NewCache returns an empty cache of keys and values of one block, which
	// rounds them to bits.
	NewCache(kvHeads, headDim int, bits CacheBits) Cache
	// Attention appends k and v [n, kvHeads*headDim] to the cache and sets dst
	// [n, heads*headDim] to the causal attention of q [n, heads*headDim] over
	// all of it; row i of q stands at position cache.Len()-n+i after the append.
	Attention(dst, q, k, v *Tensor, cache Cache, spec AttentionSpec)
}

// Tensor is a row-major float32 matrix of activations [Rows, Cols] that a
// Device owns. A vector is one row.
type Tensor struct {
	Rows, Cols int
	Data       []float32 // host memory; nil when the device keeps it elsewhere
}

// Weight is a matrix that a device has made ready.
type Weight interface {
	// Shape returns the number of rows (outputs) and columns (inputs).
	Shape() (rows, cols int)
	// Copied reports whether MatMul reads memory of the device's own, so that
	// the matrix's need not be kept at hand.
	Copied() bool
}

// Cache holds the keys and values of one block for the positions seen so far.
// It grows as needed.
type Cache interface {
	// Len is the number of positions held.
	Len() int
	// Truncate forgets all positions from n on.
	Truncate(n int)
}

// Activation is the nonlinearity of a gated feed-forward layer.
type Activation uint8

// The activations of the supported families.
const (
	SiLU     Activation = iota // x / (1 + exp(-x))
	GELUTanh                   // the tanh approximation of GELU (arXiv 1606.08415, section 2)
	GELU                       // x * Phi(x), by the error function
	ReLU

	numActivations
)

// Rope is how rotary position embedding turns pairs of elements: pair j of a
// head turns by position*InvFreq[j], and cosine and sine are multiplied by
// Scale (YaRN's attention factor, 1 otherwise). Elements past 2*len(InvFreq)
// of a head are left alone. A Rope must not change once a device has used it.
type Rope struct {
	InvFreq     []float64
	Scale       float64
	Interleaved bool // pairs are (2j, 2j+1), as GGUF's llama family stores them; else (j, j+len(InvFreq))
}

// AttentionSpec is the shape of one attention layer.
type AttentionSpec struct {
	Heads, KVHeads, HeadDim int
	Scale                   float32 // multiplies q·k
	Window                  int     // keys at most this many positions back, itself included; 0 means all
	SoftCap                 float32 // logits become SoftCap*tanh(logit/SoftCap); 0 means no cap
}
