package kernels

import "llmc/dtype"

// Matrix is the weight of y = W x, shape [rows, cols] = [out, in], in whatever
// numbers it is stored: dense, ggml blocks, or groups of integer codes.
type Matrix interface {
	// Shape returns the number of rows (outputs) and columns (inputs).
	Shape() (rows, cols int)
	// Row dequantizes row r exactly into dst, which has length cols.
	Row(dst []float32, r int)
	// Bytes is the storage of the codes and everything needed to read them.
	Bytes() int64
}

// Dense is a matrix of scalar numbers or ggml blocks, row after row as they
// lie in a file. Data is not copied and must stay valid.
type Dense struct {
	Rows, Cols int
	Type       dtype.Type // F32, F16, BF16, F64, F8E4M3, F8E5M2 or a block type that divides Cols
	Data       []byte     // [Rows, Type.RowBytes(Cols)]
}

// Groups is a matrix of integer codes with a scale, and for asymmetric codes
// a zero point, shared by a group of columns of one row:
//
//	w[r][c] = Scales[r][g] * (code[r][c] - Zeros[r][g]),  g = GroupOf[c] or c/GroupSize
//
// Per-channel quantization is one group of Cols columns.
type Groups struct {
	Rows, Cols int
	Bits       int       // 2 to 8
	GroupSize  int       // columns that share a scale; the last group may be short
	Codes      []byte    // [Rows, CodeBytes()]: unsigned codes, lowest bits first, each row padded to a byte
	Scales     []float32 // [Rows, groups]
	Zeros      []uint8   // [Rows, groups]; nil means 1<<(Bits-1) everywhere (symmetric)
	GroupOf    []int32   // [Cols] the group of each column when act-order permuted them; nil otherwise
}
